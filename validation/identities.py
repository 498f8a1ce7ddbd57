"""Proposition 3.1: integration by parts, in every form, on the kernel's own noise and solutions.

    y_eps = E[y] = E[F s] / eps,    J = E[y s^T] / eps = E[F (s s^T - diag s')] / eps^2

with ``F = <y, theta + eps Z>``, ``s`` the score of the noise and ``s'`` its derivative. The samples
are ``layer.samples``; their noise is regenerated from the seed, in NumPy, and the products are
formed one by one, so that nothing here is shared with the fused derivatives.
"""

from __future__ import annotations

import itertools as it
from collections.abc import Iterator

import numpy as np

from ._estimators import NOISES, SPELLED, Case
from ._problems import ORACLES, small
from ._results import Check, Section
from ._scores import Scores, zcheck
from ._settings import Settings
from ._single import Samples, draw, family_of, noise_of, sign_of
from ._statistics import Z_THRESHOLD, largest, student_scores

_BLOCKS, _BLOCK = 512, 128
"""Samples in all are their product: terms are averaged over blocks, and those are replicates."""

_STATEMENTS = {
    "value": "E[y] = y_ε",
    "value from F": "E[F s]/ε = y_ε",
    "Jacobian": "E[y sᵀ]/ε = D y_ε",
    "Jacobian from F": "E[F (s sᵀ − diag s′)]/ε² = D y_ε",
    "nothing": "E[s] = 0 and E[s sᵀ − diag s′] = 0: any constant may be subtracted",
}


def run(settings: Settings) -> Section:
    """Every identity of every oracle and noise; and a function that is no maximiser."""
    results = {}
    for oracle, noise in it.product(ORACLES, NOISES):
        settings.tick(f"{oracle}, {noise}")
        seed = settings.seed_for("identities", oracle, noise)
        case = small(oracle, noise)
        results[oracle, noise] = identity_scores(case, draw_blocks(case, seed))
    checks = [_check(oracle, form, results) for oracle in ORACLES for form in _STATEMENTS]
    checks.append(_black_box(settings))
    return Section(
        title="Integration by parts",
        intro="Proposition 3.1: three forms of the perturbed solution and two of its derivative, "
        f"from {_BLOCKS * _BLOCK:,} single samples of each oracle and noise. The kernels decide; "
        "scores and products are NumPy's. The forms in F have a far larger variance, which is why "
        "the library uses those in y.",
        checks=tuple(checks),
    )


def draw_blocks(case: Case, seed: int) -> Samples:
    """(blocks, samples of a block, d)."""
    return draw(case, _BLOCKS * _BLOCK, seed).in_blocks(_BLOCKS)


def identity_scores(case: Case, samples: Samples) -> Scores:
    """z-scores of every identity's entries."""
    exact = case.answers[0]
    jacobian = sign_of(case) * exact.jacobian
    zero = np.zeros(len(exact.value))
    expected = {
        "value": exact.value,
        "value from F": exact.value,
        "Jacobian": jacobian,
        "Jacobian from F": jacobian,
        "nothing": np.concatenate([zero[None], np.zeros_like(jacobian)]),
    }
    means = {form: np.stack(blocks) for form, blocks in _means(case, samples).items()}
    return {form: student_scores(means[form], expected[form]).ravel() for form in expected}


def _means(case: Case, samples: Samples) -> dict[str, list[np.ndarray]]:
    """Of every block of samples, every form's mean."""
    means: dict[str, list[np.ndarray]] = {form: [] for form in _STATEMENTS}
    for form, mean in _forms(case, samples):
        means[form].append(mean)
    return means


def _forms(case: Case, samples: Samples) -> Iterator[tuple[str, np.ndarray]]:
    family, epsilon = family_of(case.noise), float(case.epsilon)
    for z, y, F in zip(samples.z, samples.y, samples.maximum, strict=True):
        s, slope = family.score(z), family.score_derivative(z)
        n = len(z)
        curvature = s.T @ s / n - np.diag(slope.mean(0))
        weighted = (s.T * F) @ s / n - np.diag(F @ slope / n)
        yield "value", y.mean(0)
        yield "value from F", F @ s / n / epsilon
        yield "Jacobian", y.T @ s / n / epsilon
        yield "Jacobian from F", weighted / epsilon**2
        yield "nothing", np.concatenate([s.mean(0)[None], curvature])


def _check(oracle: str, form: str, results: dict[tuple[str, str], Scores]) -> Check:
    scores = {f"{SPELLED[noise]} noise": results[oracle, noise][form] for noise in NOISES}
    return zcheck(f"{ORACLES[oracle]}: {form} by parts", _STATEMENTS[form], scores)


def _black_box(settings: Settings) -> Check:
    """``d/dt E relu(t + G) = E[relu(G) s(G)] = P(G > 0) = 1 - 1/e`` for a Gumbel variable G."""
    seed = settings.seed_for("identities", "relu")
    z = noise_of("gumbel", _BLOCKS * _BLOCK, 1, seed).reshape(_BLOCKS, _BLOCK)
    score = family_of("gumbel").score(z)
    z_scores = student_scores((np.maximum(z, 0) * score).mean(1), np.array(1 - np.exp(-1)))
    statement = "E[max(G, 0) s(G)] = 1 − 1/e for Gumbel G: a function that is no maximiser: |z|"
    return Check("Any function by parts", statement, largest(z_scores), Z_THRESHOLD, "<=", "", 1)
