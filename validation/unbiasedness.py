"""Every estimator has the exact expectation: value, maximum, VJP, JVP and Jacobian.

Definition 3.1 and Proposition 3.1 of Berthet et al. (2020), for three noises, with and without the
leave-one-out baseline, in float32 and float64, for large and for the smallest sample counts. Of the
argmax: ``oracles.py`` has the rest.
"""

from __future__ import annotations

import itertools as it

import numpy as np

from . import _plots
from ._estimators import (
    DERIVATIVES,
    NAMES,
    NOISES,
    OUTPUTS,
    REDUCTIONS,
    SPELLED,
    Case,
    Plan,
    bias_scores,
    capital,
    compare,
    from_library,
)
from ._problems import FIVE, THREE, random_scores
from ._results import Check, Figure, Section
from ._settings import Settings
from ._statistics import Z_THRESHOLD, largest, spread_scores

_FORMULAS = {
    "value": "E[ȳ] = y_ε(θ)",
    "max": "E[F̄] = F_ε(θ)",
    "vjp": "E[VJP(v)] = vᵀ J",
    "jvp": "E[JVP(t)] = J t",
    "jacobian": "E[Ĵ] = D_θ y_ε(θ)",
}


def cases(noise: str, settings: Settings) -> list[tuple[Case, int, int]]:
    """Scores, replicates and samples: 8 million samples each for the small, 1 for the large."""
    more = settings.pick(4, 16, 1)
    chosen = [
        (Case("d = 3", THREE, 0.5, noise), 1024, 2048 * more),
        (Case("d = 5", FIVE, 1.0, noise), 1024, 2048 * more),
        (Case("2 rows of d = 40", random_scores(2, 40), 1.0, noise), 512, 512 * more),
    ]
    if settings.full:
        chosen.append((Case("d = 200", random_scores(1, 200), 2.0, noise), 512, 8192))
    return chosen


def run(settings: Settings) -> Section:
    """All estimators, noises and variance reductions; small M; float64; standard errors."""
    bias: list[Check] = []
    pooled: dict[str, list[np.ndarray]] = {noise: [] for noise in NOISES}
    spread: dict[str, list[np.ndarray]] = {of: [] for of in OUTPUTS}
    for of, noise, reduction in it.product(OUTPUTS, NOISES, ("loo", "none")):
        if of not in DERIVATIVES and reduction == "none":
            continue  # the value and the maximum have no baseline
        settings.tick(f"{NAMES[of]}, {noise}, {REDUCTIONS[reduction]}")
        scores, errors = _one_estimator(of, noise, reduction, settings)
        bias.append(_check(of, noise, reduction, scores, settings))
        pooled[noise].append(scores)
        spread[of].append(errors)
    settings.tick("float64 and small M")
    extra = [_float64(of, settings) for of in OUTPUTS] + [_few_samples(n, settings) for n in NOISES]
    settings.tick("figures")
    return Section(
        title="Unbiasedness",
        intro="R copies of the same scores are R independent replicates, so the z-score of every "
        "entry, (mean − exact) / (spread / √R), owes nothing to the standard errors the library "
        "reports. Those are tested on their own: the replicates' variance over the mean reported "
        "variance is chi-square.\n\nLeave-one-out estimators must be unbiased for every M ≥ 2, not "
        "only for large M, so they are also tested with two, three and five samples.",
        checks=(*bias, *extra, *(_honest(of, spread[of]) for of in OUTPUTS)),
        figures=(_figure(pooled, spread),),
    )


def _one_estimator(of, noise, reduction, settings) -> tuple[np.ndarray, np.ndarray]:
    """The z-scores of the means and of the spreads, over all cases."""
    means, spreads = [], []
    for case, replicates, num_samples in cases(noise, settings):
        if of == "jacobian" and case.theta.shape[-1] > 100:
            continue  # its entries would exhaust the report's number of z-scores
        seed = settings.seed_for("unbiased", of, noise, reduction, case.name)
        plan = Plan(of, replicates, num_samples, seed, reduction)
        estimates, errors = from_library(case, plan)
        means.append(compare(estimates, case, plan).ravel())
        if case.theta.shape[-1] <= 5:  # chi-square needs replicates that are close to normal
            spreads.append(spread_scores(estimates, errors).ravel())
    return np.concatenate(means), np.concatenate(spreads)


def _check(of, noise, reduction, scores, settings) -> Check:
    suffix = f", {REDUCTIONS[reduction]}" if of in DERIVATIVES else ""
    names = ", ".join(case.name for case, _, _ in cases(noise, settings))
    return Check(
        f"{capital(NAMES[of])}, {SPELLED[noise]} noise{suffix}",
        f"{_FORMULAS[of]}: max |z|",
        largest(scores),
        Z_THRESHOLD,
        note=f"{scores.size:,} entries; {names}",
        scores=scores.size,
    )


def _float64(of: str, settings: Settings) -> Check:
    case = Case("d = 3", THREE, 0.5, "normal")
    seed = settings.seed_for("unbiased float64", of)
    plan = Plan(of, 1024, settings.pick(4096, 16384), seed, dtype=np.float64)
    scores = bias_scores(from_library, case, plan)
    return Check(
        f"{capital(NAMES[of])} in float64",
        f"{_FORMULAS[of]}: max |z|",
        largest(scores),
        Z_THRESHOLD,
        note="normal noise, leave-one-out, d = 3",
        scores=scores.size,
    )


def small_sample_scores(draw, noise: str, settings: Settings) -> np.ndarray:
    """z-scores of all derivatives, leave-one-out, from two, three and five samples each."""
    case = Case("d = 3", THREE, 0.5, noise)
    scores = []
    for of, num_samples in it.product(DERIVATIVES, (2, 3, 5)):
        seed = settings.seed_for("small", of, noise, num_samples)
        plan = Plan(of, settings.pick(2**16, 2**19), num_samples, seed)
        scores.append(bias_scores(draw, case, plan).ravel())
    return np.concatenate(scores)


def _few_samples(noise: str, settings: Settings) -> Check:
    scores = small_sample_scores(from_library, noise, settings)
    return Check(
        f"Leave-one-out from few samples, {SPELLED[noise]} noise",
        "VJP, JVP and Jacobian are unbiased for M = 2, 3 and 5 (Bessel's M − 1): max |z|",
        largest(scores),
        Z_THRESHOLD,
        note=f"{scores.size} entries",
        scores=scores.size,
    )


def _honest(of: str, pieces: list[np.ndarray]) -> Check:
    scores = np.concatenate(pieces)
    return Check(
        f"Standard errors of the {NAMES[of]}",
        "reported standard errors are the replicates' true spread (chi-square): max |z|",
        largest(scores),
        Z_THRESHOLD,
        note=f"{scores.size} entries; all noises and variance reductions",
        scores=scores.size,
    )


def _figure(pooled: dict, spread: dict) -> Figure:
    total = sum(scores.size for pieces in pooled.values() for scores in pieces)
    means = {SPELLED[noise]: np.concatenate(pieces) for noise, pieces in pooled.items()}
    spreads = {capital(NAMES[of]): np.concatenate(pieces) for of, pieces in spread.items()}
    return Figure(
        f"Left: all {total:,} z-scores of the estimators' means against the quantiles of the "
        "normal distribution; unbiased estimators lie on the diagonal. Right: the same for the "
        "reported standard errors. Entries of one run share samples, so neighbouring points are "
        "correlated.",
        (
            _plots.quantiles(means, "Estimates against exact answers"),
            _plots.quantiles(spreads, "Reported standard errors"),
        ),
    )
