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

from ._answers import answers, epsilon_derivative
from ._backend import host, put
from ._exact import Exact
from ._statistics import student_scores

NOISES = ("normal", "gumbel", "logistic")
SPELLED = {"normal": "normal", "gumbel": "Gumbel", "logistic": "logistic"}
"""The noises as a sentence writes them."""
OUTPUTS = ("value", "max", "vjp", "jvp", "jacobian")
DERIVATIVES = ("vjp", "jvp", "jacobian")
NAMES = {
    "value": "value",
    "max": "maximum",
    "vjp": "VJP",
    "jvp": "JVP",
    "jacobian": "Jacobian",
    "vjp_epsilon": "VJP in ε",
}
"""The outputs as a sentence writes them."""
REDUCTIONS = {
    "loo": "leave-one-out",
    "none": "plain",
    "antithetic": "antithetic",
    "qmc": "quasi-Monte-Carlo",
}
"""The variance reductions as a sentence writes them."""

_FEWEST_WINS = 1000
"""How often the rarest event must be expected in all, for the central limit theorem to reach
``|z| = 7``."""


@dataclass(frozen=True, eq=False)
class Case:
    """Scores of shape (rows, d), or costs (rows, H, W), representable in float32, and the layer.

    Grids are flattened in every answer.
    """

    name: str
    theta: np.ndarray
    epsilon: float | np.ndarray
    """A number, (rows,) numbers, or one for each entry of ``theta``."""
    noise: str
    oracle: dpo.Oracle = field(default_factory=dpo.Argmax)
    perturbation: str = "additive"

    @property
    def event(self) -> tuple[int, ...]:
        """The shape of one instance."""
        return self.theta.shape[1:]

    @ft.cached_property
    def direction(self) -> np.ndarray:
        """The cotangent of the VJP and the tangent of the JVP, (d,)."""
        d = int(np.prod(self.event))
        return in_float32(np.random.default_rng(d).normal(size=d))[0]

    @property
    def rows(self):
        """Scores and temperatures, row by row."""
        a_coordinate = np.shape(self.epsilon) == self.theta.shape
        shape = self.theta.shape if a_coordinate else len(self.theta)
        epsilon = np.broadcast_to(self.epsilon, shape)
        return zip(self.theta, epsilon, strict=True)

    @ft.cached_property
    def answers(self) -> list[Exact]:
        """The exact answers, row by row."""
        return [
            answers(self.oracle, theta, epsilon, self.noise, self.perturbation)
            for theta, epsilon in self.rows
        ]

    def shape(self, of: str) -> tuple[int, ...]:
        """Of the output ``of``, rows first."""
        rows, d = len(self.theta), int(np.prod(self.event))
        if of == "max" or (of == "vjp_epsilon" and np.shape(self.epsilon) != self.theta.shape):
            return (rows,)
        return (rows, d, d) if of == "jacobian" else (rows, d)

    def exact(self, of: str) -> np.ndarray:
        """The expectation of the output ``of``, rows first."""
        if of == "vjp_epsilon":
            return self._by_epsilon
        pick: dict[str, Callable] = {
            "value": lambda a: a.value,
            "max": lambda a: a.max,
            "vjp": lambda a: self.direction @ a.jacobian,
            "jvp": lambda a: a.jacobian @ self.direction,
            "jacobian": lambda a: a.jacobian,
        }
        return np.stack([pick[of](answers) for answers in self.answers])

    @ft.cached_property
    def _by_epsilon(self) -> np.ndarray:
        """``v^T d y_eps / d eps``, (rows,) or, with a temperature a coordinate, (rows, d)."""
        return np.stack(
            [
                self.direction
                @ epsilon_derivative(self.oracle, theta, epsilon, self.noise, self.perturbation)
                for theta, epsilon in self.rows
            ]
        )


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
    """The library itself: ``dpo.Perturbed.estimate`` on R copies of the case's rows.

    Derivatives in the temperature come without standard errors: NaN.
    """
    layer = layer_of(case, plan.num_samples, plan.variance_reduction)
    scores: np.ndarray = case.theta.astype(plan.dtype)
    theta = put(np.broadcast_to(scores, (plan.replicates, *scores.shape)))
    direction = put(case.direction.astype(plan.dtype).reshape(case.event))
    shape = (plan.replicates, *case.shape(plan.of))
    if plan.of == "vjp_epsilon":
        mean = host(layer.vjp_epsilon(theta, direction, seed=plan.seed))
        error = np.full_like(mean, np.nan)
    else:
        given = direction if plan.of in ("vjp", "jvp") else None
        estimate = layer.estimate(theta, of=plan.of, direction=given, seed=plan.seed)
        mean, error = host(estimate.mean), host(estimate.standard_error)
    return (
        mean.astype(np.float64).reshape(shape),
        error.astype(np.float64).reshape(shape),
    )


def layer_of(case: Case, num_samples: int | dpo.Adaptive, variance_reduction: str) -> dpo.Perturbed:
    """The layer for scores of shape (replicates, rows, ...)."""
    epsilon = case.epsilon
    if np.shape(epsilon) == case.theta.shape:
        epsilon = np.asarray(epsilon)[None]  # as many axes as the scores: a coordinate each
    return dpo.Perturbed(
        case.oracle,
        noise=case.noise,
        epsilon=epsilon,
        num_samples=num_samples,
        variance_reduction=variance_reduction,
        perturbation=case.perturbation,
    )


def capital(text: str) -> str:
    """The text with a capital first letter, as a sentence begins."""
    return text[:1].upper() + text[1:]


def bias_scores(draw: Draw, case: Case, plan: Plan) -> np.ndarray:
    """z-scores of "the mean of the replicates is the exact expectation", one an entry."""
    return compare(draw(case, plan)[0], case, plan)


def compare(estimates: np.ndarray, case: Case, plan: Plan) -> np.ndarray:
    """``bias_scores`` of replicates already drawn."""
    rarest = min(answer.rarest for answer in case.answers)
    wins = plan.replicates * plan.num_samples * rarest
    if wins < _FEWEST_WINS:
        raise ValueError(
            f"case {case.name!r} with {case.noise} noise expects only {wins:.0f} times its rarest "
            f"event; raise epsilon or the number of samples to reach {_FEWEST_WINS}"
        )
    return student_scores(estimates, case.exact(plan.of))


def in_float32(*rows) -> np.ndarray:
    """Scores rounded once, so that float32 and float64 runs share their exact answers."""
    return np.atleast_2d(np.asarray(rows, np.float32)).astype(np.float64)
