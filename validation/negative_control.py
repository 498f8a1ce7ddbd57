"""Tests that cannot fail prove nothing: wrong estimators, which the same tests must reject.

Each mutant is the library with one deliberate mistake. It goes through the very functions that
judge the library in ``unbiasedness.py`` and ``generator.py``, with as many samples as there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from dpo.kernels.noise import FAMILIES

from ._estimators import DERIVATIVES, NAMES, OUTPUTS, Case, Draw, Plan, bias_scores, from_library
from ._problems import THREE
from ._results import Check, Section, Table
from ._settings import Settings
from ._statistics import KS_THRESHOLD, Z_THRESHOLD, kolmogorov_distance, largest, spread_scores
from .generator import halves_scores, kernel_noise, moment_scores, tail_scores
from .unbiasedness import small_sample_scores

_LIBRARY = "the library itself"


class Mutant(NamedTuple):
    """A mistake and the tests that must notice it."""

    name: str
    make: Callable
    """The mutant ``Draw``, or a function of the noise sample."""
    caught_by: tuple[str, ...]


def _derivatives_times(factor: Callable[[Case, Plan], float]) -> Draw:
    def draw(case: Case, plan: Plan):
        estimates, errors = from_library(case, plan)
        scale = factor(case, plan) if plan.of in DERIVATIVES else 1.0
        return estimates * scale, errors * abs(scale)

    return draw


def _shifted(case: Case, plan: Plan):
    theta = case.theta + 0.01 * np.eye(case.theta.shape[-1])[0]
    return from_library(dataclasses.replace(case, theta=theta), plan)


def _louder(case: Case, plan: Plan):
    return from_library(dataclasses.replace(case, epsilon=1.02 * case.epsilon), plan)


def _shared_noise(case: Case, plan: Plan):
    estimates, errors = from_library(case, dataclasses.replace(plan, replicates=2))
    return tuple(np.repeat(a[:1], plan.replicates, axis=0) for a in (estimates, errors))


def _confident(case: Case, plan: Plan):
    estimates, errors = from_library(case, plan)
    return estimates, 0.8 * errors


_ESTIMATOR_MUTANTS = (
    Mutant(
        "sign of the score flipped",
        _derivatives_times(lambda case, plan: -1.0),
        ("VJP", "JVP", "Jacobian", "few samples"),
    ),
    Mutant(
        "factor 1/ε lost",
        _derivatives_times(lambda case, plan: case.epsilon),
        ("VJP", "JVP", "Jacobian", "few samples"),
    ),
    Mutant(
        "0.01 added to one score before the argmax", _shifted, ("value", "VJP", "JVP", "Jacobian")
    ),
    Mutant("noise scaled by 1.02", _louder, ("value", "maximum", "VJP", "JVP", "Jacobian")),
    Mutant(
        "leave-one-out divided by M, not M − 1",
        _derivatives_times(lambda case, plan: (plan.num_samples - 1) / plan.num_samples),
        ("few samples",),
    ),
    Mutant("all batch rows share their noise", _shared_noise, ("standard errors",)),
    Mutant("standard errors 20% too small", _confident, ("standard errors",)),
)


def _correlated(z: np.ndarray) -> np.ndarray:
    half = z.size // 2
    mixed = 0.99995 * z[half : 2 * half] + 0.01 * z[:half]
    return np.concatenate([z[:half], mixed])


def _folded(z: np.ndarray) -> np.ndarray:
    z = z.copy()
    z[::100] = np.abs(z[::100])
    return z


_NOISE_MUTANTS = (
    Mutant("noise scaled by 1.02", lambda z: 1.02 * z, ("distribution", "moments")),
    Mutant("mean shifted by 0.01", lambda z: z + 0.01, ("distribution", "moments")),
    Mutant("tails cut at ±4", lambda z: np.clip(z, -4, 4), ("tails",)),
    Mutant("sign of the noise lost in one of 100 draws", _folded, ("moments",)),
    Mutant("correlation 0.01 between draws", _correlated, ("independence",)),
)


def run(settings: Settings) -> Section:
    """Both kill matrices, and a check for every mistake; the unchanged library comes first."""
    control = Mutant(_LIBRARY, from_library, ())
    estimators = {}
    for mutant in (control, *_ESTIMATOR_MUTANTS):
        settings.tick(mutant.name)
        estimators[mutant] = estimator_tests(mutant.make, settings)
    settings.tick("noise")
    z = kernel_noise("normal", np.float32, 2**22, settings.seed_for("negative control"))
    identity = Mutant(_LIBRARY, lambda z: z, ())
    noises = {mutant: noise_tests(mutant.make(z)) for mutant in (identity, *_NOISE_MUTANTS)}
    checks = [_check(m, tests, "estimator") for m, tests in estimators.items()]
    checks += [_check(m, tests, "noise") for m, tests in noises.items()]
    return Section(
        title="Negative controls",
        intro="A test is worth what it can reject. Each row below is the library with one "
        "deliberate mistake; a check holds only if every test that ought to notice the mistake "
        "does, and the unchanged library passes all. Numbers are the largest statistic over its "
        "threshold: above 1 the test rejects. A mistake need not trip every test (a wrong 1/M is "
        "invisible with many samples), which is why there are several.",
        checks=tuple(checks),
        tables=(_matrix("Estimators", estimators), _matrix("Noise", noises)),
    )


def estimator_tests(draw: Draw, settings: Settings) -> dict[str, float]:
    """Largest statistic over threshold for each test of ``unbiasedness.py``; above 1 rejects."""
    case = Case("d = 3", THREE, 0.5, "normal")
    replicates, num_samples = 1024, settings.pick(8192, 32768)
    ratios, spreads = {}, []
    for of in OUTPUTS:
        plan = Plan(of, replicates, num_samples, settings.seed_for("control", of))
        ratios[NAMES[of]] = largest(bias_scores(draw, case, plan)) / Z_THRESHOLD
        spreads.append(largest(spread_scores(*draw(case, plan))))
    ratios["few samples"] = largest(small_sample_scores(draw, "normal", settings)) / Z_THRESHOLD
    ratios["standard errors"] = max(spreads) / Z_THRESHOLD
    return ratios


def noise_tests(z: np.ndarray) -> dict[str, float]:
    """Largest statistic over threshold for each test of ``generator.py``; above 1 rejects."""
    family = FAMILIES[0]
    return {
        "distribution": kolmogorov_distance(z, family.cdf)[0] / KS_THRESHOLD,
        "tails": largest(tail_scores(z, family)) / Z_THRESHOLD,
        "moments": largest(moment_scores(z, family)) / Z_THRESHOLD,
        "independence": largest(halves_scores(z)) / Z_THRESHOLD,
    }


def _check(mutant: Mutant, tests: dict[str, float], kind: str) -> Check:
    if mutant.name == _LIBRARY:
        statement = (
            f"the unchanged {kind} passes every test of the matrix: largest statistic / threshold"
        )
        return Check(f"Control: unchanged {kind}", statement, max(tests.values()), 1.0, scores=500)
    weakest = min(tests[name] for name in mutant.caught_by)
    statement = f"is rejected by: {', '.join(mutant.caught_by)}; smallest statistic / threshold"
    return Check(f"Mutant {kind}: {mutant.name}", statement, weakest, 1.0, relation=">")


def _matrix(title: str, results: dict[Mutant, dict[str, float]]) -> Table:
    names = tuple(next(iter(results.values())))
    rows = []
    for mutant, tests in results.items():
        cells = (f"✗ {r:.1f}" if r > 1 else f"– {r:.2f}" for r in tests.values())
        rows.append((mutant.name, *cells))
    caption = f"{title}: ✗ rejected, – not rejected; largest statistic over its threshold"
    return Table(caption, ("mistake", *names), tuple(rows))
