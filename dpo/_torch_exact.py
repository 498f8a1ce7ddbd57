"""Exact expectations in torch operations: derivatives of any order, where kernels stop at two.

Up to a constant, ``F_eps`` is a sum over fixed nodes of smooth functions of the chances
``G_j(t) = P(X_j <= t)``, everything else its derivatives, which torch takes:

    argmax  -int prod_j G_j dt
    top-k   -int sum_{n < k} (k - n) P(#{j : X_j > t} = n) dt
    ranks   sum_i E X_i - int sum_{i < j} G_i G_j dt

Plain and unfused, O(rows nodes d) memory, k times that for top-k: for second derivatives of
gradients, not for training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from .kernels.exact import nodes
from .kernels.noise import FAMILIES, GUMBEL, NORMAL

if TYPE_CHECKING:
    from ._exact import Expectation

_MAX_TERMS = 2**24  # of 8 bytes, some thirty times over in the graph of a third derivative
_ORDER = 4  # of derivatives, for which nodes are fine enough


def potential(exact: Expectation, theta: torch.Tensor, epsilon: torch.Tensor) -> torch.Tensor:
    """``F_eps`` up to a constant, (rows,), of theta (rows, d) and epsilon (rows, 1 or d)."""
    theta, epsilon = theta.double(), epsilon.double()
    problem, family = exact.whole.problem, exact.whole.draws.family
    t, step = _nodes(exact)
    u = (t[:, :, None] - theta[:, None]) / epsilon[:, None]
    log_cdf = _log_cdf(family, u)
    if problem.oracle == "argmax":
        integrand = -log_cdf.sum(-1).exp()
    elif problem.oracle == "topk":
        integrand = -_shortfall(log_cdf.exp(), problem.options[0])
    else:
        cdf = log_cdf.exp()
        integrand = -0.5 * (cdf.sum(-1) ** 2 - (cdf**2).sum(-1))
    value = step * integrand.sum(-1)
    if problem.oracle == "ranks":
        value = value + (theta + FAMILIES[family].mean * epsilon).sum(-1)
    return value


def optimum(exact: Expectation, theta: torch.Tensor, epsilon: torch.Tensor) -> torch.Tensor:
    """``y_eps``, differentiable to any order."""
    with torch.enable_grad():
        return _gradient(potential(exact, theta, epsilon).sum(), theta)


def product(exact: Expectation, theta, epsilon, v: torch.Tensor) -> torch.Tensor:
    """``J v``, likewise."""
    with torch.enable_grad():
        return _gradient((optimum(exact, theta, epsilon) * v).sum(), theta)


def _gradient(value: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(value, theta, create_graph=True)[0]


def _log_cdf(family: int, u: torch.Tensor) -> torch.Tensor:
    if family == NORMAL:
        return torch.special.log_ndtr(u)
    return -torch.exp(-u) if family == GUMBEL else torch.nn.functional.logsigmoid(u)


def _shortfall(cdf: torch.Tensor, k: int) -> torch.Tensor:
    """``E max(k - #{j : X_j > t}, 0)``, from the Poisson-binomial chances of 0 .. k - 1."""
    chances = [torch.ones_like(cdf[..., 0])] + [torch.zeros_like(cdf[..., 0])] * (k - 1)
    for below in cdf.unbind(-1):
        above = 1 - below
        moved = [torch.zeros_like(below)] + [above * c for c in chances[:-1]]
        chances = [below * c + m for c, m in zip(chances, moved, strict=True)]
    weights = torch.arange(k, 0, -1, dtype=cdf.dtype)
    return (torch.stack(chances, -1) * weights).sum(-1)


def _nodes(exact: Expectation) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes over all locations of a row, (rows, n), and their distance, (rows,)."""
    theta, epsilon = exact.theta.astype(np.float64), exact.epsilon
    problem, family = exact.whole.problem, exact.whole.draws.family
    d = theta.shape[1]
    tolerance = exact.tolerance or nodes.default_tolerance(np.dtype(np.float64))
    k = problem.options[0] if problem.oracle == "topk" else 1
    given = family, max(d, 4), tolerance, _ORDER, max(1, min(k, d - k))
    rule = nodes.rules(*given)[-1]
    finite = np.isfinite(theta)
    low = np.where(finite, theta + rule[1] * epsilon, np.inf).min(1)
    high = np.where(finite, theta + rule[2] * epsilon, -np.inf).max(1)
    step = min(rule[0], nodes.rules(*given, mirrored=True)[-1][0]) * epsilon.min(1)
    count = int(np.ceil(((high - low) / step).max(initial=1))) + 1
    if not finite.all() or count * theta.size * k > _MAX_TERMS:
        raise NotImplementedError(
            "derivatives of this order are for finite scores whose spread is not too many "
            f"temperatures (here {count} nodes for {theta.shape[0]} x {d} scores); "
            "use lower-order methods such as layer.second_order_product"
        )
    t = low[:, None] + step[:, None] * np.arange(count)
    return torch.from_numpy(t), torch.from_numpy(step)
