"""Derivatives in the temperature; a temperature an instance or a coordinate; log-normal noise.

Exact answers are those of ``_answers.py``: quadratures of independent variables of any widths,
differentiated in a temperature by extrapolated central differences.
"""

from __future__ import annotations

import dataclasses
import functools as ft
import itertools as it
from collections.abc import Iterator

import numpy as np

import dpo

from . import _plots
from ._estimators import (
    NAMES,
    NOISES,
    OUTPUTS,
    REDUCTIONS,
    SPELLED,
    Case,
    Draw,
    Plan,
    compare,
    from_library,
    in_float32,
)
from ._problems import ORACLES, small
from ._results import Check, Figure, Section
from ._scores import Scores, zcheck
from ._settings import Settings

FAMILIES = {
    "derivative": "Derivative in ε",
    "instance": "A temperature an instance",
    "coordinate": "A temperature a coordinate",
    "multiplicative": "Multiplicative perturbation",
}
_STATEMENTS = {
    "derivative": "vᵀ ∂y_ε/∂ε is that of the exact answers, every noise and variance reduction",
    "instance": "rows of three temperatures have each its own expectation",
    "coordinate": "a width for every coordinate: all outputs, and the gradient in each ε",
    "multiplicative": "log-normal factors: all outputs, for positive and for negative scores",
}

_SCALES = in_float32([0.75, 0.625, 1.0, 0.5, 1.25])[0]
_GRID_SCALES = 0.5 * in_float32(
    [1.0, 0.75, 1.0], [1.25, 1.0, 0.75], [1.0, 0.75, 1.0]
)  # corners that no best path enters have a temperature too: its derivative is zero
_POSITIVE = in_float32([0.7, 1.6, 1.0, 1.3, 0.8])
_TWO_PATHS = in_float32([1.0, 1.25], [1.125, 0.875])
_EVERYTHING = (*OUTPUTS, "vjp_epsilon")


def run(settings: Settings) -> Section:
    """Four families of tests for four oracles, and how a derivative changes with temperature."""
    checks = []
    for family, oracle in it.product(FAMILIES, ORACLES):
        settings.tick(f"{FAMILIES[family]}, {oracle}")
        scores = temperature_scores(from_library, family, oracle, settings)
        checks.append(_check(family, oracle, scores))
    settings.tick("curves")
    return Section(
        title="Temperatures",
        intro="A learned temperature needs vᵀ ∂y_ε/∂ε. Its exact value is a central difference of "
        "exact answers, twice extrapolated (error O(h⁶)), for one temperature, for one an instance "
        "and for one a coordinate. Multiplicative perturbation, θ exp(εZ − ε²/2) with normal "
        "noise, is additive in the logarithm, so that exact answers come from the same quadrature; "
        "its maximum follows by a shift of the noise (weighting by the log-normal factor moves Z "
        "by ε). Paths are there the two of a 2 × 2 grid, whose interiors are single cells.",
        checks=tuple(checks),
        figures=(_figure(settings),),
    )


def temperature_scores(draw: Draw, family: str, oracle: str, settings: Settings) -> Scores:
    """z-scores of one family of tests for one oracle."""
    scores = {}
    for case, reduction, of in _tests(family, oracle, settings):
        replicates, num_samples = 512, settings.pick(1024, 16384)
        if oracle == "paths":
            replicates, num_samples = 256, settings.pick(1024, 8192)
        seed = settings.seed_for("temperatures", family, oracle, case.noise, reduction, of)
        plan = Plan(of, replicates, num_samples, seed, reduction)
        key = f"{NAMES[of]}, {case.name}, {SPELLED[case.noise]} noise, {REDUCTIONS[reduction]}"
        scores[key] = compare(draw(case, plan)[0], case, plan).ravel()
    return scores


def _tests(family: str, oracle: str, settings: Settings) -> Iterator[tuple[Case, str, str]]:
    """Cases with variance reductions and outputs. Where not all are paired, noises take turns."""
    if family == "derivative":
        for noise, reduction in it.product(NOISES, REDUCTIONS):
            yield small(oracle, noise), reduction, "vjp_epsilon"
        return
    turn = it.cycle(NOISES)
    for reduction in ("loo", "antithetic", "qmc"):
        noises: tuple[str, ...] = settings.pick((next(turn),), NOISES)
        if family == "multiplicative":
            noises = ("normal",)
        for make, noise, of in it.product(_CASES[family], noises, _EVERYTHING):
            yield make(oracle, noise), reduction, of


@ft.cache
def _an_instance(oracle: str, noise: str) -> Case:
    case = small(oracle, noise)
    epsilon = case.epsilon * np.array([0.5, 0.75, 1.0])
    theta = np.repeat(case.theta, 3, axis=0)
    return Case("three rows", theta, epsilon, noise, case.oracle)


@ft.cache
def _a_coordinate(oracle: str, noise: str) -> Case:
    """Two rows, the second with the temperatures the other way round; one grid."""
    case = small(oracle, noise)
    epsilon = _GRID_SCALES[None] if oracle == "paths" else np.stack([_SCALES, _SCALES[::-1]])
    theta = np.repeat(case.theta, len(epsilon), axis=0)
    return Case("widths", theta, epsilon, noise, case.oracle)


@ft.cache
def _log_normal(oracle: str, noise: str) -> Case:
    solver = small(oracle, noise).oracle
    if oracle == "paths":
        theta, solver = _TWO_PATHS[None], dpo.ShortestPath(4)
    else:
        theta = np.concatenate([_POSITIVE, -_POSITIVE])
    return Case("log-normal", theta, 0.5, noise, solver, "multiplicative")


@ft.cache
def _log_normal_widths(oracle: str, noise: str) -> Case:
    case = _log_normal(oracle, noise)
    scales = _SCALES[: case.theta.shape[-1]]
    epsilon = np.broadcast_to(scales, case.theta.shape)
    return dataclasses.replace(case, name="log-normal of own widths", epsilon=epsilon)


_CASES = {
    "instance": (_an_instance,),
    "coordinate": (_a_coordinate,),
    "multiplicative": (_log_normal, _log_normal_widths),
}


def _check(family: str, oracle: str, scores: Scores) -> Check:
    return zcheck(f"{FAMILIES[family]}: {ORACLES[oracle].lower()}", _STATEMENTS[family], scores)


# ----------------------------------------------------------------------------------- what is shown

_CURVE = 2.0 ** np.arange(-2, 2.1, 0.25)


def _figure(settings: Settings) -> Figure:
    return Figure(
        "The derivative in ε of ⟨v, y_ε(θ)⟩ for one fixed v, every temperature a row of one batch: "
        "exact (lines), and the mean of 64 estimates of 1,024 samples with two standard errors.",
        (
            _panel("Additive, normal noise", "additive", settings),
            _panel("Multiplicative", "multiplicative", settings),
        ),
    )


def _panel(title: str, perturbation: str, settings: Settings) -> str:
    figure, ax = _plots.axes(title, "temperature ε", "⟨v, ∂y/∂ε⟩")
    for k, oracle in enumerate(("argmax", "topk", "ranks")):
        case = small(oracle, "normal")
        theta = case.theta if perturbation == "additive" else _POSITIVE
        theta = np.repeat(theta, len(_CURVE), axis=0)
        case = Case("curve", theta, _CURVE, "normal", case.oracle, perturbation)
        seed = settings.seed_for("curve", oracle, perturbation)
        estimates, _ = from_library(case, Plan("vjp_epsilon", 64, 1024, seed))
        ax.plot(
            _CURVE, case.exact("vjp_epsilon"), ls=_plots.STYLES[k], color=_plots.COLOURS[k], lw=1
        )
        ax.errorbar(
            _CURVE, estimates.mean(0), estimates.std(0, ddof=1) / 4, fmt=_plots.MARKERS[k],
            color=_plots.COLOURS[k], ms=3, lw=0.8, label=ORACLES[oracle],
        )  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.legend()
    return _plots.as_svg(figure, f"{title}: derivative in the temperature, exact and estimated")
