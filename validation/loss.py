"""The Fenchel-Young loss (section 4 of the paper): value, gradient, convexity, expectation.

L(theta; y) = F_eps(theta) + eps Omega(y) - <theta, y>,   grad L = y_eps(theta) - y
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import dpo

from ._backend import call
from ._estimators import NOISES, SPELLED, in_float32, layer_of
from ._exact import exact_answers, softmax_answers
from ._problems import ORACLES, small
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
        "linearity in the target hold exactly, sample by sample, and are tested to rounding error, "
        "oracle by oracle. That it is never negative, and zero at a match, is tested on exact "
        "expectations in another section.",
        checks=checks,
    )


def _layer(noise: str, num_samples: int) -> dpo.Perturbed:
    return dpo.Perturbed(noise=noise, epsilon=_EPSILON, num_samples=num_samples)


def _losses(noise, settings, target, normalize, purpose) -> np.ndarray:
    theta = np.tile(_THETA.astype(np.float32), (_REPLICATES, 1))
    layer = _layer(noise, settings.pick(4096, 16384))
    seed = settings.seed_for("loss", purpose, noise)
    return call(layer.loss, theta, target.astype(np.float32), seed=seed, normalize=normalize)


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


class Slopes(NamedTuple):
    """What the loss does along random directions, with a fixed seed."""

    gap: float
    """Between its derivative and the gradient: the third largest of 64, for a kink that lies within
    a difference's step (4e-5 a row) spoils its row."""
    bend: float
    """The largest excess of a midpoint over the mean of its ends."""
    curvature: float
    """Of the loss in its target."""


def _pathwise(settings: Settings) -> list[Check]:
    """Properties of the loss with a fixed seed, in float64, over random scores and targets."""
    oracles = settings.pick(("argmax", "ranks"), tuple(ORACLES))  # each has kernels to compile
    slopes = {oracle: _slopes(oracle, settings) for oracle in oracles}
    claims = (
        (
            "Loss gradient",
            "layer(θ) − y (costs: y − layer(c)) is the derivative of the loss with the same seed: "
            "third largest |gap| of 64 rows",
            "gap",
            1e-5,
        ),
        (
            "Loss is convex",
            "L((a+b)/2) ≤ (L(a) + L(b))/2 for 64 random pairs: largest excess",
            "bend",
            1e-12,
        ),
        (
            "Loss is linear in the target",
            "E[L(θ; Y)] = L(θ; E[Y]) + const, for normal noise without the constant: max |gap|",
            "curvature",
            1e-12,
        ),
    )
    checks = []
    for name, statement, field, limit in claims:
        values = {oracle: float(getattr(own, field)) for oracle, own in slopes.items()}
        worst = max(values, key=lambda oracle: np.nan_to_num(values[oracle], nan=np.inf))
        value = values[worst]
        note = f"{len(slopes)} oracles; worst: {ORACLES[worst].lower()}"
        checks.append(Check(name, statement, value, limit, note=note))
    return checks


def _slopes(oracle: str, settings: Settings) -> Slopes:
    """Central differences along random directions; where costs are scores, all signs turn."""
    rng = np.random.default_rng(settings.seed_for("loss pathwise", oracle))
    case, seed = small(oracle, "normal"), settings.seed_for("loss seed", oracle)
    layer, event = layer_of(case, 1000, "loo"), (64, *case.event)
    costs = isinstance(case.oracle, dpo.ShortestPath)
    a, b = (10.0 if costs else 0.0) + rng.normal(size=(2, *event))
    y, other = (call(layer, scores, seed=seed + k) for k, scores in enumerate((a[::-1], b[::-1])))

    def loss(theta: np.ndarray, target: np.ndarray) -> np.ndarray:
        return call(layer.loss, theta, target, seed=seed)

    h = 1e-8
    step = h * rng.normal(size=event)
    slope = (loss(a + step, y) - loss(a - step, y)) / 2
    gradient = (-1 if costs else 1) * (call(layer, a, seed=seed) - y)
    along = (gradient * step).reshape(64, -1).sum(1)
    bend = loss((a + b) / 2, y) - (loss(a, y) + loss(b, y)) / 2
    mixed = loss(a, (y + other) / 2) - (loss(a, y) + loss(a, other)) / 2
    size = np.abs(a).max() * case.exact("value").sum()  # of what is added up: rounding's unit
    return Slopes(
        float(np.sort(np.abs(slope - along))[-3] / h),
        float(bend.max() / size),
        float(np.abs(mixed).max() / size),
    )
