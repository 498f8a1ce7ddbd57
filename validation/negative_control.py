"""Tests that cannot fail prove nothing: wrong estimators, which the same tests must reject.

Each mutant is the library with one deliberate mistake. It goes through the very functions that
judge the library in ``unbiasedness.py`` and ``generator.py``, with as many samples as there.
``negative_oracles.py`` does the same for the other sections.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from dpo.kernels.noise import FAMILIES

from ._estimators import DERIVATIVES, NAMES, OUTPUTS, Case, Draw, Plan, bias_scores, from_library
from ._mutants import Mutant, matrix, rescaled, shared_noise, unchanged, verdict
from ._problems import THREE
from ._results import Section
from ._settings import Settings
from ._statistics import Z_THRESHOLD, distribution_scores, largest, spread_scores
from .generator import halves_scores, kernel_noise, moment_scores, tail_scores
from .unbiasedness import small_sample_scores


def _shifted(case: Case, plan: Plan):
    theta = case.theta + 0.0125 * np.eye(case.theta.shape[-1])[0]
    return from_library(dataclasses.replace(case, theta=theta), plan)


def _louder(case: Case, plan: Plan):
    return from_library(dataclasses.replace(case, epsilon=1.02 * case.epsilon), plan)


def _confident(case: Case, plan: Plan):
    estimates, errors = from_library(case, plan)
    return estimates, 0.8 * errors


_ESTIMATOR_MUTANTS = (
    Mutant(
        "sign of the score flipped",
        rescaled(lambda case, plan: -1.0, *DERIVATIVES),
        ("VJP", "JVP", "Jacobian", "few samples"),
    ),
    Mutant(
        "factor 1/ε lost",
        rescaled(lambda case, plan: case.epsilon, *DERIVATIVES),
        ("VJP", "JVP", "Jacobian", "few samples"),
    ),
    Mutant(
        "0.0125 added to one score before the argmax", _shifted, ("value", "VJP", "JVP", "Jacobian")
    ),
    Mutant("noise scaled by 1.02", _louder, ("value", "maximum", "VJP", "JVP", "Jacobian")),
    Mutant(
        "leave-one-out divided by M, not M − 1",
        rescaled(lambda case, plan: (plan.num_samples - 1) / plan.num_samples, *DERIVATIVES),
        ("few samples",),
    ),
    Mutant("all batch rows share their noise", shared_noise, ("standard errors",)),
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
    estimators = {}
    for mutant in (unchanged(from_library), *_ESTIMATOR_MUTANTS):
        settings.tick(mutant.name)
        estimators[mutant] = estimator_tests(mutant.make, settings)
    settings.tick("noise")
    z = kernel_noise("normal", np.float32, 2**22, settings.seed_for("negative control"))
    identity = unchanged(lambda z: z)
    noises = {mutant: noise_tests(mutant.make(z)) for mutant in (identity, *_NOISE_MUTANTS)}
    checks = [verdict(m, tests, "estimator") for m, tests in estimators.items()]
    checks += [verdict(m, tests, "noise") for m, tests in noises.items()]
    return Section(
        title="Negative controls",
        intro="A test is worth what it can reject. Each row below is the library with one "
        "deliberate mistake; a check holds only if every test that ought to notice the mistake "
        "does, and the unchanged library passes all. Numbers are the largest statistic over its "
        "threshold: above 1 the test rejects. A mistake need not trip every test (a wrong 1/M is "
        "invisible with many samples), which is why there are several.",
        checks=tuple(checks),
        tables=(matrix("Estimators", estimators), matrix("Noise", noises)),
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
        "distribution": largest(distribution_scores(z, family.cdf)) / Z_THRESHOLD,
        "tails": largest(tail_scores(z, family)) / Z_THRESHOLD,
        "moments": largest(moment_scores(z, family)) / Z_THRESHOLD,
        "independence": largest(halves_scores(z)) / Z_THRESHOLD,
    }
