"""What a variance reduction buys, what its error bars are worth, and that rows are strangers.

Total variances are mean squared errors against the exact answers, summed over the entries of an
output, at equal numbers of samples.
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
    Draw,
    Plan,
    capital,
    from_library,
)
from ._problems import ORACLES, small
from ._results import Check, Figure, Section, Table
from ._scores import Scores, zcheck
from ._settings import Settings
from ._statistics import (
    Z_THRESHOLD,
    bootstrap_ratio,
    calibration_scores,
    ratio_score,
    variance_scores,
)

_SAMPLES = 1024
_COUNTS = 4 ** np.arange(2, 8)
_BATCHES = (1, 64, 2048)
_QMC_SLOPE = -0.55
"""For steps in d = 5 coordinates theory has -1/2 - 1/(2 d) = -0.6."""

Errors = dict[tuple[str, str, str, str], np.ndarray]
"""Squared errors of replicates by oracle, noise, output and reduction."""


def run(settings: Settings) -> Section:
    """Ratios of variances with their intervals, rates, honest error bars, rows."""
    errors = _squared_errors(settings)
    settings.tick("rates")
    rates = {of: _rates(of, settings) for of in ("value", "vjp")}
    honest = {}
    for reduction in REDUCTIONS:
        settings.tick(f"standard errors, {REDUCTIONS[reduction]}")
        honest[reduction] = honesty_scores(from_library, reduction, settings)
    settings.tick("rows")
    rows = {r: row_scores(from_library, r, settings) for r in REDUCTIONS}
    return Section(
        title="Variance reductions",
        intro=f"Total variance of every estimator at M = {_SAMPLES:,}, as a ratio to the plain "
        "estimator's with independent samples; intervals are the bootstrap's central 95%. For the "
        "value and the maximum leave-one-out is that estimator. Antithetic pairs provably lower "
        "the variance of whatever is monotone in each coordinate of the noise, as each of these "
        "values and maxima is. Nothing is promised of their derivatives, and quasi-Monte-Carlo is "
        "promised to pay only where few coordinates matter.\n\nStandard errors are tested by "
        "E[(estimate − exact)²] = E[reported²]. A row's derivative must have the same variance "
        "alone and in a batch, and batches of copies must average as independent rows do.",
        checks=(
            *_no_worse(errors),
            *(_rate_check(of, rates[of]) for of in rates),
            *(_honest_check(r, scores) for r, scores in honest.items()),
            *(_rows_check(r, scores) for r, scores in rows.items()),
        ),
        figures=(_ratio_figure(errors), _rate_figure(rates)),
        tables=(_table(errors), _loo_table(errors)),
    )


def _squared_errors(settings: Settings) -> Errors:
    errors = {}
    for oracle, noise in it.product(ORACLES, NOISES):
        settings.tick(f"{oracle}, {noise}")
        case = small(oracle, noise)
        for of, reduction in it.product(OUTPUTS, REDUCTIONS):
            if of not in DERIVATIVES and reduction == "none":
                continue
            seed = settings.seed_for("reductions", oracle, noise, of, reduction)
            replicates = settings.pick(512 if oracle != "paths" else 256, 4096)
            plan = Plan(of, replicates, _SAMPLES, seed, reduction)
            gaps = from_library(case, plan)[0] - case.exact(of)
            errors[oracle, noise, of, reduction] = (gaps**2).reshape(replicates, -1).sum(1)
    return errors


def _baseline(errors: Errors, oracle: str, noise: str, of: str) -> np.ndarray:
    """Of the plain estimator with independent samples."""
    return errors[oracle, noise, of, "none" if of in DERIVATIVES else "loo"]


# -------------------------------------------------------------------------------------- the claims


def _no_worse(errors: Errors) -> list[Check]:
    claims = (
        ("loo", DERIVATIVES, "Leave-one-out derivatives are no worse than plain ones"),
        ("antithetic", ("value", "max"), "Antithetic values and maxima are no worse"),
        ("qmc", ("value", "max"), "Quasi-Monte-Carlo values and maxima are no worse"),
    )
    checks = []
    for reduction, outputs, name in claims:
        scores, ratios = [], []
        for oracle, noise, of in it.product(ORACLES, NOISES, outputs):
            ours = errors[oracle, noise, of, reduction]
            plain = _baseline(errors, oracle, noise, of)
            scores.append(ratio_score(ours, plain))
            ratios.append(ours.mean() / plain.mean())
        checks.append(
            Check(
                name,
                "total variance is not above independent samples', every oracle and noise: max z",
                max(scores),
                Z_THRESHOLD,
                note=f"{len(scores)} ratios, {min(ratios):.2g} to {max(ratios):.2g}",
                scores=len(scores),
            )
        )
    return checks


def _rates(of: str, settings: Settings) -> dict[str, np.ndarray]:
    """Root-mean-square errors at growing numbers of samples, argmax, normal noise."""
    case, rates = small("argmax", "normal"), {}
    for reduction in ("loo", "antithetic", "qmc"):
        rms = []
        for m in _COUNTS:
            seed = settings.seed_for("rates", of, reduction, m)
            plan = Plan(of, settings.pick(128, 1024), int(m), seed, reduction)
            rms.append(np.sqrt(np.mean((from_library(case, plan)[0] - case.exact(of)) ** 2)))
        rates[reduction] = np.array(rms)
    return rates


def _slope(rms: np.ndarray) -> float:
    """From 64 samples on: with 16 the randomisations are of one point each."""
    return float(np.polyfit(np.log(_COUNTS[1:]), np.log(rms[1:]), 1)[0])


def _rate_check(of: str, rates: dict[str, np.ndarray]) -> Check:
    slopes = {reduction: _slope(rms) for reduction, rms in rates.items()}
    return Check(
        f"Quasi-Monte-Carlo beats the square root: {NAMES[of]}",
        "the error falls faster than 1/√M, argmax of five, normal noise: slope",
        slopes["qmc"],
        _QMC_SLOPE,
        note="; ".join(f"{REDUCTIONS[r]} {slope:.3f}" for r, slope in slopes.items()),
    )


# ---------------------------------------------------------------------------------- standard errors


def honesty_scores(
    draw: Draw, reduction: str, settings: Settings, oracles: tuple[str, ...] = tuple(ORACLES)
) -> Scores:
    """z-scores of the reported standard errors, by oracle, noise and output."""
    scores = {}
    for oracle, noise, of in it.product(oracles, NOISES, OUTPUTS):
        if of not in DERIVATIVES and reduction == "none":
            continue
        case = small(oracle, noise)
        seed = settings.seed_for("honest", oracle, noise, of, reduction)
        replicates = settings.pick(4096 if oracle != "paths" else 2048, 2**15)
        plan = Plan(of, replicates, settings.pick(64, 256), seed, reduction)
        key = f"{NAMES[of]}, {oracle}, {SPELLED[noise]} noise"
        scores[key] = calibration_scores(*draw(case, plan), case.exact(of)).ravel()
    return scores


def _honest_check(reduction: str, scores: Scores) -> Check:
    return zcheck(
        f"Standard errors, {REDUCTIONS[reduction]}",
        "reported standard errors are the true root-mean-square errors, every oracle and noise",
        scores,
    )


# --------------------------------------------------------------------------------------------- rows


def row_scores(draw: Draw, reduction: str, settings: Settings) -> Scores:
    """z-scores of "a row's VJP varies as much alone as in a batch, and rows are independent"."""
    case = small("argmax", "normal")
    count = settings.pick(2048, 8192)
    samples = {}
    for batch in _BATCHES:
        calls = []
        for k in range(max(1, count // batch)):
            seed = settings.seed_for("rows", reduction, batch, k)
            calls.append(draw(case, Plan("vjp", batch, 64, seed, reduction))[0][:, 0])
        samples[batch] = np.stack(calls)
    alone = samples[1].reshape(-1, case.direction.size)
    scores = {}
    for batch in _BATCHES[1:]:
        rows = samples[batch].reshape(alone.shape)
        scores[f"{batch} rows"] = variance_scores(rows, alone)
    middle = samples[_BATCHES[1]]
    means = middle.mean(1) * np.sqrt(middle.shape[1])
    scores[f"means of {_BATCHES[1]} rows"] = variance_scores(means, alone)
    return scores


def _rows_check(reduction: str, scores: Scores) -> Check:
    batches = ", ".join(f"{batch:,}" for batch in _BATCHES)
    return zcheck(
        f"Rows do not meet, {REDUCTIONS[reduction]}",
        f"the VJP of a row has one variance in batches of {batches}, and rows are independent",
        scores,
        "F-tests",
    )


# ----------------------------------------------------------------------------------- what is shown


def _ratio(errors: Errors, key: tuple[str, str, str], reduction: str):
    """The ratio to the plain estimator, with its interval."""
    ours, plain = errors[(*key, reduction)], _baseline(errors, *key)
    return ours.mean() / plain.mean(), *bootstrap_ratio(ours, plain)


def _shown(of: str) -> tuple[str, ...]:
    return ("loo", "antithetic", "qmc") if of in DERIVATIVES else ("antithetic", "qmc")


def _table(errors: Errors) -> Table:
    rows = []
    for oracle, noise in it.product(ORACLES, NOISES):
        cells = []
        for of in OUTPUTS:
            means = [errors[oracle, noise, of, reduction].mean() for reduction in _shown(of)]
            plain = _baseline(errors, oracle, noise, of).mean()
            cells.append(" / ".join(f"{mean / plain:.2g}" for mean in means))
        rows.append((f"{ORACLES[oracle]}, {SPELLED[noise]} noise", *cells))
    return Table(
        f"Variance over the plain estimator's, M = {_SAMPLES:,}: antithetic / quasi-Monte-Carlo "
        "for value and maximum, leave-one-out / antithetic / quasi-Monte-Carlo for derivatives",
        ("problem", *(capital(NAMES[of]) for of in OUTPUTS)),
        tuple(rows),
    )


def _loo_table(errors: Errors) -> Table:
    rows = []
    for oracle, noise in it.product(ORACLES, NOISES):
        cells = []
        for of, reduction in it.product(DERIVATIVES, ("antithetic", "qmc")):
            ours, loo = (errors[oracle, noise, of, r] for r in (reduction, "loo"))
            low, high = bootstrap_ratio(ours, loo)
            cells.append(f"{ours.mean() / loo.mean():.2g} ({low:.2g} to {high:.2g})")
        rows.append((f"{ORACLES[oracle]}, {SPELLED[noise]} noise", *cells))
    names = it.product(DERIVATIVES, ("antithetic", "QMC"))
    return Table(
        f"Variance over leave-one-out's, M = {_SAMPLES:,}, with 95% bootstrap intervals; above 1 "
        "the reduction costs more than it gives",
        ("problem", *(f"{capital(NAMES[of])}, {name}" for of, name in names)),
        tuple(rows),
    )


def _ratio_figure(errors: Errors) -> Figure:
    panels = tuple(_ratio_panel(oracle, errors) for oracle in ORACLES)
    caption = (
        "Variance relative to the plain estimator with independent samples (the line at 1), with "
        "95% bootstrap intervals; within each reduction the noises, from left to right, are "
        f"{', '.join(SPELLED[noise] for noise in NOISES)}. M = {_SAMPLES:,}."
    )
    return Figure(caption, panels)


def _ratio_panel(oracle: str, errors: Errors) -> str:
    figure, ax = _plots.axes(ORACLES[oracle], "", "variance ratio", (4.0, 3.1))
    ax.axhline(1, color=_plots.GREY, lw=1.2)
    for k, reduction in enumerate(("loo", "antithetic", "qmc")):
        points = []
        for place, of in enumerate(OUTPUTS):
            if reduction not in _shown(of):
                continue
            for n, noise in enumerate(NOISES):
                ratio, low, high = _ratio(errors, (oracle, noise, of), reduction)
                x = place + 0.27 * (k - 1) + 0.07 * (n - 1)
                points.append((x, ratio, ratio - low, high - ratio))
        x, ratio, down, up = np.array(points).T
        ax.errorbar(
            x, ratio, (down, up), fmt=_plots.MARKERS[k], color=_plots.COLOURS[k],
            ms=3, lw=1, label=REDUCTIONS[reduction],
        )  # fmt: skip
    ax.set_yscale("log")
    ax.set_xticks(range(len(OUTPUTS)), [NAMES[of] for of in OUTPUTS])
    if oracle == "argmax":
        ax.legend()
    return _plots.as_svg(figure, f"{ORACLES[oracle]}: variance ratios by output and reduction")


def _rate_figure(rates: dict[str, dict[str, np.ndarray]]) -> Figure:
    caption = (
        "Root-mean-square error against the number of samples: argmax of five scores, normal "
        "noise; fitted slopes in brackets."
    )
    return Figure(caption, tuple(_rate_panel(of, rates[of]) for of in rates))


def _rate_panel(of: str, rates: dict[str, np.ndarray]) -> str:
    title = capital(NAMES[of])
    figure, ax = _plots.axes(title, "samples M", "RMS error")
    for k, (reduction, rms) in enumerate(rates.items()):
        ax.loglog(
            _COUNTS, rms, _plots.MARKERS[k], ls=_plots.STYLES[k], color=_plots.COLOURS[k],
            label=f"{REDUCTIONS[reduction]} ({_slope(rms):.2f})",
        )  # fmt: skip
    ax.legend(title="slope from M = 64", title_fontsize=8)
    return _plots.as_svg(figure, f"{title}: error against samples for each variance reduction")
