"""Exact expectations of the perturbed argmax in float64: no sampling anywhere.

For i.i.d. noise with CDF ``G`` and reverse hazard ``r = G' / G``, with ``U_i(t) = t - theta_i/eps``
and ``L(t) = sum_j log G(U_j(t))``, conditioning on the value ``t`` of the winner gives

    P_i          = int r(U_i) exp(L) dt                          y_eps(theta)
    F_eps        = eps int t exp(L) sum_i r(U_i) dt
    J_ik, i != k = -(1 / eps) int r(U_i) r(U_k) exp(L) dt        D_theta y_eps(theta)
    J_ii         = -sum_{k != i} J_ik                            probabilities sum to 1

The integrands are analytic and decay fast, so the plain trapezoid rule converges geometrically.
For Gumbel noise all three are closed forms of the softmax.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, log_expit, log_ndtr, logsumexp


class Exact(NamedTuple):
    """The exact answers for one row of scores."""

    value: np.ndarray
    """``y_eps``, (d,)."""
    max: float
    """``F_eps``."""
    jacobian: np.ndarray
    """``D y_eps``, (d, d)."""
    rarest: float
    """The probability of the rarest event that moves an estimate: that the least likely wins."""


class Law(NamedTuple):
    """A noise distribution as quadrature needs it."""

    log_cdf: Callable
    log_density: Callable
    reverse_hazard: Callable
    mean: float
    lowest: float
    """Below this the CDF is under 1e-17: nobody wins there."""
    highest: float
    """Above this the survival is under 1e-18."""
    step: float


def _normal_reverse_hazard(u):
    return np.exp(-0.5 * u * u - 0.5 * np.log(2 * np.pi) - log_ndtr(u))


LAWS = {
    "normal": Law(
        log_ndtr,
        lambda u: -0.5 * u * u - 0.5 * np.log(2 * np.pi),
        _normal_reverse_hazard,
        0.0,
        -9.0,
        9.0,
        0.125,
    ),
    "gumbel": Law(
        lambda u: -np.exp(-u),
        lambda u: -u - np.exp(-u),
        lambda u: np.exp(-u),
        float(np.euler_gamma),
        -4.0,
        45.0,
        0.125,
    ),
    "logistic": Law(
        log_expit,
        lambda u: log_expit(u) + log_expit(-u),
        lambda u: expit(-u),
        0.0,
        -42.0,
        45.0,
        0.25,
    ),
}


def by_quadrature(theta: ArrayLike, epsilon: float, noise: str, refine: int = 1) -> Exact:
    """All three answers by the trapezoid rule; ``refine`` divides the step."""
    rule = LAWS[noise]
    x = np.asarray(theta, np.float64) / epsilon
    step = rule.step / refine
    t = np.arange(x.max() + rule.lowest, x.max() + rule.highest + np.log(x.size), step)
    u = t[:, None] - x
    weight = step * np.exp(rule.log_cdf(u).sum(1))
    hazard = rule.reverse_hazard(u)
    jacobian = -(hazard * weight[:, None]).T @ hazard / epsilon
    np.fill_diagonal(jacobian, 0)
    np.fill_diagonal(jacobian, -jacobian.sum(1))
    value = weight @ hazard
    maximum = float(epsilon * (weight * t) @ hazard.sum(1))
    return Exact(value, maximum, jacobian, float(value.min()))


def softmax_answers(theta: ArrayLike, epsilon: float) -> Exact:
    """Gumbel noise: ``softmax(theta / eps)``, ``eps (logsumexp(theta / eps) + gamma)``."""
    x = np.asarray(theta, np.float64) / epsilon
    p = np.exp(x - logsumexp(x))
    jacobian = (np.diag(p) - np.outer(p, p)) / epsilon
    maximum = float(epsilon * (logsumexp(x) + np.euler_gamma))
    return Exact(p, maximum, jacobian, float(p.min()))


def exact_answers(theta: ArrayLike, epsilon: float, noise: str) -> Exact:
    """The closed form where there is one, quadrature elsewhere."""
    if noise == "gumbel":
        return softmax_answers(theta, epsilon)
    return by_quadrature(theta, epsilon, noise)
