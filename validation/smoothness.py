"""Proposition 2.2: how smooth F_eps is, where its gradient lies, and both limits of epsilon.

For argmax, top-k and ranks nothing is sampled: expectations are exact, bounds are inequalities, and
what is searched for is the worst case. Cheapest paths are in ``_path_smoothness.py``. The constants
are

    R_C = max ||y|| over solutions,   M_mu = sqrt(E ||s(Z)||^2) = sqrt(d I)

with I the Fisher information of a coordinate. Where solutions lie in an affine subspace, strict
convexity and the interior are relative to it (Remark 1).
"""

from __future__ import annotations

import dataclasses
import itertools as it
from dataclasses import dataclass

import numpy as np
from dpo.kernels.noise import FAMILIES

import dpo

from . import _path_smoothness, _plots
from ._estimators import NOISES, SPELLED
from ._exact import LAWS
from ._path_smoothness import PathSurface, path_tests
from ._problems import ORACLES
from ._results import Check, Figure, Section, Table
from ._settings import Settings

_D, _K, _EPSILON = 5, 2, 0.5
_ROUNDING = 1e-11
_SOLVERS = {"argmax": dpo.Argmax(), "topk": dpo.TopK(_K), "ranks": dpo.Ranks()}
_ASCENTS = 40
_SHARP = 0.99
_COLD = 2.0 ** -np.arange(0, 13)
_HOT = 2.0 ** np.arange(0, 13)
_FISHER = {family.name: family.fisher_information for family in FAMILIES}


@dataclass(frozen=True)
class Surface:
    """``F_eps`` of five scores and its derivatives, exact, in float64: rows in, rows out."""

    oracle: str
    noise: str

    def layer(self, epsilon: float = _EPSILON) -> dpo.Perturbed:
        """At a temperature."""
        return dpo.Perturbed(
            _SOLVERS[self.oracle], noise=self.noise, epsilon=epsilon, method="exact"
        )

    def maximum(self, theta: np.ndarray, epsilon: float = _EPSILON) -> np.ndarray:
        """``F_eps``, (rows,)."""
        return self.layer(epsilon).max(theta)

    def gradient(self, theta: np.ndarray, epsilon: float = _EPSILON) -> np.ndarray:
        """``y_eps``, (rows, d)."""
        return self.layer(epsilon)(theta)

    def hessian(self, theta: np.ndarray) -> np.ndarray:
        """``D y_eps``, (rows, d, d)."""
        return self.layer().jacobian(theta)

    def curvature_slope(self, theta: np.ndarray, v: np.ndarray) -> np.ndarray:
        """The gradient in theta of ``v^T D y_eps v``, (rows, d)."""
        return self.layer().second_order_product(theta, v, v)

    def solution(self, theta: np.ndarray) -> np.ndarray:
        """``y*``: what is left of the perturbation when it is tiny; (rows, d)."""
        rank = np.argsort(np.argsort(theta, axis=1), axis=1) + 1.0
        if self.oracle == "ranks":
            return rank
        return (rank > _D - (1 if self.oracle == "argmax" else _K)).astype(np.float64)

    @property
    def radius(self) -> float:
        """``R_C``: every solution has this norm."""
        return float(np.linalg.norm(self.solution(np.arange(_D)[None])))

    @property
    def moment(self) -> float:
        """``M_mu``."""
        return float(np.sqrt(_D * _FISHER[self.noise]))


SURFACES = [Surface(*pair) for pair in it.product(_SOLVERS, NOISES)]


def run(settings: Settings) -> Section:
    """Lipschitz constants, convexity, interior, limits, the gap: four oracles, three noises."""
    rng = np.random.default_rng(settings.seed_for("smoothness"))
    tests = {}
    for surface in SURFACES:
        settings.tick(f"{surface.oracle} {surface.noise}")
        tests[surface] = smoothness_tests(surface, rng, settings.pick(256, 4096, 64))
    paths = {}
    for noise in NOISES:
        settings.tick(f"paths {noise}")
        surface, pilot = (
            PathSurface(noise, settings.seed_for("smoothness", noise, use))
            for use in ("paths", "pilot")
        )
        paths[noise] = path_tests(surface, pilot, rng, settings.pick(64, 1024))
    settings.tick("figures")
    ascent = {s: steepest(s, _starts(rng, 32))[1] for s in SURFACES if s.noise == "normal"}
    return Section(
        title="Smoothness and limits",
        intro="Proposition 2.2, on exact expectations of five scores, so that an inequality holds "
        "to rounding or does not hold. F_ε is R_C-Lipschitz and its gradient R_C M_μ/ε-Lipschitz: "
        "both are attacked with random pairs, with pairs along the steepest direction, and by "
        "climbing, step by step with exact third derivatives, to where the top eigenvalue of the "
        "Hessian (power iteration) is largest. The first constant must be reached to within 1%, "
        "or the attack would prove little; the second is not sharp, and the table says how much of "
        "it is used.\n\nStrict convexity and the interior are relative to the affine hull of the "
        "solutions. As ε → 0 the solution returns to y*, as ε → ∞ it goes to y₁(0), at the rate "
        "that the Lipschitz constant of the gradient promises.\n\nCheapest paths are sampled: 51 "
        "that overlap, on a 5 × 6 grid. Two calls with one seed see the same noise, and then the "
        "sampled maximum and its gradient meet the proposition to rounding, whatever the number of "
        "samples. Only what holds of expectations alone, the gradient's Lipschitz constant and its "
        "way to y₁(0), is tested with replicates: one-sided, along a direction that other noise "
        "has chosen.",
        checks=(*_checks(tests), *_path_checks(paths)),
        figures=(_limits_figure(), _ascent_figure(ascent)),
        tables=(_table(tests), _path_smoothness.table(paths)),
    )


# ---------------------------------------------------------------------------------------- the tests

Ratios = dict[str, float]
"""A statistic by claim; what is claimed of it is in ``CLAIMS``."""

CLAIMS: dict[str, tuple[str, float, str]] = {
    "Lipschitz": ("|F(a) − F(b)| ≤ R_C ‖a − b‖: largest ratio", 1 + _ROUNDING, "<="),
    "Lipschitz constant is reached": ("the attack comes within 1% of R_C: ratio", _SHARP, ">"),
    "gradient is Lipschitz": (
        "‖y(a) − y(b)‖ ≤ (R_C M_μ/ε) ‖a − b‖ and λ_max(H) ≤ R_C M_μ/ε: largest ratio",
        1 + _ROUNDING,
        "<=",
    ),
    "Hessian is symmetric and positive": (
        "H = Hᵀ, 1 is in its kernel, other eigenvalues are positive: smallest / ε⁻¹",
        0.0,
        ">",
    ),
    "strict convexity": (
        "F((a + b)/2) < (F(a) + F(b))/2 unless a − b is constant: smallest gap / ε",
        0.0,
        ">",
    ),
    "interior": ("y_ε(θ) is in the hull's relative interior: smallest slack", 0.0, ">"),
    "ε → 0": ("‖y_ε − y*‖ at ε = 2⁻¹², scores 0.1 apart", 1e-9, "<="),
    "ε → ∞": ("‖y_ε − y₁(0)‖ ≤ R_C M_μ ‖θ‖/ε, to ε = 4096: largest ratio", 1 + 1e-6, "<="),
    "gap": ("F + ε⟨y*, E Z⟩ ≤ F_ε ≤ F + ε F₁(0): largest excess / ε", 1e-9, "<="),
    "gap is reached": ("F_ε(0) = ε F₁(0), and F_ε → F + ε⟨y*, E Z⟩ when cold: gap / ε", 1e-9, "<="),
}


def smoothness_tests(surface: Surface, rng: np.random.Generator, count: int) -> Ratios:
    """Every statistic of ``CLAIMS``, from ``count`` random pairs and as many climbs as need be."""
    a, b = 0.5 * rng.normal(size=(2, count, _D))
    top, path = steepest(surface, _starts(rng, min(count, 64) // 2))
    far = 40 * _EPSILON * _centred(surface.solution(rng.normal(size=(count, _D))))
    bound = surface.radius * surface.moment / _EPSILON
    away = b + far  # decided: there F rises along y*
    pairs = [(a, b), (a, a + 1e-3 * (b - a)), (away, away + surface.solution(away))]
    lipschitz = max(_slopes(surface.maximum, *pair).max() for pair in pairs) / surface.radius
    near = [(top, top + 1e-4 * _top_vector(surface.hessian(top))), *pairs[:2]]
    gradient = max(_slopes(surface.gradient, *pair).max() for pair in near)
    return {
        "Lipschitz": lipschitz,
        "Lipschitz constant is reached": lipschitz,
        "gradient is Lipschitz": max(gradient, path[-1]) / bound,
        "Hessian is symmetric and positive": _smallest_eigenvalue(surface, a) * _EPSILON,
        "strict convexity": _bend(surface, a, b) / _EPSILON,
        "interior": _slack(surface, surface.gradient(a)),
        **_limit_tests(surface, a),
    }


def _centred(y: np.ndarray) -> np.ndarray:
    return y - y.mean(1, keepdims=True)


def _starts(rng: np.random.Generator, count: int) -> np.ndarray:
    return 0.3 * rng.normal(size=(count, _D))


def _slopes(function, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``|f(a) - f(b)| / ||a - b||`` of each pair."""
    change = (function(a) - function(b)).reshape(len(a), -1)
    return np.linalg.norm(change, axis=1) / np.linalg.norm(a - b, axis=1)


def _top_vector(hessian: np.ndarray, steps: int = 30) -> np.ndarray:
    """Power iteration: a unit vector of the largest eigenvalue, row by row."""
    v = np.linspace(-1, 1, _D) ** 3 + np.zeros((len(hessian), _D))
    v[:, 0] += 0.3
    for _ in range(steps):
        v = np.einsum("rij,rj->ri", hessian, v)
        v /= np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-300)
    return v


def steepest(surface: Surface, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Climb to where the Hessian's top eigenvalue is largest; its course, (steps + 1,).

    For a simple eigenvalue with eigenvector v the gradient is that of ``v^T H v`` with v fixed. A
    row that loses by a step takes a shorter one next.
    """
    step = np.full((len(theta), 1), 0.5 * _EPSILON**2)
    hessian = surface.hessian(theta)
    v = _top_vector(hessian)
    height = np.einsum("ri,rij,rj->r", v, hessian, v)
    course = [height.max()]
    for _ in range(_ASCENTS):
        slope = surface.curvature_slope(theta, v)
        moved = theta + step * slope * _EPSILON
        hessian = surface.hessian(moved)
        w = _top_vector(hessian)
        new = np.einsum("ri,rij,rj->r", w, hessian, w)
        better = new > height
        theta = np.where(better[:, None], moved, theta)
        v = np.where(better[:, None], w, v)
        height = np.where(better, new, height)
        step = np.where(better[:, None], 1.5 * step, 0.4 * step)
        course.append(height.max())
    return theta, np.array(course)


def _smallest_eigenvalue(surface: Surface, theta: np.ndarray) -> float:
    """Within the hull's directions; negative where H is not symmetric or moves along 1."""
    hessian = surface.hessian(theta)
    wrong = max(np.abs(hessian - hessian.swapaxes(1, 2)).max(), np.abs(hessian.sum(2)).max())
    if wrong > 1e-9 / _EPSILON:
        return -float(wrong)
    return float(np.linalg.eigvalsh(hessian)[:, 1].min())


def _bend(surface: Surface, a: np.ndarray, b: np.ndarray) -> float:
    ends = (surface.maximum(a) + surface.maximum(b)) / 2
    return float((ends - surface.maximum((a + b) / 2)).min())


def _slack(surface: Surface, y: np.ndarray) -> float:
    """The least by which an inequality of the hull is met."""
    if surface.oracle != "ranks":
        return float(min(y.min(), (1 - y).min()))
    partial = np.cumsum(np.sort(y, axis=1), axis=1)[:, :-1]  # majorised by 1 .. d
    return float((partial - np.cumsum(np.arange(1.0, _D))).min())


def _limit_tests(surface: Surface, theta: np.ndarray) -> Ratios:
    apart = 0.1 * np.argsort(np.argsort(theta, axis=1), axis=1)
    solution, middle = surface.solution(apart), np.zeros((1, _D))
    cold = float(np.abs(surface.gradient(apart, _COLD[-1]) - solution).max())
    hot = 0.0
    for epsilon in _HOT:
        distance = surface.gradient(theta, epsilon) - surface.gradient(middle, 1.0)
        allowed = surface.radius * surface.moment * np.linalg.norm(theta, axis=1) / epsilon
        hot = max(hot, float((np.linalg.norm(distance, axis=1) / allowed).max()))
    mean, at_zero = LAWS[surface.noise].mean, surface.maximum(middle, 1.0)[0]
    excess = reached = -np.inf
    for epsilon in (*_COLD, *_HOT):
        gap = (surface.maximum(apart, epsilon) - (solution * apart).sum(1)) / epsilon
        lower = mean * solution.sum(1)
        excess = max(excess, float((lower - gap).max()), float((gap - at_zero).max()))
        reached = max(reached, abs(surface.maximum(middle, epsilon)[0] / epsilon - at_zero))
    gap = (surface.maximum(apart, _COLD[-1]) - (solution * apart).sum(1)) / _COLD[-1]
    reached = max(reached, float(np.abs(gap - lower).max()))
    return {"ε → 0": cold, "ε → ∞": hot, "gap": excess, "gap is reached": reached}


def _checks(tests: dict[Surface, Ratios]) -> list[Check]:
    named = {_name(surface): ratios for surface, ratios in tests.items()}
    return [
        _worst(f"F_ε: {claim}", *spoken, {name: r[claim] for name, r in named.items()})
        for claim, spoken in CLAIMS.items()
    ]


def _path_checks(tests: dict[str, Ratios]) -> list[Check]:
    named = {f"{SPELLED[noise]} noise": ratios for noise, ratios in tests.items()}
    return [
        dataclasses.replace(
            _worst(
                f"F_ε of paths: {claim}", *spoken, {name: r[claim] for name, r in named.items()}
            ),
            scores=len(named) * _path_smoothness.SCORES.get(claim, 0),
        )
        for claim, spoken in _path_smoothness.CLAIMS.items()
    ]


def _worst(
    name: str, statement: str, threshold: float, relation: str, values: dict[str, float]
) -> Check:
    """The case that is nearest to failing, or fails most."""
    sign = 1 if relation == "<=" else -1
    case = max(values, key=lambda case: np.nan_to_num(sign * values[case], nan=np.inf))
    note = f"{len(values)} cases; worst: {case}"
    return Check(name, statement, values[case], threshold, relation, note)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------- what is shown


def _name(surface: Surface) -> str:
    return f"{ORACLES[surface.oracle].lower()}, {SPELLED[surface.noise]} noise"


def _table(tests: dict[Surface, Ratios]) -> Table:
    claims = ("Lipschitz", "gradient is Lipschitz", "interior", "strict convexity", "ε → ∞")
    rows = tuple(
        (_name(s), f"{s.radius:.3g}", f"{s.radius * s.moment / _EPSILON:.3g}",
         *(f"{100 * tests[s][c]:.3g}%" if c in (*claims[:2], claims[-1]) else f"{tests[s][c]:.1e}"
           for c in claims))
        for s in tests
    )  # fmt: skip
    caption = f"Worst cases found, five scores, ε = {_EPSILON}; of each bound, how much is used"
    header = ("case", "R_C", "R_C M_μ/ε", "of R_C", "of R_C M_μ/ε", "slack of the hull",
              "convexity gap / ε", "of the bound as ε → ∞")  # fmt: skip
    return Table(caption, header, rows)


def _limits_figure() -> Figure:
    return Figure(
        "Left: distance of y_ε from y*, scores 0.1 apart. Middle: distance from y₁(0), with the "
        "bound R_C M_μ ‖θ‖/ε (dotted). Right: (F_ε − F)/ε between its limits ⟨y*, E Z⟩ and F₁(0) "
        "(dotted). Argmax of five.",
        (_cold_panel(), _hot_panel(), _gap_panel()),
    )


_THETA = 0.1 * np.array([[0.0, 3.0, 1.0, 4.0, 2.0]])


def _curves(oracle: str = "argmax"):
    """Style and surface of each noise."""
    for k, noise in enumerate(NOISES):
        style = {"color": _plots.COLOURS[k], "ls": _plots.STYLES[k]}
        yield Surface(oracle, noise), style


def _cold_panel() -> str:
    figure, ax = _plots.axes("ε → 0", "temperature ε", "‖y_ε − y*‖")
    epsilons = 2.0 ** np.linspace(2, -7, 50)
    for surface, style in _curves():
        target = surface.solution(_THETA)
        gaps = [np.linalg.norm(surface.gradient(_THETA, e) - target) for e in epsilons]
        ax.loglog(epsilons, np.maximum(gaps, 1e-16), **style, label=SPELLED[surface.noise])
    ax.set_ylim(1e-12, 3)
    ax.invert_xaxis()
    ax.legend()
    return _plots.as_svg(figure, "Distance from the unperturbed solution as the temperature falls")


def _hot_panel() -> str:
    figure, ax = _plots.axes("ε → ∞", "temperature ε", "‖y_ε − y₁(0)‖")
    for surface, style in _curves():
        centre = surface.gradient(np.zeros((1, _D)), 1.0)
        gaps = [np.linalg.norm(surface.gradient(_THETA, e) - centre) for e in _HOT]
        ax.loglog(_HOT, gaps, **style)
        bound = surface.radius * surface.moment * np.linalg.norm(_THETA) / _HOT
        ax.loglog(_HOT, bound, color=style["color"], ls=":", lw=0.9)
    return _plots.as_svg(figure, "Distance from the centre as the temperature rises")


def _gap_panel() -> str:
    figure, ax = _plots.axes("The gap", "temperature ε", "(F_ε − F) / ε")
    epsilons = 2.0 ** np.linspace(-7, 7, 57)
    for surface, style in _curves():
        best = (surface.solution(_THETA) * _THETA).sum()
        ax.semilogx(
            epsilons, [(surface.maximum(_THETA, e)[0] - best) / e for e in epsilons], **style
        )
        for limit in (LAWS[surface.noise].mean, surface.maximum(np.zeros((1, _D)), 1.0)[0]):
            ax.axhline(limit, color=style["color"], ls=":", lw=0.9)
    return _plots.as_svg(figure, "The smoothing gap over epsilon, between its two limits")


def _ascent_figure(ascent: dict[Surface, np.ndarray]) -> Figure:
    figure, ax = _plots.axes("Search for the steepest gradient", "step", "λ_max(H) / bound")
    for k, (surface, course) in enumerate(ascent.items()):
        bound = surface.radius * surface.moment / _EPSILON
        ax.plot(
            course / bound, color=_plots.COLOURS[k], ls=_plots.STYLES[k],
            label=ORACLES[surface.oracle].lower(),
        )  # fmt: skip
    ax.axhline(1, color=_plots.GREY, lw=1)
    ax.set_ylim(0, 1.1)
    ax.legend()
    return Figure(
        "Climbing on the top eigenvalue of the exact Hessian, best of 32 starts, normal noise, as "
        "a fraction of R_C M_μ/ε (the line).",
        (_plots.as_svg(figure, "Largest Hessian eigenvalue found, over the bound"),),
    )
