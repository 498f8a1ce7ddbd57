"""Proposition 2.2 for cheapest paths, whose expectations have no closed form: by common noise.

With the noise of M samples fixed, ``F_M(theta) = mean_m max_y <y, theta + eps z_m>`` and
``y_M``, the mean of the solutions, meet most of the proposition in every draw, to rounding:

    |F_M(a) - F_M(b)| <= R_C ||a - b||
    F_M((a + b) / 2) <= (F_M(a) + F_M(b)) / 2
    <y_M(a), b - a> <= F_M(b) - F_M(a) <= <y_M(b), b - a>
    F(theta) + eps <y*, mean z> <= F_M(theta) <= F(theta) + eps F_1,M(0)

So nothing is approximate, whatever M. What holds of expectations alone, a gradient that is
R_C M_mu / eps-Lipschitz and returns to ``y_1(0)``, is a bound on the mean of independent
replicates along a direction chosen with other noise: a one-sided test.

Scores are minus costs. All costs are raised by 100, or by 100 temperatures, so that none is clipped
and no path takes more cells than it must. All of the 51 that remain take six, so that what all
cells are raised by changes no decision. They overlap: the hull is that of a flow from column to
column.
"""

from __future__ import annotations

import dataclasses
import functools as ft
from dataclasses import dataclass

import numpy as np
from dpo.kernels.noise import FAMILIES

import dpo

from ._backend import call
from ._estimators import SPELLED
from ._exact_paths import simple_paths
from ._results import Table
from ._statistics import Z_THRESHOLD, upper_score

SHAPE = (5, 6)
_D = SHAPE[0] * SHAPE[1]
_LENGTH = SHAPE[1]
_ENDS = (2, 0), (2, SHAPE[1] - 1)
EPSILON = 0.5
_BASE, _DECIDED = 100.0, 40.0
_CENSUS = 8192
_ROUNDING = 1e-9
_COLD_ROUNDING = 1e-8  # costs of 600, divided by the lowest temperature
_SHARP = 0.99
_SAMPLES = 512
_REPLICATES = 32
_COLD = 2.0**-12
_TEMPERATURES = 2.0 ** np.arange(-12, 13, 2)
_HOT = (2.0, 16.0, 256.0, 4096.0)
SCORES = {"gradient is Lipschitz": 4, "ε → ∞": len(_HOT)}
"""z-scores of a claim, for each noise."""
_FISHER = {family.name: family.fisher_information for family in FAMILIES}

Ratios = dict[str, float]
"""A statistic by claim; what is claimed of it is in ``CLAIMS``."""

CLAIMS: dict[str, tuple[str, float, str]] = {
    "Lipschitz": (
        "|F(a) − F(b)| ≤ R_C ‖a − b‖ with common noise: largest ratio",
        1 + _ROUNDING,
        "<=",
    ),
    "Lipschitz constant is reached": ("pairs come within 1% of R_C: ratio", _SHARP, ">"),
    "gradient": (
        "⟨y(a), b − a⟩ ≤ F(b) − F(a) ≤ ⟨y(b), b − a⟩ with common noise: largest excess / ε",
        _ROUNDING,
        "<=",
    ),
    "strict convexity": (
        "F((a + b)/2) < (F(a) + F(b))/2 with common noise: smallest gap / ε",
        0.0,
        ">",
    ),
    "interior": (
        "every path is taken, and y is one unit of flow: smallest frequency",
        0.0,
        ">",
    ),
    "gradient is Lipschitz": (
        "E⟨u, y(a) − y(b)⟩ ≤ (R_C M_μ/ε) ‖a − b‖ along u chosen beforehand: largest z",
        Z_THRESHOLD,
        "<=",
    ),
    "ε → 0": ("‖y_ε − y*‖ at ε = 2⁻¹², where the best path leads by 0.1", 1e-9, "<="),
    "ε → ∞": (
        "E⟨u, y_ε − y₁(0)⟩ ≤ R_C M_μ ‖θ‖/ε, to ε = 4096, u chosen beforehand: largest z",
        Z_THRESHOLD,
        "<=",
    ),
    "gap": (
        "F + ε⟨y*, z̄⟩ ≤ F_ε ≤ F + ε F₁(0) with common noise: largest excess / ε",
        _COLD_ROUNDING,
        "<=",
    ),
    "gap is reached": (
        "F_ε(0) = ε F₁(0), and F_ε = F + ε⟨y*, z̄⟩ when cold, with common noise: gap / ε",
        _COLD_ROUNDING,
        "<=",
    ),
}


@ft.cache
def _incidence() -> np.ndarray:
    """The paths of fewest cells, as 0/1 rows."""
    source, target = (int(np.ravel_multi_index(cell, SHAPE)) for cell in _ENDS)
    paths = simple_paths(np.ones(SHAPE, bool), 8, source, target, _LENGTH)
    incidence = np.zeros((len(paths), _D))
    for k, path in enumerate(paths):
        incidence[k, list(path)] = 1
    return incidence


@dataclass(frozen=True)
class PathSurface:
    """``F_M`` of the scores of a grid's cells, and its gradient, by the library's samples.

    Rows in, rows out, float64. The same row of two calls sees the same noise.
    """

    noise: str
    seed: int
    neighbors: int = 8

    def layer(self, epsilon: float = EPSILON) -> dpo.Perturbed:
        """At a temperature."""
        oracle = dpo.ShortestPath(self.neighbors, source=_ENDS[0], target=_ENDS[1])
        return dpo.Perturbed(oracle, noise=self.noise, epsilon=epsilon, num_samples=_SAMPLES)

    def maximum(self, theta: np.ndarray, epsilon: float = EPSILON) -> np.ndarray:
        """``F_M``, (rows,)."""
        value = call(self.layer(epsilon).max, _costs(theta, epsilon), seed=self.seed)
        return value + _LENGTH * _raised(epsilon)

    def gradient(self, theta: np.ndarray, epsilon: float = EPSILON) -> np.ndarray:
        """``y_M``, (rows, cells)."""
        return call(self.layer(epsilon), _costs(theta, epsilon), seed=self.seed).reshape(-1, _D)

    def frequencies(self, theta: np.ndarray) -> np.ndarray:
        """How often each path is taken, (rows, paths)."""
        layer = dataclasses.replace(self.layer(), num_samples=_CENSUS)
        samples = call(layer.samples, _costs(theta, EPSILON), seed=self.seed)
        cells = samples.reshape(_CENSUS, -1, _D).astype(np.float32) @ _incidence().T.astype("f4")
        return (cells == _LENGTH).mean(0)

    def steepest(self, theta: np.ndarray) -> np.ndarray:
        """A unit vector along which the gradient changes most, for one row of scores."""
        costs = _costs(theta[None], EPSILON)
        hessian = call(self.layer().jacobian, costs, seed=self.seed).reshape(_D, _D)
        return np.linalg.eigh(-(hessian + hessian.T))[1][:, -1]

    @property
    def radius(self) -> float:
        """``R_C``: every solution has this norm."""
        return float(np.sqrt(_LENGTH))

    @property
    def moment(self) -> float:
        """``M_mu``."""
        return float(np.sqrt(_D * _FISHER[self.noise]))


def _costs(theta: np.ndarray, epsilon: float) -> np.ndarray:
    return (_raised(epsilon) - theta).reshape(-1, *SHAPE)


def _raised(epsilon: float) -> float:
    return _BASE * max(epsilon, 1.0)


def _best(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``y*`` by looking at every path, (rows, cells), and by how much it leads, (rows,)."""
    totals = theta @ _incidence().T
    first, second = np.sort(totals, axis=1)[:, :-3:-1].T
    return _incidence()[totals.argmax(1)], first - second


def path_tests(
    surface: PathSurface, pilot: PathSurface, rng: np.random.Generator, count: int
) -> Ratios:
    """Every statistic of ``CLAIMS``, from ``count`` random pairs; ``pilot`` has other noise."""
    a, b = 0.1 * rng.normal(size=(2, count, _D))
    away = b + _DECIDED * _best(rng.normal(size=(count, _D)))[0]  # decided
    pairs = [(a, b), (a, a + 0.1 * (b - a)), (away, away + _best(away)[0])]
    lipschitz = float(max(_slopes(surface, *pair).max() for pair in pairs)) / surface.radius
    return {
        "Lipschitz": lipschitz,
        "Lipschitz constant is reached": lipschitz,
        "gradient": max(_sandwich(surface, *pair) for pair in pairs) / EPSILON,
        "strict convexity": _bend(surface, a, b) / EPSILON,
        "interior": _slack(surface, a[:4]),
        "gradient is Lipschitz": float(gradient_scores(surface, pilot, a[0]).max()),
        "ε → ∞": float(hot_scores(surface, pilot, a[0]).max()),
        **_limits(surface, rng.normal(size=(count, _D))),
    }


def _slopes(surface: PathSurface, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    change = surface.maximum(a) - surface.maximum(b)
    return np.abs(change) / np.linalg.norm(a - b, axis=1)


def _sandwich(surface: PathSurface, a: np.ndarray, b: np.ndarray) -> float:
    change = surface.maximum(b) - surface.maximum(a)
    low, high = (((b - a) * surface.gradient(at)).sum(1) for at in (a, b))
    return float(np.maximum(low - change, change - high).max())


def _bend(surface: PathSurface, a: np.ndarray, b: np.ndarray) -> float:
    ends = (surface.maximum(a) + surface.maximum(b)) / 2
    return float((ends - surface.maximum((a + b) / 2)).min())


def _slack(surface: PathSurface, theta: np.ndarray) -> float:
    """Negative where a column of the grid does not have one unit of flow."""
    wrong = np.abs(surface.gradient(theta).reshape(-1, *SHAPE).sum(1) - 1).max()
    return -float(wrong) if wrong > _ROUNDING else float(surface.frequencies(theta).min())


def _directions(change: np.ndarray) -> np.ndarray:
    """Unit vectors; any, where nothing has changed."""
    length = np.linalg.norm(change, axis=-1, keepdims=True)
    return np.where(length > 0, change / np.where(length > 0, length, 1), _D**-0.5)


def gradient_scores(surface: PathSurface, pilot: PathSurface, theta: np.ndarray) -> np.ndarray:
    """z-scores of the gradient's Lipschitz constant, (4,): steepest and random, near and far."""
    ways = [np.zeros(_D), pilot.steepest(np.zeros(_D))], [theta, _directions(theta[::-1])]
    scores = []
    for start, along in ways:
        for step in (0.01, 0.1):
            a, b = (np.tile(end, (_REPLICATES, 1)) for end in (start, start + step * along))
            u = _directions((pilot.gradient(b) - pilot.gradient(a)).mean(0))
            change = (surface.gradient(b) - surface.gradient(a)) @ u
            bound = surface.radius * surface.moment / EPSILON * step
            scores.append(float(upper_score(change - bound)))
    return np.array(scores)


def hot_scores(surface: PathSurface, pilot: PathSurface, theta: np.ndarray) -> np.ndarray:
    """z-scores of the way back to ``y_1(0)``, one a temperature of ``_HOT``."""
    rows, zero = np.tile(theta, (_REPLICATES, 1)), np.zeros((_REPLICATES, _D))
    scores = []
    for epsilon in _HOT:
        change = [one.gradient(rows, epsilon) - one.gradient(zero, 1.0) for one in (pilot, surface)]
        u = _directions(change[0].mean(0))
        bound = surface.radius * surface.moment * np.linalg.norm(theta) / epsilon
        scores.append(float(upper_score(change[1] @ u - bound)))
    return np.array(scores)


def _limits(surface: PathSurface, theta: np.ndarray) -> Ratios:
    best, lead = _best(theta)
    theta, best = theta[lead > 0.1], best[lead > 0.1]
    score = (best * theta).sum(1)
    zero, far = np.zeros_like(theta), _DECIDED * best
    at_zero = surface.maximum(zero, 1.0)
    mean = surface.maximum(far, 1.0) - _DECIDED * _LENGTH  # <y*, mean z>
    excess = reached = -np.inf
    for epsilon in _TEMPERATURES:
        gap = (surface.maximum(theta, epsilon) - score) / epsilon
        excess = max(excess, float((mean - gap).max()), float((gap - at_zero).max()))
        reached = max(reached, float(abs(surface.maximum(zero, epsilon) / epsilon - at_zero).max()))
    cold = (surface.maximum(theta, _COLD) - score) / _COLD
    return {
        "ε → 0": float(np.abs(surface.gradient(theta, _COLD) - best).max()),
        "gap": excess,
        "gap is reached": max(reached, float(np.abs(cold - mean).max())),
    }


def table(tests: dict[str, Ratios]) -> Table:
    """The worst cases, a row a noise."""
    claims = ("interior", "strict convexity", "gradient is Lipschitz", "ε → ∞")
    rows = []
    for noise, ratios in tests.items():
        surface = PathSurface(noise, 0)
        bound = surface.radius * surface.moment / EPSILON
        shown = f"{100 * ratios['Lipschitz']:.3g}%", *(f"{ratios[claim]:.2g}" for claim in claims)
        rows.append((f"{SPELLED[noise]} noise", f"{surface.radius:.3g}", f"{bound:.3g}", *shown))
    header = ("case", "R_C", "R_C M_μ/ε", "of R_C", "rarest path", "convexity gap / ε",
              "z over R_C M_μ/ε", "z over the bound as ε → ∞")  # fmt: skip
    return Table(f"Cheapest paths, ε = {EPSILON}: worst cases found", header, tuple(rows))
