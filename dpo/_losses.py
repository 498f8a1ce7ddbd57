"""The Fenchel-Young loss of the argmax: targets, the known offset, value and residual."""

from __future__ import annotations

import numpy as np

from ._engine import Sampler

_TOLERANCE = 1e-3  # of float16 targets


def check_targets(y_true, targets: np.ndarray) -> None:
    """Targets must lie in the simplex, the convex hull of the argmax's solutions."""
    if getattr(y_true, "requires_grad", False):
        raise TypeError(
            "y_true requires a gradient, but the loss is differentiable in theta only; "
            "pass y_true.detach()"
        )
    sums = targets.sum(-1, dtype=np.float64)
    if targets.size and (targets.min() < -_TOLERANCE or np.abs(sums - 1).max() > _TOLERANCE):
        row = int(np.argmax((targets.min(-1) < -_TOLERANCE) | (np.abs(sums - 1) > _TOLERANCE)))
        raise ValueError(
            f"y_true must be one-hot or a mean of one-hot rows (non-negative, summing to 1), but "
            f"row {row} has minimum {targets[row].min():g} and sum {sums[row]:g}; for class labels "
            "pass numpy.eye(d)[labels]"
        )


def negative_entropy_offset(targets: np.ndarray) -> np.ndarray:
    """``Omega(y)`` of the Gumbel argmax: ``sum_i y_i log y_i - gamma``, (rows,) float64."""
    y = np.maximum(targets, 0).astype(np.float64)
    return np.where(y > 0, y * np.log(np.where(y > 0, y, 1)), 0).sum(-1) - np.euler_gamma


def fenchel_young(
    sampler: Sampler, targets: np.ndarray, offset: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``Fbar - <theta, y> + offset`` and its gradient ``ybar - y``.

    A masked score (-inf) with target 0 contributes nothing; with a positive target the loss is
    infinite, as the target cannot be reached.
    """
    maximum, _, mean = sampler.maximum()
    with np.errstate(invalid="ignore"):
        products = np.where(targets == 0, 0, sampler.theta.astype(np.float64) * targets)
        value = maximum.astype(np.float64) - products.sum(-1) + offset
    return value.astype(sampler.theta.dtype), mean - targets
