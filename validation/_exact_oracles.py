"""Exact expectations for top-k and ranks, with a temperature a coordinate if need be.

What a sample sees are independent variables ``X_i = theta_i + eps_i Z_i`` with densities ``f_i``
and CDFs ``G_i``. Conditioning on ``X_i = t``, with ``N_i`` the number of others above ``t`` and
``N_ik`` that of all but ``i`` and ``k``, both Poisson-binomial:

    top-k   y_i = int f_i P(N_i < k) dt             J_ik = -int f_i f_k P(N_ik = k - 1) dt
            F   = int t sum_i f_i P(N_i < k) dt
    ranks   y_i = 1 + sum_{j != i} int f_i G_j dt   J_ik = -int f_i f_k dt
            F   = int t sum_i f_i (1 + sum_{j != i} G_j) dt

for ``i != k``; rows of ``J`` sum to zero, since moving all scores alike changes nothing. Ranks are
sums of comparisons, ``<y, X> = sum_i X_i + sum_{i<j} max(X_i, X_j)``, and ``k = 1`` is the argmax.
Integrands are analytic and decay fast: the trapezoid rule converges geometrically.
"""

from __future__ import annotations

import itertools as it
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ._exact import LAWS, Exact


class Variables(NamedTuple):
    """Independent variables along a common axis."""

    t: np.ndarray
    """(nodes,), evenly spaced."""
    density: np.ndarray
    """(nodes, n)."""
    cdf: np.ndarray
    """(nodes, n)."""

    def integral(self, values: np.ndarray) -> np.ndarray:
        """``int values dt`` over the first axis."""
        return (self.t[1] - self.t[0]) * values.sum(0)


def axis(theta: np.ndarray, epsilon: np.ndarray, noise: str, refine: float = 1) -> np.ndarray:
    """Nodes that resolve the narrowest of the variables and hold the widest."""
    law = LAWS[noise]
    first = (theta + law.lowest * epsilon).min()
    last = (theta + (law.highest + np.log(theta.size)) * epsilon).max()
    return np.arange(first, last, law.step * epsilon.min() / refine)


def variables(theta: ArrayLike, epsilon: ArrayLike, noise: str, refine: int = 1) -> Variables:
    """``theta_i + eps_i Z_i``; ``refine`` divides the step."""
    law = LAWS[noise]
    theta = np.asarray(theta, np.float64)
    epsilon = np.broadcast_to(np.asarray(epsilon, np.float64), theta.shape)
    t = axis(theta, epsilon, noise, refine)
    u = (t[:, None] - theta) / epsilon
    return Variables(t, np.exp(law.log_density(u)) / epsilon, np.exp(law.log_cdf(u)))


def topk_answers(x: Variables, k: int) -> Exact:
    """The ``k`` largest."""
    n = x.density.shape[1]
    others = np.array([_exceeding(np.delete(x.cdf, i, 1), k).sum(0) for i in range(n)]).T
    inside = x.density * others
    jacobian = np.zeros((n, n))
    for i, j in it.combinations(range(n), 2):
        decisive = _exceeding(np.delete(x.cdf, (i, j), 1), k)[-1]
        jacobian[i, j] = jacobian[j, i] = -x.integral(x.density[:, i] * x.density[:, j] * decisive)
    value = x.integral(inside)
    rarest = min(value.min(), 1 - value.max()) if k < n else 1.0
    return Exact(value, _maximum(x, inside), _closed(jacobian), float(rarest))


def ranks_answers(x: Variables) -> Exact:
    """Ascending ranks, 1 .. d."""
    step = x.t[1] - x.t[0]
    above = step * x.density.T @ x.cdf  # [i, j] = P(X_j < X_i)
    np.fill_diagonal(above, 1)
    inside = x.density * (1 + x.cdf.sum(1, keepdims=True) - x.cdf)
    jacobian = -step * x.density.T @ x.density
    return Exact(above.sum(1), _maximum(x, inside), _closed(jacobian), float(above.min()))


def _exceeding(cdf: np.ndarray, k: int) -> np.ndarray:
    """``P(exactly n of the variables exceed t)`` for ``n < k``, (k, nodes), one by one."""
    chances = np.zeros((k, len(cdf)))
    chances[0] = 1
    for below in cdf.T:
        chances[1:] = chances[1:] * below + chances[:-1] * (1 - below)
        chances[0] *= below
    return chances


def _maximum(x: Variables, inside: np.ndarray) -> float:
    return float(x.integral(x.t * inside.sum(1)))


def _closed(jacobian: np.ndarray) -> np.ndarray:
    """The diagonal from the other entries."""
    np.fill_diagonal(jacobian, 0)
    np.fill_diagonal(jacobian, -jacobian.sum(1))
    return jacobian
