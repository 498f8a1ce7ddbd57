"""The Fenchel-Young loss: targets, the known offset, value and residual."""

from __future__ import annotations

import numpy as np

from ._arrays import all_finite
from ._oracles import Oracle, Ranks


def check_needs_no_gradient(y_true) -> None:
    """Losses have no derivative in their targets."""
    if getattr(y_true, "requires_grad", False):
        raise TypeError(
            "y_true requires a gradient, but the loss is differentiable in theta only; "
            "pass y_true.detach(), or the arguments in this order: theta, y_true"
        )


def check_loss_scores(oracle: Oracle, rows) -> None:
    """Scores must not make every loss infinite."""
    if isinstance(oracle, Ranks) and not all_finite(rows):
        raise ValueError(
            "theta has infinite scores, to which ranks give weight in every solution: their "
            "loss is infinite. Instead of -inf pass a score far below the others"
        )


def check_targets(y_true, targets: np.ndarray, oracle: Oracle, shape: tuple[int, ...]) -> None:
    """Targets must lie in the convex hull of the oracle's solutions."""
    check_needs_no_gradient(y_true)
    message = oracle.check_targets(targets, shape) if targets.size else None
    if message:
        raise ValueError(message)


def fenchel_young(
    theta: np.ndarray, maximum: np.ndarray, targets: np.ndarray, sign: float, offset: np.ndarray
) -> np.ndarray:
    """``Fbar - <theta, y> + offset``, (rows,); ``sign`` is -1 where scores are costs.

    A masked score (-inf) with target 0 contributes nothing; with a positive target the loss is
    infinite, as the target cannot be reached.
    """
    with np.errstate(invalid="ignore"):
        products = np.where(targets == 0, 0, theta.astype(np.float64) * targets)
        return maximum - sign * products.sum(-1) + offset
