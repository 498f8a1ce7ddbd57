"""Proposition 4.1: the estimate theta-hat is asymptotically normal, with the sandwich covariance.

``_theta_hat.py`` has the estimate. Errors of many independent data sets, whitened by the promised
covariance, must be N(0, I) when data sets are large, and must not be when they are tiny: a mean of
four solutions often has no theta-hat at all.
"""

from __future__ import annotations

import functools as ft

import numpy as np
from scipy import stats

from . import _plots
from ._estimators import SPELLED
from ._problems import ORACLES, small
from ._results import Check, Figure, Section, Table
from ._scores import worst, zcheck
from ._settings import Settings
from ._statistics import (
    Z_THRESHOLD,
    binomial_scores,
    chi_square_scores,
    distribution_scores,
    kolmogorov_distance,
    largest,
    student_scores,
)
from ._theta_hat import Estimation, whitened

SIZES = (4, 16, 64, 256, 2048, 16384)
"""Targets in a data set."""
_FEWER = (4, 64, 256, 2048)
"""Of paths, where expectations are sampled."""
LEVELS = np.array([0.5, 0.9, 0.95, 0.99])
_PROJECTIONS = 12
_STUDIES = (
    ("argmax", "normal"),
    ("argmax", "gumbel"),
    ("argmax", "logistic"),
    ("topk", "normal"),
    ("ranks", "gumbel"),
    ("paths", "normal"),
)

Study = tuple[str, str]
Errors = dict[int, np.ndarray]
"""Whitened errors, (data sets, k), by the size of a data set."""


def run(settings: Settings) -> Section:
    """Every study at every size, judged at the largest and at the smallest."""
    studies = {}
    for study in settings.pick(_STUDIES, _STUDIES, _STUDIES[::3]):
        settings.tick(" ".join(study))
        studies[study] = study_errors(study, settings)
    checks = [check for study, errors in studies.items() for check in _checks(study, errors)]
    settings.tick("figures")
    return Section(
        title="Asymptotic normality",
        intro="Proposition 4.1: √n (θ̂ₙ − θ₀) → N(0, H⁺ Σ H⁺), with H the Hessian of F_ε at θ₀ and "
        "Σ the covariance of one target. Each data set has n targets drawn at θ₀; θ̂ solves "
        "y_ε(θ̂) = Ȳ by Newton's method on exact expectations (paths: on the fused sampler, whose "
        "noise of known covariance is added to the data's). H and Σ are exact.\n\nSolutions lie in "
        "an affine subspace, so θ is free in the directions orthogonal to it (Remark 1): θ̂ is "
        "compared with θ₀ along the subspace only. A mean on the boundary of the hull has no θ̂; "
        "such data sets count as infinitely wrong. That is why the limit must visibly fail at "
        f"n = {SIZES[0]}, and the report requires that it does.",
        checks=tuple(checks),
        figures=(_approach(studies), _shapes(studies)),
        tables=(_table(studies),),
    )


@ft.cache
def estimation(study: Study) -> Estimation:
    """The problem of a study, with its exact H and covariance; made once."""
    return Estimation(small(*study), 4096 if study[0] == "paths" else None)


def study_errors(study: Study, settings: Settings) -> Errors:
    """Whitened errors at every size."""
    problem, paths = estimation(study), study[0] == "paths"
    sets = settings.pick(256 if paths else 1024, 4096, 256)
    sizes = _FEWER if paths else SIZES
    if settings.full:
        sizes = (*sizes, 2 ** (13 if paths else 17))
    errors = {}
    for n in sizes:
        seed = settings.seed_for("theta-hat", *study, n)
        errors[n] = whitened(problem.errors(n, sets, seed), problem.limit(n))
    return errors


# ---------------------------------------------------------------------------------------- the tests


def normality_scores(w: np.ndarray) -> dict[str, np.ndarray]:
    """z-scores of "rows are independent and N(0, I)", (sets, k), by claim.

    distances    |w|^2 is chi-square with k degrees of freedom: Kolmogorov-Smirnov, Anderson-Darling
    shape        each coordinate and fixed projections are N(0, 1) (Cramer and Wold)
    covariance   mean 0, variances 1, covariances 0
    directions   w / |w| is uniform on the sphere: Rayleigh's and Bingham's tests
    ellipsoids   those of confidence 50, 90, 95 and 99 % cover theta_0 as often: binomial
    independence neighbours are uncorrelated
    """
    sets, k = w.shape
    finite = np.isfinite(w).all(1)
    w = np.where(finite[:, None], w, 1e8 * np.ones(k) / np.sqrt(k))  # infinitely wrong, near enough
    squares = (w**2).sum(1)
    axes = np.concatenate([np.eye(k), _projections(k)])
    unit = w / np.sqrt(squares)[:, None]
    inside = np.array([(squares <= radius).sum() for radius in stats.chi2.ppf(LEVELS, k)])
    pairs = w[:, :, None] * w[:, None, :] - np.eye(k)
    upper = pairs[:, *np.triu_indices(k)]
    return {
        "distances": distribution_scores(squares, stats.chi2(k).cdf),
        "shape": np.concatenate([distribution_scores(w @ a, stats.norm.cdf) for a in axes]),
        "covariance": np.concatenate(
            [
                [chi_square_scores(sets * (w.mean(0) ** 2).sum(), k)],
                [chi_square_scores(squares.sum(), sets * k)],
                student_scores(upper, np.zeros(upper.shape[1])),
            ]
        ),
        "directions": _directions(unit),
        "ellipsoids": binomial_scores(inside, sets, LEVELS),
        "independence": student_scores((w[1:] * w[:-1]).sum(1), np.zeros(())).reshape(1),
    }


@ft.cache
def _projections(k: int) -> np.ndarray:
    directions = np.random.default_rng(k).normal(size=(_PROJECTIONS, k))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def _directions(unit: np.ndarray) -> np.ndarray:
    """Rayleigh's test of the mean direction and Bingham's of the second moments."""
    sets, k = unit.shape
    rayleigh = k * sets * (unit.mean(0) ** 2).sum()
    moments = unit.T @ unit / sets
    bingham = k * (k + 2) / 2 * sets * ((moments - np.eye(k) / k) ** 2).sum()
    freedom = np.array([k, (k - 1) * (k + 2) / 2])
    return chi_square_scores(np.array([rayleigh, bingham]), freedom)


_STATEMENTS = {
    "distances": "|w|² of whitened errors is χ²ₖ (Kolmogorov-Smirnov, Anderson-Darling)",
    "shape": "every coordinate and twelve projections of w are N(0, 1)",
    "covariance": "the covariance of θ̂ is H⁺ Σ H⁺ / n, its mean θ₀",
    "directions": "directions of w are uniform on the sphere (Rayleigh, Bingham)",
    "ellipsoids": "ellipsoids of confidence 50, 90, 95 and 99 % cover θ₀ that often (binomial)",
}


def name_of(study: Study) -> str:
    """As a sentence has it."""
    oracle, noise = study
    return f"{ORACLES[oracle].lower()}, {SPELLED[noise]} noise"


def _checks(study: Study, errors: Errors) -> list[Check]:
    smallest, most = min(errors), max(errors)
    scores = normality_scores(errors[most])
    scores["shape"] = np.append(scores["shape"], scores.pop("independence"))
    sets, k = errors[most].shape
    note = f"n = {most:,}, {sets:,} data sets, k = {k}"
    checks = [
        zcheck(f"θ̂ {claim}, {name_of(study)}", _STATEMENTS[claim], {claim: z}, note)
        for claim, z in scores.items()
    ]
    tiny = normality_scores(errors[smallest])
    lost = 1 - np.isfinite(errors[smallest]).all(1).mean()
    checks.append(
        Check(
            f"θ̂ is not yet normal, {name_of(study)}",
            f"at n = {smallest} the same tests reject: largest |z|",
            largest(np.concatenate([*tiny.values()])),
            Z_THRESHOLD,
            ">",
            f"{100 * lost:.0f}% of data sets have no θ̂",
        )
    )
    return checks


# ----------------------------------------------------------------------------------- what is shown


def _squares(w: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(w).all(1), (w**2).sum(1), np.inf)


def _coverage(w: np.ndarray, level: float = 0.95) -> float:
    return float((_squares(w) <= stats.chi2.ppf(level, w.shape[1])).mean())


def _table(studies: dict[Study, Errors]) -> Table:
    sizes = sorted({n for errors in studies.values() for n in errors})
    rows = []
    for study, errors in studies.items():
        cells = []
        for n in sizes:
            if n not in errors:
                cells.append("")
                continue
            score = worst(normality_scores(errors[n]))[0]
            cells.append(f"{score:.1f} ({100 * _coverage(errors[n]):.1f}%)")
        rows.append((name_of(study), *cells))
    return Table(
        "Largest |z| of all tests of normality by the size n of a data set, and how often the 95% "
        f"ellipsoid covers θ₀; a test rejects beyond {Z_THRESHOLD:.1f}",
        ("study", *(f"n = {n:,}" for n in sizes)),
        tuple(rows),
    )


def _approach(studies: dict[Study, Errors]) -> Figure:
    return Figure(
        "How the limit is approached. Left: Kolmogorov's distance between squared Mahalanobis "
        "distances and their χ² law; below the grey line a sample of this size cannot tell them "
        "apart (5%). Right: coverage of the 95% ellipsoid, with the band where 95% of correct "
        "coverages fall.",
        (_distance_panel(studies), _coverage_panel(studies)),
    )


def _distance_panel(studies: dict[Study, Errors]) -> str:
    figure, ax = _plots.axes("Distance from the limit", "targets n", "sup |Fₙ − χ²|")
    for k, (study, errors) in enumerate(studies.items()):
        sets, dimension = next(iter(errors.values())).shape
        cdf = stats.chi2(dimension).cdf
        gaps = [kolmogorov_distance(_squares(w), cdf)[0] / np.sqrt(len(w)) for w in errors.values()]
        ax.loglog(
            [*errors], gaps, _plots.MARKERS[k], ls=_plots.STYLES[k], color=_plots.COLOURS[k],
            label=name_of(study).removesuffix(" noise"),
        )  # fmt: skip
    ax.axhline(1.358 / np.sqrt(sets), color=_plots.GREY, lw=1)
    ax.legend()
    return _plots.as_svg(figure, "Distance of squared whitened errors from chi-square, by n")


def _coverage_panel(studies: dict[Study, Errors]) -> str:
    figure, ax = _plots.axes("Coverage of 95% ellipsoids", "targets n", "coverage (%)")
    for k, errors in enumerate(studies.values()):
        ax.semilogx(
            [*errors], [100 * _coverage(w) for w in errors.values()], _plots.MARKERS[k],
            ls=_plots.STYLES[k], color=_plots.COLOURS[k],
        )  # fmt: skip
    sets = len(next(iter(errors.values())))
    half = 196 * np.sqrt(0.95 * 0.05 / sets)
    ax.axhspan(95 - half, 95 + half, color=_plots.GREY, alpha=0.35, lw=0)
    return _plots.as_svg(figure, "Coverage of 95% confidence ellipsoids, by n")


def _shapes(studies: dict[Study, Errors]) -> Figure:
    study, errors = next(iter(studies.items()))
    sizes = [SIZES[1], SIZES[2], max(errors)]
    panels = [_cloud(errors[n], n) for n in sizes]
    return Figure(
        f"Whitened errors of {name_of(study)}, the first two coordinates of "
        f"{errors[sizes[0]].shape[1]}, each point a data set; the circle would hold 95%. Those "
        "without a θ̂ are not shown.",
        tuple(panels),
    )


def _cloud(w: np.ndarray, n: int) -> str:
    figure, ax = _plots.axes(f"n = {n:,}", "w₁", "w₂", (3.4, 3.3))
    shown = w[np.isfinite(w).all(1)][:600]
    ax.plot(*shown[:, :2].T, "o", color=_plots.COLOURS[0], ms=2, mew=0, alpha=0.6)
    angle = np.linspace(0, 2 * np.pi, 100)
    radius = np.sqrt(stats.chi2.ppf(0.95, 2))
    ax.plot(radius * np.cos(angle), radius * np.sin(angle), color=_plots.COLOURS[1], lw=1.2)
    ax.set(xlim=(-6, 6), ylim=(-6, 6), aspect="equal")
    return _plots.as_svg(figure, f"Whitened errors of theta-hat at n = {n}")
