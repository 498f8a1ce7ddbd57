"""A user's own oracle: what any linear maximiser must satisfy, without a known answer.

The oracle's decisions are taken from ``layer.samples``; everything else is compared with products
of those decisions and the noise, formed one by one in NumPy, or must hold for every maximiser.
"""

from __future__ import annotations

import itertools as it

import numpy as np

import dpo

from ._backend import call
from ._estimators import NAMES, NOISES, REDUCTIONS, SPELLED, Case, Plan, capital, from_library
from ._results import Check, Section, Skip
from ._scores import Scores, zcheck
from ._settings import Settings
from ._single import Samples, draw, family_of, sign_of
from ._statistics import calibration_scores, two_sample_scores
from .determinism import differences

_BLOCKS, _BLOCK = 256, 256
_ROUNDING = 1e-5
"""Of float32 sums of products, relative to their size."""


def run(settings: Settings) -> Section:
    """Optimality, unbiasedness, reductions, error bars, symmetry, the loss, and determinism."""
    assert settings.oracle is not None
    checks, skipped = [], []
    for noise in NOISES:
        settings.tick(f"{noise} noise")
        checks += _of_noise(_case(settings, noise), settings)
    case = _case(settings, "normal")
    settings.tick("error bars")
    checks += [_honest(reduction, case, settings) for reduction in REDUCTIONS]
    settings.tick("loss and bits")
    try:
        checks += _loss(case, settings)
    except ValueError as error:
        skipped.append(Skip("Loss", f"the oracle refuses its own solutions as targets: {error}"))
    checks += _bits(case, settings)
    return Section(
        title="Your oracle",
        intro=f"{settings.oracle!r}, on one instance of shape {settings.shape} with random scores. "
        "No exact answer is known, so estimators are compared with means over single samples: "
        "their decisions come from the oracle, their noise from its seed, and the products of the "
        "two are formed in NumPy. An oracle that is no maximiser of ⟨y, θ⟩ fails here, for the "
        "derivative formulas and the loss rest on that.",
        checks=tuple(checks),
        skipped=tuple(skipped),
    )


def _case(settings: Settings, noise: str) -> Case:
    """Scores about as far apart as the noise is wide; costs far from where they are clipped."""
    assert settings.oracle is not None
    scores = np.random.default_rng(0).normal(size=(1, *settings.shape))
    if settings.oracle.problem((1, *settings.shape)).minimises:
        scores = 10 + 0.3 * scores
    return Case("own", scores.astype(np.float32).astype(np.float64), 0.75, noise, settings.oracle)


# --------------------------------------------------------------------------- decisions and products


def _of_noise(case: Case, settings: Settings) -> list[Check]:
    seed = settings.seed_for("own", case.noise)
    samples = draw(case, _BLOCKS * _BLOCK, seed)
    products = _products(case, samples)
    mean = {of: blocks.mean(0) for of, blocks in products.items()}
    error = {of: blocks.std(0, ddof=1) / np.sqrt(_BLOCKS) for of, blocks in products.items()}
    checks = [_optimal(case, samples)]
    for reduction in REDUCTIONS:
        scores: Scores = {}
        for of in products:
            if reduction == "none" and of in ("value", "max"):
                continue
            own = settings.seed_for("own", case.noise, reduction, of)
            plan = Plan(of, 256, settings.pick(1024, 16384), own, reduction)
            replicates = from_library(case, plan)[0][:, 0]
            scores[NAMES[of]] = two_sample_scores(replicates, mean[of], error[of]).ravel()
        checks.append(
            zcheck(
                f"{capital(REDUCTIONS[reduction])}, {SPELLED[case.noise]} noise",
                "value, maximum, VJP, JVP and Jacobian have the expectation of single samples",
                scores,
            )
        )
    checks.append(_symmetric(case, products["jacobian"]))
    return checks


def _products(case: Case, samples: Samples) -> dict[str, np.ndarray]:
    """Means over blocks of samples of what the estimators estimate, (blocks, ...)."""
    centre = samples.y[:_BLOCK].mean(0)
    z, _, y = blocks = samples.in_blocks(_BLOCKS)
    scale = sign_of(case) / float(case.epsilon) / _BLOCK
    jacobian = scale * np.einsum("bmi,bmk->bik", y - centre, family_of(case.noise).score(z))
    v = case.direction
    return {
        "value": y.mean(1),
        "max": blocks.maximum.mean(1),
        "vjp": np.einsum("i,bik->bk", v, jacobian),
        "jvp": np.einsum("bik,k->bi", jacobian, v),
        "jacobian": jacobian,
    }


def _optimal(case: Case, samples: Samples) -> Check:
    """No sample would rather have the solution of another."""
    solutions = np.unique(samples.y, axis=0)[:256]
    best = (samples.seen[:4096] @ solutions.T).max(1)
    taken = samples.maximum[:4096]
    excess = ((best - taken) / np.maximum(1, np.abs(best))).max()
    return Check(
        f"Decisions are optimal, {SPELLED[case.noise]} noise",
        "no other solution that was seen is worth more, ⟨y′, θ + εz⟩ > ⟨y, θ + εz⟩: largest excess",
        float(excess),
        _ROUNDING,
        note=f"4,096 samples, {len(solutions)} solutions",
    )


def _symmetric(case: Case, blocks: np.ndarray) -> Check:
    """The Jacobian of a maximiser is the Hessian of F_eps."""
    skew = blocks - blocks.swapaxes(1, 2)
    scores = two_sample_scores(skew, np.zeros(skew.shape[1:]), np.zeros(skew.shape[1:]))
    name = f"Jacobian is symmetric, {SPELLED[case.noise]} noise"
    return zcheck(name, "D y_ε = (D y_ε)ᵀ, as of any maximiser", {"J": scores.ravel()})


# ------------------------------------------------------------------------ error bars, loss and bits


def _honest(reduction: str, case: Case, settings: Settings) -> Check:
    """Against the replicates' own mean: what is subtracted costs one degree of freedom."""
    scores: Scores = {}
    for of in ("value", "max", "vjp", "jvp"):
        if reduction == "none" and of in ("value", "max"):
            continue
        seed = settings.seed_for("own honest", reduction, of)
        estimates, errors = from_library(case, Plan(of, 4096, 64, seed, reduction))
        count = len(estimates)
        gaps = (estimates - estimates.mean(0)) * np.sqrt(count / (count - 1))
        scores[NAMES[of]] = calibration_scores(gaps, errors, np.zeros(gaps.shape[1:])).ravel()
    statement = "reported standard errors are the true spread of replicates"
    return zcheck(f"Standard errors, {REDUCTIONS[reduction]}", statement, scores)


def _loss(case: Case, settings: Settings) -> list[Check]:
    """With a fixed seed: a maximum of linear functions, whose slope is the solution."""
    seed, sign = settings.seed_for("own loss"), sign_of(case)
    layer = dpo.Perturbed(case.oracle, noise="normal", epsilon=case.epsilon, num_samples=256)
    rng = np.random.default_rng(1)
    a, b = (case.theta[0] + 0.3 * rng.normal(size=(2, 64, *case.event))).astype(np.float32)
    y = call(layer, a[::-1].copy(), seed=seed + 1)

    def loss(theta: np.ndarray) -> np.ndarray:
        return call(layer.loss, theta.astype(np.float32), y, seed=seed).astype(np.float64)

    ends = loss(a), loss(b)
    bend = loss((a + b) / 2) - (ends[0] + ends[1]) / 2
    slope = sign * (call(layer, a, seed=seed).astype(np.float64) - y)
    below = ends[0] + (slope * (b - a)).reshape(64, -1).sum(1) - ends[1]
    size = max(1.0, float(np.abs(y).reshape(64, -1).sum(1).max() * np.abs(a).max()))
    return [
        Check(
            "Loss is convex", "L((a+b)/2) ≤ (L(a) + L(b))/2: largest excess / size",
            float(bend.max()) / size, _ROUNDING, note="64 pairs, one seed",
        ),
        Check(
            "Loss has its gradient", "L(b) ≥ L(a) + ⟨∇L(a), b − a⟩: largest excess / size",
            float(below.max()) / size, _ROUNDING, note="64 pairs, one seed",
        ),
    ]  # fmt: skip


def _bits(case: Case, settings: Settings) -> list[Check]:
    problems = []
    for reduction, of in it.product(REDUCTIONS, NAMES):
        if of == "vjp_epsilon":
            continue
        layer = dpo.Perturbed(
            case.oracle, epsilon=case.epsilon, num_samples=64, variance_reduction=reduction
        )
        problems.append((layer, np.repeat(case.theta, 6, 0).astype(np.float32), of))
    return differences(problems, settings.seed_for("own bits"))
