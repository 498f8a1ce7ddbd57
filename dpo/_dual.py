"""``eps Omega(y)``, the Fenchel dual of ``F_eps``: what makes the loss zero at a match.

    eps Omega(y) = sup_theta <theta, y> - F_eps(theta)

attained where ``y_eps(theta) = y``. At a solution y (a vertex of C) it is ``-eps <y, E Z>``. Inside
C it is found by a trust-region Newton method on exact gradients and Hessian products. On a face the
supremum is approached as some differences of scores go to infinity: the problem splits into
independent ones of the same kind, on the coordinates of the face that still vary. Gumbel noise and
the argmax have ``eps sum_i y_i log y_i - eps gamma`` (MATH: section 3).

The derivative in ``eps_i`` is ``-E[y_i Z_i]`` at the maximiser, since it is that of ``-F_eps``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.special import xlogy

from ._device import as_host
from ._engine import Sampler
from ._exact import Expectation
from .kernels.codes import Draws, Problem
from .kernels.noise import FAMILIES, GUMBEL, law_of

_GRADIENT = 1e-8
"""What may be left of the gradient in scaled scores; the value then errs by about its square."""
_ITERATIONS = 100


def vertex_offset(whole: Sampler) -> tuple[np.ndarray, np.ndarray]:
    """``eps Omega`` of any vertex, (rows,), and its derivative in eps; 0 where vertices differ."""
    problem, epsilon = whole.problem, as_host(whole.epsilon).astype(np.float64)
    slope = np.zeros(epsilon.shape)
    if problem.total is not None and epsilon.shape[1] == 1:
        slope[:] = -law_of(whole.draws.family).mean * problem.total
    return (slope * epsilon).sum(1), slope


def entropy_offset(targets: np.ndarray, epsilon: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gumbel argmax: ``eps (sum_i y_i log y_i - gamma)`` and its derivative in eps."""
    y = np.maximum(targets, 0).astype(np.float64)
    slope = xlogy(y, y).sum(1, keepdims=True) - np.euler_gamma
    return (slope * epsilon)[:, 0], slope


def exact_offset(whole: Sampler, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``eps Omega(y)`` of every row, (rows,), and its derivative in the row's temperatures."""
    rows, d = targets.shape
    temperatures = as_host(whole.epsilon).astype(np.float64)
    value, slope = np.zeros(rows), np.zeros((rows, d))
    tiny = 1e-12 if targets.dtype == np.float64 else 1e-6
    for b in range(rows):
        y = targets[b].astype(np.float64)
        epsilon = np.broadcast_to(temperatures[b], d)
        mean = FAMILIES[whole.draws.family].mean
        for problem, index, low in faces(whole.problem, y, tiny):
            # Of a face with ``low`` coordinates certainly below it every rank is that much larger.
            inner, moments = _solve(problem, y[index] - low, epsilon[index], whole.draws)
            moments = moments + low * mean
            value[b] += inner - low * mean * epsilon[index].sum()
            slope[b, index] = -moments
    if temperatures.shape[1] == 1:  # eps times a constant
        return value, value[:, None] / temperatures
    return value, slope


def faces(
    problem: Problem, y: np.ndarray, tiny: float
) -> Iterator[tuple[Problem, np.ndarray, int]]:
    """Split a target into problems whose targets are interior: problem, coordinates, offset.

    A coordinate that every solution of the face takes alike is a problem of its own (of one
    coordinate whose value is 1) or, where it is 0, none.
    """
    if problem.oracle == "ranks":
        order = np.argsort(y, kind="stable")
        sums = np.cumsum(y[order])
        m = np.arange(1, len(y) + 1)
        ends = np.flatnonzero(sums - m * (m + 1) / 2 <= tiny * m * m) + 1
        ends[-1:] = len(y)
        for low, end in zip([0, *ends[:-1]], ends, strict=True):
            size = end - low
            yield problem._replace(total=size * (size + 1) / 2), order[low:end], int(low)
        return
    k = problem.options[0] if problem.oracle == "topk" else 1
    certain = np.flatnonzero(y >= 1 - tiny)
    for i in certain:
        yield Problem(total=1.0), np.array([i]), 0
    between = np.flatnonzero((y > tiny) & (y < 1 - tiny))
    if len(between):
        left = k - len(certain)
        yield problem._replace(options=(left,), total=float(left)), between, 0


def _solve(
    problem: Problem, y: np.ndarray, epsilon: np.ndarray, draws: Draws
) -> tuple[float, np.ndarray]:
    """``sup <theta, y> - F(theta)`` for an interior y, and ``E[y_i Z_i]`` where it is attained."""
    n = len(y)
    if n == 1:  # y = 1
        mean = FAMILIES[draws.family].mean
        return -mean * float(epsilon[0]), np.array([mean])
    same = np.ptp(epsilon) == 0
    y = y * (problem.total / y.sum())
    if problem.oracle == "argmax" and draws.family == GUMBEL and same:
        moments = y * np.euler_gamma - xlogy(y, y)
        return -float(epsilon[0] * moments.sum()), moments

    start, scale = _start(problem, y, epsilon, draws.family)

    def expectation(x):
        row = (epsilon[:1] if same else epsilon)[None]
        return Expectation(Sampler(problem, (scale * x)[None], row, draws))

    def objective(x):
        value, _, mean = expectation(x).maximum()
        return float(value[0] - (scale * x) @ y), scale * (mean[0] - y)

    def product(x, v):
        return scale * expectation(x).vjp((scale * v)[None])[0][0]

    from scipy.optimize import minimize  # SciPy's optimisers, only where one is needed

    result = minimize(
        objective,
        start / scale,
        jac=True,
        hessp=product,
        method="trust-ncg",
        options={
            "gtol": _GRADIENT,
            "maxiter": _ITERATIONS,
            "initial_trust_radius": 10.0,
            "max_trust_radius": 1e4,
        },
    )
    return -float(result.fun), expectation(result.x).moments()[0]


def _start(
    problem: Problem, y: np.ndarray, epsilon: np.ndarray, family: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose optimum is near y, and the scale of each: the root of a variance.

    As if the others made a fixed threshold, which a variable exceeds with probability ``y_i``; its
    density there is then the curvature. Ranks, which are sums of such events, likewise.
    """
    law, n = FAMILIES[family], len(y)
    share = (y - 0.5) / n if problem.oracle == "ranks" else y
    share = np.clip(share, 1e-300, 1 - 1e-16)
    excess = law.upper_quantile(share)
    slope = np.exp(law.log_density(excess)) / epsilon
    theta = -epsilon * excess
    if problem.oracle == "ranks":
        slope = slope * n
    return theta - theta.mean(), 1 / np.sqrt(np.maximum(slope, 1e-30))
