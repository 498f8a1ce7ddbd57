"""The answers the estimators are compared with, themselves compared with known ones."""

from __future__ import annotations

import numpy as np

from ._closed_forms import gap, oracle_checks
from ._estimators import NOISES
from ._exact import by_quadrature, softmax_answers
from ._problems import random_scores
from ._results import Check, Section
from ._settings import Settings

_SIX_DECIMALS = 5.1e-7  # half a unit of the last printed digit

_GUMBEL = ([-0.6, 1.9, -0.2, 1.1, -1.0], 0.5)
_GUMBEL_VALUE = [0.005493, 0.815223, 0.012225, 0.164591, 0.002468]
_GUMBEL_MAX = 2.290754
_GUMBEL_GRADIENT = [-0.015081, 0.402259, -0.033234, -0.347138, -0.006806]
_NORMAL = ([-0.6, -0.5, 0.5], 0.5)
_NORMAL_VALUE = [0.049813, 0.069767, 0.880420]
_NORMAL_JACOBIAN = [
    [0.153473, -0.024133, -0.129340],
    [-0.024133, 0.197733, -0.173599],
    [-0.129340, -0.173599, 0.302939],
]


def run(settings: Settings) -> Section:
    """Known answers, closed forms, halved steps, probabilities that sum to one, differences."""
    settings.tick("known answers and step halving")
    return Section(
        title="Exact expectations",
        intro="Estimators are judged by exact expectations in float64: the softmax for Gumbel "
        "noise, one-dimensional quadrature for the others, whatever the oracle. This section shows "
        "that those can be trusted far beyond what sampling can see.",
        checks=(
            _known_answers(),
            _closed_form(),
            _converged(),
            _total_probability(),
            _finite_differences(),
            *oracle_checks(settings),
        ),
    )


def _rows():
    yield np.array(_GUMBEL[0]), 1.0
    yield np.array(_NORMAL[0]), 0.5
    for d, epsilon in ((40, 1.0), (200, 2.0), (200, 0.1)):
        yield random_scores(1, d)[0], epsilon


def _known_answers() -> Check:
    gumbel, normal = softmax_answers(*_GUMBEL), by_quadrature(*_NORMAL, noise="normal")
    gaps = [
        gumbel.value - _GUMBEL_VALUE,
        [gumbel.max - _GUMBEL_MAX],
        2 * gumbel.value @ gumbel.jacobian - _GUMBEL_GRADIENT,
        normal.value - _NORMAL_VALUE,
        (normal.jacobian - _NORMAL_JACOBIAN).ravel(),
    ]
    return Check(
        "Known answers",
        "softmax, log-sum-exp, and the normal argmax with its Jacobian, to six decimals: max |gap|",
        float(np.abs(np.concatenate(gaps)).max()),
        _SIX_DECIMALS,
    )


def _closed_form() -> Check:
    worst = max(gap(by_quadrature(x, e, "gumbel"), softmax_answers(x, e)) for x, e in _rows())
    statement = "quadrature with Gumbel noise equals the softmax closed forms: max |gap|"
    return Check("Quadrature against closed form", statement, worst, 1e-12)


def _converged() -> Check:
    worst = max(
        gap(by_quadrature(x, e, noise), by_quadrature(x, e, noise, refine=2))
        for x, e in _rows()
        for noise in NOISES
    )
    statement = "halving the step moves P, F and J by less than rounding: max |change|"
    return Check("Quadrature has converged", statement, worst, 1e-12)


def _total_probability() -> Check:
    worst = max(abs(1 - by_quadrature(x, e, n).value.sum()) for x, e in _rows() for n in NOISES)
    return Check("Probabilities sum to one", "|1 − Σ Pᵢ| is at rounding level", float(worst), 1e-12)


def _finite_differences() -> Check:
    """``grad F = P`` and ``D P = J`` by central differences, error about h^2."""
    h, worst = 1e-4, 0.0
    for noise in NOISES:
        theta, epsilon = np.array(_NORMAL[0]), 0.5
        exact = by_quadrature(theta, epsilon, noise)
        for i, step in enumerate(h * np.eye(theta.size)):
            up, down = (by_quadrature(theta + sign * step, epsilon, noise) for sign in (1, -1))
            worst = max(
                worst,
                abs((up.max - down.max) / (2 * h) - exact.value[i]),
                float(np.abs((up.value - down.value) / (2 * h) - exact.jacobian[:, i]).max()),
            )
    statement = "∇F = P and DP = J by central differences of step 1e-4: max |gap|"
    return Check("Quadrature differentiates", statement, worst, 1e-6)
