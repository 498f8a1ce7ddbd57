"""The estimators under test, drawn as independent replicates, beside their exact expectations.

Batch rows draw independent noise, so R copies of the same scores are R independent replicates of
an estimate, and their spread is a standard error that needs no asymptotics. A ``Draw`` is anything
that makes such replicates: the library, or a mutant of it that the same tests must reject.
"""

from __future__ import annotations

import functools as ft
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

import dpo

from ._exact import Exact, exact_answers
from ._statistics import student_scores

NOISES = ("normal", "gumbel", "logistic")
SPELLED = {"normal": "normal", "gumbel": "Gumbel", "logistic": "logistic"}
"""The noises as a sentence writes them."""
OUTPUTS = ("value", "max", "vjp", "jvp", "jacobian")
DERIVATIVES = ("vjp", "jvp", "jacobian")
REDUCTIONS = ("loo", "none")

_FEWEST_WINS = 1000
"""Wins each coordinate must expect in all, for the central limit theorem to reach ``|z| = 7``."""


@dataclass(frozen=True, eq=False)
class Case:
    """Scores of shape (rows, d), representable in float32, with a temperature and a noise."""

    name: str
    theta: np.ndarray
    epsilon: float
    noise: str

    @ft.cached_property
    def direction(self) -> np.ndarray:
        """The cotangent of the VJP and the tangent of the JVP, (d,)."""
        d = self.theta.shape[-1]
        return in_float32(np.random.default_rng(d).normal(size=d))[0]

    @ft.cached_property
    def answers(self) -> list[Exact]:
        """The exact answers, row by row."""
        return [exact_answers(row, self.epsilon, self.noise) for row in self.theta]

    def exact(self, of: str) -> np.ndarray:
        """The expectation of the output ``of``, rows first."""
        pick: dict[str, Callable] = {
            "value": lambda a: a.value,
            "max": lambda a: a.max,
            "vjp": lambda a: self.direction @ a.jacobian,
            "jvp": lambda a: a.jacobian @ self.direction,
            "jacobian": lambda a: a.jacobian,
        }
        return np.stack([pick[of](answers) for answers in self.answers])


@dataclass(frozen=True)
class Plan:
    """Which estimator to draw, how often, and from how many samples each."""

    of: str
    replicates: int
    num_samples: int
    seed: int
    variance_reduction: str = "loo"
    dtype: type = field(default=np.float32)


Draw = Callable[[Case, Plan], tuple[np.ndarray, np.ndarray]]
"""From a case and a plan to estimates and standard errors, each (replicates, rows, ...) float64."""


def from_library(case: Case, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """The library itself: ``dpo.Perturbed.estimate`` on R copies of the case's rows."""
    layer = dpo.Perturbed(
        noise=case.noise,
        epsilon=case.epsilon,
        num_samples=plan.num_samples,
        variance_reduction=plan.variance_reduction,
    )
    theta: np.ndarray = np.tile(case.theta.astype(plan.dtype), (plan.replicates, 1, 1))
    direction: np.ndarray | None = None
    if plan.of in ("vjp", "jvp"):
        direction = case.direction.astype(plan.dtype)
    mean, error, _ = layer.estimate(theta, of=plan.of, direction=direction, seed=plan.seed)
    return mean.astype(np.float64), error.astype(np.float64)


def bias_scores(draw: Draw, case: Case, plan: Plan) -> np.ndarray:
    """z-scores of "the mean of the replicates is the exact expectation", one an entry."""
    return compare(draw(case, plan)[0], case, plan)


def compare(estimates: np.ndarray, case: Case, plan: Plan) -> np.ndarray:
    """``bias_scores`` of replicates already drawn."""
    wins = plan.replicates * plan.num_samples * case.exact("value").min()
    if wins < _FEWEST_WINS:
        raise ValueError(
            f"case {case.name!r} with {case.noise} noise expects only {wins:.0f} wins of its "
            f"rarest coordinate; raise epsilon or the number of samples to reach {_FEWEST_WINS}"
        )
    return student_scores(estimates, case.exact(plan.of))


def in_float32(*rows) -> np.ndarray:
    """Scores rounded once, so that float32 and float64 runs share their exact answers."""
    return np.atleast_2d(np.asarray(rows, np.float32)).astype(np.float64)


THREE = in_float32([-0.6, -0.5, 0.5])
FIVE = in_float32([-0.6, 1.9, -0.2, 1.1, -1.0])


def random_scores(rows: int, d: int) -> np.ndarray:
    """Fixed scores, spread so little that every coordinate wins now and then, (rows, d)."""
    scores = np.random.default_rng(1000 + d).uniform(-0.6, 0.6, size=(rows, d))
    return scores.astype(np.float32).astype(np.float64)
