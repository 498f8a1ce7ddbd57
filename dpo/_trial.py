"""A solver of any kind, as a function of a batch of scores, and the scores it is tried on.

``check_oracle`` draws scores once, float32 numbers in float64: the neighbours of a few centres, as
the samples of a perturbed optimizer are.
"""

from __future__ import annotations

import functools as ft
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from ._arrays import as_scores
from ._checks import class_hint
from ._engine import Sampler
from ._noise import Normal
from ._oracles import Oracle, as_oracle
from .kernels.codes import Draws

TOLERANCE = 1e-6
"""By how much a real solution may be off, relative to its size."""

# ------------------------------------------------------------------------------------- the solver


@dataclass(frozen=True)
class Candidate:
    """Any oracle, as a function of a batch of scores."""

    name: str
    fun: Callable
    shape: tuple[int, ...]
    batched: bool = True
    sign: float = 1.0
    """-1 where scores are costs."""
    total: float | None = None
    lower: float | None = None
    asarray: Callable = np.asarray

    def calls(self, theta: np.ndarray) -> Iterator:
        """What the function itself returns, once or for each instance."""
        for x in [theta] if self.batched else theta:
            yield self.fun(self.asarray(x))

    def __call__(self, theta: np.ndarray) -> np.ndarray:
        """Solutions of the rows of ``theta``, copies in float64; raises ``Fault``."""
        solutions = [np.array(np.asarray(y)) for y in self.calls(theta.copy())]
        expected = theta.shape if self.batched else self.shape
        for y in solutions:
            if y.shape != expected or y.dtype.kind not in "biuf":
                raise Fault(
                    f"returned {y.dtype} of shape {y.shape} for scores of shape {expected}: "
                    "solutions must be numbers, one a score" + self.hint
                )
        result = np.asarray(solutions, np.float64).reshape(theta.shape)
        if not np.isfinite(result).all():
            row = np.argwhere(~np.isfinite(result))[0, 0]
            raise Fault(f"returned NaN or infinity: {show(result[row])} for {show(theta[row])}")
        return result

    @property
    def hint(self) -> str:
        """What may be wrong with how a function is called."""
        if not self.batched:
            return ""
        return "; if it solves one instance at a time, pass batched=False"

    def objectives(self, theta: np.ndarray, points: np.ndarray) -> np.ndarray:
        """``<y, theta>`` of all pairs, to be maximised, (scores, points)."""
        seen = theta if self.lower is None else np.maximum(theta, self.lower)
        return self.sign * seen.reshape(len(theta), -1) @ points.reshape(len(points), -1).T


class Fault(Exception):
    """What a solver did wrong, in the middle of a check."""


def as_candidate(oracle, shape, batched, minimizes, total, lower, asarray) -> Candidate:
    """The solver of an oracle, a layer, or a function; what it declares is the default."""
    oracle = getattr(oracle, "oracle", oracle)
    if isinstance(oracle, Oracle):
        given = dict(batched=batched, minimizes=minimizes, total=total, lower=lower)
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"{name} is for functions: {oracle!r} knows its own")
        return _of_oracle(as_oracle(oracle), shape)
    fun = getattr(oracle, "fun", oracle)
    if not callable(fun) or isinstance(fun, type):
        raise TypeError(
            f"oracle must be a dpo oracle or a function of scores, got {fun!r}{class_hint(fun)}"
        )
    if shape is None:
        raise ValueError("the size of an instance is needed: pass d=10, or shape=(8, 12) for grids")
    if batched is None:
        batched = getattr(oracle, "batched", True)
    if minimizes is None:
        minimizes = getattr(oracle, "minimizes", False)
    name = getattr(fun, "__name__", type(fun).__name__)
    return Candidate(name, fun, shape, batched, -1.0 if minimizes else 1.0, total, lower, asarray)


def _of_oracle(oracle: Oracle, shape: tuple[int, ...] | None) -> Candidate:
    shape = shape or _default_shape(oracle)
    if len(shape) != oracle.event_ndim:
        raise ValueError(f"an instance of {oracle!r} has {oracle.event_ndim} axes, got {shape}")
    problem = oracle.problem((1, *shape))
    return Candidate(
        name=repr(oracle),
        fun=ft.partial(_solve, oracle),
        shape=shape,
        sign=-1.0 if problem.minimises else 1.0,
        total=problem.total,
        lower=getattr(oracle, "min_cost", None),
    )


def _solve(oracle: Oracle, theta: np.ndarray) -> np.ndarray:
    """The compiled solver on the scores themselves: a sample at temperature 0."""
    scores = as_scores(theta, "theta", oracle.event_ndim)
    epsilon = np.zeros((len(scores.rows), 1), scores.rows.dtype)
    draws = Draws(Normal().family, seed=(0, 0), num_samples=1)
    sampler = Sampler(oracle.problem(scores.shape), scores.rows, epsilon, draws)
    return sampler.solutions().reshape(theta.shape)


def _default_shape(oracle: Oracle) -> tuple[int, ...]:
    """Twice the least size that fits, so that there is something to choose."""
    size = 3
    while size < 2**16:
        shape = (size,) * oracle.event_ndim
        try:
            oracle.problem((1, *shape))
        except ValueError:
            size *= 2
            continue
        return tuple(2 * n for n in shape)
    raise ValueError(f"no default size fits {oracle!r}: pass d= or shape= of one instance")


# ------------------------------------------------------------------------------------- the probes


class Trial:
    """A solver, the scores it is tried on, and what it returned for them."""

    def __init__(self, solver: Candidate, known: np.ndarray, num_probes: int, seed: int):
        self.solver, self.known = solver, known
        rng = np.random.default_rng(seed)
        size = (-(-num_probes // 4), 1, *solver.shape)
        width = np.array([0.0, 0.1, 0.5, 1.0]).reshape(4, *(1,) * len(solver.shape))
        centres = 2 * rng.standard_normal(size)
        neighbours = centres + width * rng.standard_normal((size[0], 4, *solver.shape))
        self.signed = _single(neighbours).reshape(-1, *solver.shape)[:num_probes]
        """Scores of either sign."""
        lower = max(0.0, solver.lower or 0.0)
        self.positive = _single(np.abs(self.signed) + lower)
        """Positive scores that nobody clips."""
        levels = rng.integers(1, 4, self.signed.shape)
        levels[0] = 1
        self.tied = levels + float(math.ceil(lower))
        """Positive integers, many of them equal; all are in the first row."""

    @ft.cached_property
    def of_positive(self) -> np.ndarray:
        return self.solver(self.positive)

    @ft.cached_property
    def of_signed(self) -> np.ndarray:
        return self.solver(self.signed)

    @ft.cached_property
    def of_tied(self) -> np.ndarray:
        return self.solver(self.tied)

    def beaten(self, theta: np.ndarray, own: np.ndarray, points: np.ndarray) -> str | None:
        """Where a point, seen or known, beats a solution of ``theta``, or None."""
        points = np.concatenate([points, self.known])
        gap, best = _gaps(self.solver, theta, own, points)
        i = int(np.argmax(gap))
        if gap[i] <= 0:
            return None
        mine, other = (show(y) for y in (own[i], points[best[i]]))
        both = np.stack([own[i], points[best[i]]])
        here, there = self.solver.sign * self.solver.objectives(theta[i : i + 1], both)[0]
        return (
            f"for scores {show(theta[i])} it returns {mine}, of objective {here:.6g}, but {other} "
            f"has {there:.6g}"
        )

    def is_opposite(self) -> bool:
        """Whether its solutions are the worst that are known, not the best."""
        opposite = replace(self.solver, sign=-self.solver.sign)
        points = np.concatenate([self.of_positive, self.known])
        gap, _ = _gaps(opposite, self.positive, self.of_positive, points)
        return bool((gap <= 0).all())


def _gaps(solver: Candidate, theta: np.ndarray, own: np.ndarray, points: np.ndarray):
    """By how much the best point beats each solution, beyond rounding; and which point it is."""
    objectives = solver.objectives(theta, points)
    mine, best = np.diagonal(solver.objectives(theta, own)), objectives.argmax(1)
    terms = np.abs(theta) * (np.abs(own) + np.abs(points[best]))
    rounding = TOLERANCE * terms.reshape(len(theta), -1).sum(1)
    return objectives.max(1) - mine - rounding, best


def _single(x: np.ndarray) -> np.ndarray:
    """Rounded to float32's numbers, so that both precisions see the same scores."""
    return x.astype(np.float32).astype(np.float64)


def show(x: np.ndarray) -> str:
    """A few entries, on one line."""
    text = np.array2string(x.ravel(), precision=3, threshold=10, edgeitems=4, separator=", ")
    return text.replace("\n", "")


def differing_row(a: np.ndarray, b: np.ndarray) -> int | None:
    """The first row in which solutions differ, if any does."""
    gap = np.abs(a - b).reshape(len(a), -1).max(1)
    rows = np.flatnonzero(gap > TOLERANCE * max(1.0, np.abs(a).max()))
    return int(rows[0]) if rows.size else None
