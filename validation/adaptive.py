"""As many samples as each row needs: tolerances kept, error bars honest, easy rows cheap.

A row stops at the first of a few stages where its spread looks small enough. At a stage whose true
standard error is about the tolerance that is a coin toss, and one that favours means which go with
small spreads. For a normal mean with standard error sigma and any event A,

    |E[(mean - expectation) 1_A]| <= sigma phi(0) = 0.4 sigma,

so the bias that stopping makes is at most 0.4 tolerances for every stage that is a coin toss, and
with stages a factor of two or more apart there is one.
"""

from __future__ import annotations

import functools as ft
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

import dpo

from . import _plots
from ._backend import host, put
from ._estimators import NAMES, REDUCTIONS, Case, Plan, capital, in_float32, layer_of
from ._estimators import from_library as fixed
from ._problems import ORACLES, small
from ._results import Check, Figure, Section
from ._settings import Settings
from ._statistics import Z_THRESHOLD, upper_score

FIRST = 256
"""The samples of the first stage."""
_MOST = 2**20
_BIAS = float(stats.norm.pdf(0))
"""Tolerances of bias."""
_OPTIMISM = 1.25
"""Stopping where the spread looks small selects small spreads: allowed, true over reported."""
_WASTE = 5.0
"""Samples over those needed: 2 as stages are powers of two, 1.1 for safety, and a second doubling
where a first stage's spread was too large by chance."""
_GAPS = np.linspace(0, 4, 9)
TOLERANCES = {"value": 0.01, "vjp": 0.02}


@dataclass(frozen=True)
class Run:
    """Replicates of an adaptive estimate: (replicates, rows, d), and (replicates, rows) samples."""

    case: Case
    of: str
    tolerance: float
    mean: np.ndarray
    error: np.ndarray
    samples: np.ndarray
    needed: np.ndarray
    """The samples that the true spread of a sample asks for, (rows,)."""

    @property
    def gap(self) -> np.ndarray:
        """Estimate minus exact answer."""
        return self.mean - self.case.exact(self.of)


Sample = Callable[[Case, str, float, str, int, int], Run]
"""From a case, an output, a tolerance, a variance reduction, replicates and a seed to a ``Run``."""


def from_library(
    case: Case, of: str, tolerance: float, reduction: str, replicates: int, seed: int
) -> Run:
    """``dpo.Perturbed(num_samples=dpo.Adaptive(tolerance)).estimate``."""
    layer = layer_of(case, dpo.Adaptive(tolerance, _MOST), reduction)
    scores = case.theta.astype(np.float32)
    theta = np.broadcast_to(scores, (replicates, *scores.shape))
    direction = put(case.direction.astype(np.float32).reshape(case.event)) if of == "vjp" else None
    estimate = layer.estimate(put(theta), of=of, direction=direction, seed=seed)
    mean, error, samples = map(host, estimate)
    shape = (replicates, *case.shape(of))
    mean, error = (a.astype(np.float64).reshape(shape) for a in (mean, error))
    return Run(case, of, tolerance, mean, error, samples, needed(case, of, tolerance, reduction))


def needed(case: Case, of: str, tolerance: float, reduction: str) -> np.ndarray:
    """From the error bars of many samples, which ``reductions.py`` shows to be honest."""
    count = 4096
    _, error = fixed(case, Plan(of, 32, count, 0, reduction))
    variance = (error**2).mean(0).reshape(len(case.theta), -1).max(-1)
    return np.maximum(count * variance / tolerance**2, FIRST)


@ft.cache
def ladder(noise: str) -> Case:
    """Nine rows of three scores, from a near-tie to a clear winner."""
    theta = np.stack([0 * _GAPS, _GAPS, 0 * _GAPS - 0.25], 1)
    return Case("ladder", in_float32(*theta), 1.0, noise)


def runs(sample: Sample, settings: Settings) -> dict[str, Run]:
    """The ladder by output and variance reduction; then the other oracles."""
    plans = [(ladder("normal"), of, r) for of in TOLERANCES for r in REDUCTIONS if r != "none"]
    plans += [(ladder(noise), "value", "loo") for noise in ("gumbel", "logistic")]
    others = {"topk": 1, "ranks": 4, "paths": 2}  # tolerances to the scale of their solutions
    results = {}
    for case, of, reduction in plans:
        label = f"{capital(NAMES[of])}, {case.noise}, {REDUCTIONS[reduction]}"
        settings.tick(label)
        replicates = settings.pick(1024, 8192)
        seed = settings.seed_for("adaptive", label)
        results[label] = sample(case, of, TOLERANCES[of], reduction, replicates, seed)
    for oracle, scale in others.items():
        settings.tick(oracle)
        case, seed = small(oracle, "normal"), settings.seed_for("adaptive", oracle)
        tolerance = scale * TOLERANCES["value"]
        results[ORACLES[oracle]] = sample(
            case, "value", tolerance, "loo", settings.pick(256, 8192), seed
        )
    return results


def run(settings: Settings) -> Section:
    """Tolerances, true errors, bias and cost of every run."""
    drawn = runs(from_library, settings)
    return Section(
        title="Adaptive sampling",
        intro="Nine rows, from three scores that nearly tie to a clear winner, and the other "
        f"oracles, each drawn until its standard errors are at most {TOLERANCES['value']} "
        f"(value) or {TOLERANCES['vjp']} (VJP). The reported errors must keep the tolerance, and "
        "so must the true root-mean-square error against the exact answer, row by row and "
        "coordinate by coordinate; and easy rows must be cheap.\n\nStopping when the spread looks "
        "small makes estimates biased. For each stage that might or might not be the last, the "
        "bias is at most φ(0) = 0.4 standard errors, whatever the rule; stages are powers of two, "
        "so the test allows 0.4 tolerances.",
        checks=tuple(judge(drawn)),
        figures=(_figure(drawn),),
    )


# -------------------------------------------------------------------------------------- the claims


def judge(drawn: dict[str, Run]) -> list[Check]:
    """Every claim about every output."""
    checks = []
    for of in TOLERANCES:
        chosen = {label: run for label, run in drawn.items() if run.of == of}
        if chosen:
            checks += _checks(NAMES[of], chosen)
    # The errors of quasi-Monte-Carlo fall faster than the rule assumes: it may draw too many.
    steady = {label: run for label, run in drawn.items() if "quasi" not in label}
    value, where = _most(steady, lambda run: (run.samples.mean(0) / run.needed).max())
    statement = f"no row takes more than {_WASTE:g} times the samples it needs (or {FIRST}): ratio"
    return [*checks, Check("Adaptive: cost", statement, value, _WASTE, note=where)]


def _checks(name: str, chosen: dict[str, Run]) -> list[Check]:
    excess, where = _most(chosen, lambda run: run.error.max() / run.tolerance)
    statement = "every reported standard error is at most the tolerance: largest ratio"
    checks = [Check(f"Adaptive {name}: tolerance", statement, excess, 1.0, note=where)]
    for claim, (statement, score) in _CLAIMS.items():
        scores = {label: score(run) for label, run in chosen.items()}
        label = max(scores, key=lambda key: np.nan_to_num(scores[key], nan=np.inf).max())
        checks.append(
            Check(
                f"Adaptive {name}: {claim}",
                f"{statement}: max z",
                float(scores[label].max()),
                Z_THRESHOLD,
                note=f"largest: {label}",
                scores=sum(z.size for z in scores.values()),
            )
        )
    return checks


def _most(chosen: dict[str, Run], statistic: Callable[[Run], Any]) -> tuple[float, str]:
    values = {label: statistic(run) for label, run in chosen.items()}
    label = max(values, key=lambda key: np.nan_to_num(values[key], nan=np.inf))
    return float(values[label]), f"largest: {label}"


def _above_tolerance(run: Run) -> np.ndarray:
    return upper_score(run.gap**2 - run.tolerance**2)


def _optimism(run: Run) -> np.ndarray:
    """Of a row's coordinates together: one that never varied reports no error at all."""
    terms = run.gap**2 - _OPTIMISM**2 * run.error**2
    return upper_score(terms.reshape(*terms.shape[:2], -1).sum(-1))


def _too_biased(run: Run) -> np.ndarray:
    bias = run.gap.mean(0)
    return upper_score(np.sign(bias) * run.gap - _BIAS * run.tolerance)


_CLAIMS: dict[str, tuple[str, Callable[[Run], np.ndarray]]] = {
    "true errors": ("the root-mean-square error is at most the tolerance", _above_tolerance),
    "error bars": (
        f"the root-mean-square error is at most {_OPTIMISM} times the reported one",
        _optimism,
    ),
    "bias": ("the bias is at most φ(0) tolerances", _too_biased),
}


# ----------------------------------------------------------------------------------- what is shown


def _figure(drawn: dict[str, Run]) -> Figure:
    label = "{}, normal, {}".format
    of_rows = {
        of: {r: drawn[label(capital(NAMES[of]), name)] for r, name in REDUCTIONS.items()
             if r != "none"}
        for of in TOLERANCES
    }  # fmt: skip
    panels = [_samples_panel(of, of_rows[of]) for of in TOLERANCES]
    panels += [_errors_panel(of, of_rows[of]) for of in TOLERANCES]
    return Figure(
        "Above: samples used by rows that grow easier from left to right, on average; grey, what "
        "the spread of leave-one-out samples asks for. Below: true root-mean-square error of the "
        "worst coordinate (filled) and its bias (hollow) in tolerances; the lines are the limits. "
        "Normal noise.",
        tuple(panels),
    )


def _samples_panel(of: str, by_reduction: dict[str, Run]) -> str:
    title = f"{capital(NAMES[of])}: samples"
    figure, ax = _plots.axes(title, "gap of the leading score", "samples a row")
    ax.semilogy(_GAPS, by_reduction["loo"].needed, color=_plots.GREY, lw=3, alpha=0.5)
    for k, (reduction, run) in enumerate(by_reduction.items()):
        ax.semilogy(
            _GAPS, run.samples.mean(0), _plots.MARKERS[k], ls=_plots.STYLES[k],
            color=_plots.COLOURS[k], label=REDUCTIONS[reduction],
        )  # fmt: skip
    ax.set_yscale("log", base=2)
    ax.legend()
    return _plots.as_svg(figure, f"{title} against difficulty")


def _errors_panel(of: str, by_reduction: dict[str, Run]) -> str:
    title = f"{capital(NAMES[of])}: errors"
    figure, ax = _plots.axes(title, "gap of the leading score", "tolerances")
    for limit in (_BIAS, 1.0):
        ax.axhline(limit, color=_plots.GREY, lw=0.9)
    for k, run in enumerate(by_reduction.values()):
        rms = np.sqrt((run.gap**2).mean(0)).max(-1) / run.tolerance
        bias = np.abs(run.gap.mean(0)).max(-1) / run.tolerance
        style = {"color": _plots.COLOURS[k], "ls": _plots.STYLES[k], "marker": _plots.MARKERS[k]}
        ax.plot(_GAPS, rms, **style)
        ax.plot(_GAPS, bias, mfc="none", lw=0.6, **{**style, "ls": ":"})
    ax.set_ylim(0, None)
    return _plots.as_svg(figure, f"{title} and biases against difficulty")
