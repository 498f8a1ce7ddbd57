"""The Fenchel-Young loss (section 4 of the paper): value, gradient, convexity, expectation.

L(theta; y) = F_eps(theta) + eps Omega(y) - <theta, y>,   grad L = y_eps(theta) - y
"""

from __future__ import annotations

import numpy as np

import dpo

from ._estimators import NOISES, SPELLED, in_float32
from ._exact import exact_answers, softmax_answers
from ._results import Check, Section
from ._settings import Settings
from ._statistics import Z_THRESHOLD, largest, student_scores

_THETA = in_float32([0.1, 0.3, -0.2])[0]
_TARGET = np.array([1.0, 0.0, 0.0])
_EPSILON = 0.5
_KNOWN_VALUE, _KNOWN_GRADIENT = 0.844641, [-0.671121, 0.490629, 0.180492]
_REPLICATES = 1024


def run(settings: Settings) -> Section:
    """Known answer, values, a zero at the match; then what holds sample by sample."""
    settings.tick("known answer and values")
    values = [_value(noise, settings) for noise in NOISES]
    checks = (_known_answer(), *values, _zero_at_match(settings), *_pathwise(settings))
    return Section(
        title="Fenchel-Young loss",
        intro="The value is compared with exact expectations. With a fixed seed the Monte-Carlo "
        "loss is itself a maximum of linear functions, so its gradient, its convexity and its "
        "linearity in the target hold exactly, sample by sample, and are tested to rounding error.",
        checks=checks,
    )


def _layer(noise: str, num_samples: int) -> dpo.Perturbed:
    return dpo.Perturbed(noise=noise, epsilon=_EPSILON, num_samples=num_samples)


def _losses(noise, settings, target, normalize, purpose) -> np.ndarray:
    theta = np.tile(_THETA.astype(np.float32), (_REPLICATES, 1))
    layer = _layer(noise, settings.pick(4096, 16384))
    seed = settings.seed_for("loss", purpose, noise)
    return layer.loss(theta, target.astype(np.float32), seed=seed, normalize=normalize)


def _known_answer() -> Check:
    exact = softmax_answers([0.1, 0.3, -0.2], _EPSILON)
    gaps = [exact.max - 0.1 - _KNOWN_VALUE, *(exact.value - _TARGET - _KNOWN_GRADIENT)]
    statement = "Gumbel, θ = (0.1, 0.3, −0.2), y = e₀, ε = 0.5: L = 0.844641 and ∇L: max |gap|"
    return Check("Loss: known answer", statement, largest(gaps), 5.1e-7, note="exact expectations")


def _value(noise: str, settings: Settings) -> Check:
    losses = _losses(noise, settings, _TARGET, False, "value")
    exact = exact_answers(_THETA, _EPSILON, noise).max - _THETA @ _TARGET
    scores = student_scores(losses, exact)
    statement = "E[L̂] = F_ε(θ) − ⟨θ, y⟩: |z|"
    note = f"mean {losses.mean(dtype=np.float64):.6f}, exact {exact:.6f}"
    return Check(
        f"Loss, {SPELLED[noise]} noise", statement, largest(scores), Z_THRESHOLD, "<=", note, 1
    )


def _zero_at_match(settings: Settings) -> Check:
    target = softmax_answers(_THETA, _EPSILON).value
    losses = _losses("gumbel", settings, target, True, "match")
    scores = student_scores(losses, np.array(0.0))
    statement = "with Gumbel noise and y = softmax(θ/ε) the loss, offset included, is 0: |z|"
    note = f"mean {losses.mean(dtype=np.float64):.1e}"
    return Check("Loss is zero at a match", statement, largest(scores), Z_THRESHOLD, "<=", note, 1)


def _pathwise(settings: Settings) -> list[Check]:
    """Properties of the loss with a fixed seed, in float64, over random scores and targets."""
    rng = np.random.default_rng(settings.seed)
    a, b = rng.normal(size=(2, 64, 6))
    y, other = rng.dirichlet(np.ones(6), size=(2, 64))
    layer = _layer("normal", 1000)
    seed = settings.seed_for("loss pathwise")

    def loss(theta, target):
        return layer.loss(theta, target, seed=seed)

    h = 1e-7
    step = h * rng.normal(size=a.shape)
    slope = (loss(a + step, y) - loss(a - step, y)) / 2
    gradient = ((layer(a, seed=seed) - y) * step).sum(-1)
    bend = loss((a + b) / 2, y) - (loss(a, y) + loss(b, y)) / 2
    mixed = loss(a, (y + other) / 2) - (loss(a, y) + loss(a, other)) / 2
    return [
        Check(
            "Loss gradient",
            "layer(θ) − y is the derivative of the loss with the same seed: max |gap|",
            float(np.abs(slope - gradient).max() / h),
            1e-6,
            note="central differences along random directions",
        ),
        Check(
            "Loss is convex",
            "L((a+b)/2) ≤ (L(a) + L(b))/2 for 64 random pairs: largest excess",
            float(bend.max()),
            1e-12,
        ),
        Check(
            "Loss is linear in the target",
            "E[L(θ; Y)] = L(θ; E[Y]) + const, for normal noise without the constant: max |gap|",
            float(np.abs(mixed).max()),
            1e-12,
        ),
    ]
