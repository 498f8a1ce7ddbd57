"""``method="exact"`` under test, as a function of a case, beside answers that owe it nothing.

A ``Solve`` is the library, or a mutant of it that the same tests must reject. What it is compared
with is SciPy's: the quadratures and closed forms of ``_exact.py`` and ``_exact_oracles.py``, and
extrapolated central differences of them. Errors are in units of the problem, so that one limit fits
all: of 1, or of d for ranks, over the temperature once for every derivative.
"""

from __future__ import annotations

import dataclasses
import functools as ft
from collections.abc import Callable, Iterator

import numpy as np

import dpo

from ._answers import answers, derivative
from ._backend import call
from ._estimators import Case, in_float32, layer_of
from ._exact import LAWS, Exact
from ._problems import random_scores, small

Solve = Callable[[Case, str, type], np.ndarray]
"""From a case, an output and a precision to that output of every row, (rows, ...) float64."""

EXACT = ("argmax", "topk", "ranks")
"""The oracles that have an exact form."""
DIFFERENCED = {"vjp_epsilon": "derivative in ε", "second": "second-order product"}
"""Outputs whose independent answers are differences."""
LOSSES = {"loss": "loss", "match": "loss at a match"}


def from_exact(case: Case, of: str, dtype: type = np.float64) -> np.ndarray:
    """The library itself."""
    layer = dataclasses.replace(layer_of(case, 1, "loo"), method="exact")
    rows = case.theta, case.direction, case.direction[::-1]
    arrays: list[np.ndarray] = [
        np.broadcast_to(x, case.theta.shape).astype(dtype)[None] for x in rows
    ]
    theta, v, w = arrays
    calls: dict[str, Callable] = {
        "value": lambda: call(layer, theta),
        "max": lambda: call(layer.max, theta),
        "vjp": lambda: call(layer.vjp, theta, v),
        "jvp": lambda: call(layer.jvp, theta, v),
        "jacobian": lambda: call(layer.jacobian, theta),
        "vjp_epsilon": lambda: call(layer.vjp_epsilon, theta, v),
        "second": lambda: call(layer.second_order_product, theta, v, w),
        "loss": lambda: call(layer.loss, theta, _targets(case, dtype)[:, ::-1]),
        "match": lambda: call(layer.loss, theta, _targets(case, dtype)),
    }
    return calls[of]()[0].astype(np.float64)


def _targets(case: Case, dtype: type) -> np.ndarray:
    """A mean of solutions for every row, that at its own scores; SciPy's."""
    return expected(case, "value").astype(dtype)[None]


# ------------------------------------------------------------------------------------- the answers


@ft.cache
def expected(case: Case, of: str) -> np.ndarray:
    """The independent answer, rows first."""
    with np.errstate(over="ignore"):  # far down a tail, where exp(-exp(-u)) is 0 all the same
        if of == "second":
            return _second_order(case)
        if of == "loss":
            return _divergence(case)
        return np.zeros(len(case.theta)) if of == "match" else case.exact(of)


def _second_order(case: Case) -> np.ndarray:
    """``D^2 y [v, w]``: how the VJP changes along w."""
    v, w = case.direction, case.direction[::-1]

    def along(h: float, theta: np.ndarray, epsilon) -> np.ndarray:
        return v @ answers(case.oracle, theta + (h - 1) * w, epsilon, case.noise).jacobian

    return np.stack([derivative(ft.partial(along, theta=t, epsilon=e), 1.0) for t, e in case.rows])


def _divergence(case: Case) -> np.ndarray:
    """The loss whose target is the solution at ``theta_0``, here the row from the other end.

    ``eps Omega(y_eps(theta_0)) = <theta_0, y> - F(theta_0)``, so it is Bregman's divergence
    ``F(theta) - F(theta_0) - <theta - theta_0, y_eps(theta_0)>``.
    """
    maxima, values = case.exact("max"), case.exact("value")
    moves = (case.theta - case.theta[::-1]) * values[::-1]
    return maxima - maxima[::-1] - moves.sum(1)


def error_of(solve: Solve, case: Case, of: str, dtype: type) -> float:
    """The largest error in the output, in its unit; a NaN stays one."""
    got, exact = solve(case, of, dtype), expected(case, of)
    with np.errstate(invalid="ignore"):  # masked ranks have a maximum of -inf
        gaps = np.where(got == exact, 0, np.abs(got - exact))
    return float((gaps.reshape(len(gaps), -1).max(1) / _unit(case, of)).max())


def _unit(case: Case, of: str) -> np.ndarray:
    """(rows,): the size that the output has in a problem whose scores matter."""
    epsilon = np.stack([np.broadcast_to(e, theta.shape) for theta, e in case.rows])
    if of in ("max", *LOSSES):
        scores = np.where(np.isfinite(case.theta), np.abs(case.theta), 0)
        return expected(case, "value").sum(1) * (scores.max(1) + epsilon.max(1))
    size = case.theta.shape[1] if isinstance(case.oracle, dpo.Ranks) else 1
    return size / epsilon.min(1) ** {"value": 0, "second": 2}.get(of, 1)


# ------------------------------------------------------------------------------------ the problems


class Settled(Case):
    """Scores that are masked, or a million above or below; the others decide among themselves."""

    @ft.cached_property
    def answers(self) -> list[Exact]:
        """Those of the others, put back in their places."""
        return [self._put_back(theta, epsilon) for theta, epsilon in self.rows]

    def _put_back(self, theta: np.ndarray, epsilon: float) -> Exact:
        d, near = theta.size, np.abs(theta) < 1e5
        above, below = int((theta > 1e5).sum()), int((theta < -1e5).sum())
        oracle, floor = self.oracle, 0
        place = np.empty(d)
        place[np.lexsort((-np.arange(d), theta))] = np.arange(1, d + 1)
        if isinstance(oracle, dpo.Ranks):
            value, floor = place, below
        else:
            k = oracle.k if isinstance(oracle, dpo.TopK) else 1
            value, oracle = (place > d - k).astype(np.float64), dpo.TopK(k - above)
        inner = answers(oracle, theta[near], epsilon, self.noise)
        perturbed = np.where(value == 0, 0, theta) + epsilon * LAWS[self.noise].mean
        maximum = inner.max + floor * perturbed[near].sum() + (value * perturbed)[~near].sum()
        value[near] = inner.value + floor
        jacobian = np.zeros((d, d))
        jacobian[np.ix_(near, near)] = inner.jacobian
        return Exact(value, float(maximum), jacobian, inner.rarest)


_POWERS = 2.0 ** np.arange(-10, 11, 4)  # 1e-3 to 1e3
_WIDTHS = in_float32([0.25, 1.0, 0.5, 4.0, 2.0])
_MASKED = in_float32(
    [-np.inf, 0.3, -np.inf, 0.1, 0.7, 0.2],
    [0.3, 0.3, 0.3, 0.3, 0.3, -np.inf],
)
_DISTANT = in_float32([-1e6, 0.5, 0.25, 0.5, -2e6, 0.75, -0.5])
_SOLVERS = {
    "argmax": ((dpo.Argmax(),), (dpo.Argmax(),)),
    "topk": ((dpo.TopK(2), dpo.TopK(3)), (dpo.TopK(5), dpo.TopK(15))),
    "ranks": ((dpo.Ranks(),), (dpo.Ranks(),)),
}
"""For five coordinates, and for twenty."""


@ft.cache
def cases(oracle: str, noise: str, family: str) -> tuple[Case, ...]:
    """The problems of a family, made once."""
    return tuple(_FAMILIES[family](oracle, noise))


def _plain(oracle: str, noise: str) -> Iterator[Case]:
    few, many = _SOLVERS[oracle]
    five = small(oracle, noise).theta
    for solver in few:
        yield Case(f"{solver} of 5", five, 0.75, noise, solver)
    for solver in many:
        yield Case(f"{solver} of 20", random_scores(2, 20), 1.0, noise, solver)
    if oracle != "topk":
        yield Case(f"{many[0]} of 300", random_scores(1, 300), 0.5, noise, many[0])


def _temperatures(oracle: str, noise: str) -> Iterator[Case]:
    theta = np.repeat(small(oracle, noise).theta, len(_POWERS), axis=0)
    solver = _SOLVERS[oracle][0][0]
    yield Case("ε from 1e-3 to 1e3", theta, _POWERS, noise, solver)
    yield Case("a temperature a coordinate", theta[:1], _WIDTHS, noise, solver)


def _settled(oracle: str, noise: str) -> Iterator[Case]:
    solver = _SOLVERS[oracle][0][0]
    yield Settled("masks and ties", _MASKED, 0.5, noise, solver)
    distant = _DISTANT.copy()
    if oracle != "argmax":
        distant[:, 2] = 3e6
    yield Settled("distant scores", distant, 0.5, noise, solver)


def _derivatives(oracle: str, noise: str) -> Iterator[Case]:
    for solver in _SOLVERS[oracle][0]:
        yield Case(f"{solver} of 5", small(oracle, noise).theta, 0.75, noise, solver)
    yield from (case for case in _temperatures(oracle, noise) if np.ndim(case.epsilon) == 2)


def _losses(oracle: str, noise: str) -> Iterator[Case]:
    theta = np.random.default_rng(5).normal(size=(12, 4)).astype(np.float32)
    solver = _SOLVERS[oracle][0][0]
    yield Case("12 rows of d = 4", theta.astype(np.float64), 0.75, noise, solver)


_FAMILIES = {
    "plain": _plain,
    "temperatures": _temperatures,
    "settled": _settled,
    "derivatives": _derivatives,
    "losses": _losses,
}
