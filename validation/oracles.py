"""Every estimator of every oracle is unbiased, under every variance reduction and every noise.

As ``unbiasedness.py``, which has the argmax in depth. Exact answers: Poisson-binomial quadrature
(top-k), sums of comparisons (ranks), enumeration (paths); where paths overlap or costs are clipped,
an independent NumPy Monte-Carlo with a standard error of its own.
"""

from __future__ import annotations

import itertools as it

import numpy as np

import dpo

from . import _plots
from ._estimators import (
    DERIVATIVES,
    NAMES,
    NOISES,
    OUTPUTS,
    REDUCTIONS,
    SPELLED,
    Case,
    Draw,
    Plan,
    capital,
    compare,
    from_library,
    in_float32,
)
from ._problems import ORACLES, small, wide
from ._results import Check, Figure, Section, Table
from ._sampled_paths import Sampled, sampled_answers
from ._scores import Scores, zcheck
from ._settings import Settings
from ._statistics import largest, two_sample_scores

FEW_SAMPLES = {"loo": (2, 5), "none": (1, 3), "antithetic": (2, 4, 10), "qmc": (2, 8, 24)}
"""Smallest numbers, and the first of every way of computing: lanes of rows, then of samples."""


def run(settings: Settings) -> Section:
    """All oracles and reductions; few samples; float64; overlapping and clipped paths."""
    table = {}
    for oracle, reduction in it.product(ORACLES, REDUCTIONS):
        settings.tick(f"{oracle}, {REDUCTIONS[reduction]}")
        table[oracle, reduction] = oracle_scores(from_library, oracle, reduction, settings)
    checks = [_check(*key, scores) for key, scores in table.items()]
    for oracle in ORACLES:
        settings.tick(f"{oracle}, few samples")
        checks.append(_few_check(oracle, few_scores(from_library, oracle, settings)))
    settings.tick("float64")
    checks += [_float64(oracle, settings) for oracle in settings.pick(("ranks",), tuple(ORACLES))]
    settings.tick("paths against NumPy")
    checks += [_numpy_check(*item) for item in path_scores(from_library, settings).items()]
    return Section(
        title="Every oracle and variance reduction",
        intro="The argmax, the top 2 of 5, the ranks of 5 and the cheapest of three disjoint paths "
        "through a 3 × 3 grid, each with three noises and, twenty coordinates wide (where the VJP "
        "is a pass of its own), once more. Exact answers are quadratures of densities and CDFs "
        "alone: a Poisson-binomial tail for the top k, comparisons of pairs for ranks, "
        "independent sums of costs for paths.\n\nThe value and the maximum have no baseline, so "
        "leave-one-out and plain estimators of them are one. Where there is no exact answer, "
        "because the twelve paths of a grid overlap or because a third of the costs is clipped at "
        "min_cost, the library is compared with a NumPy Monte-Carlo of its own generator and "
        "standard error that tries all paths: a two-sample test.",
        checks=tuple(checks),
        figures=(_figure(table),),
        tables=(_table(table),),
    )


def oracle_scores(
    draw: Draw,
    oracle: str,
    reduction: str,
    settings: Settings,
    noises: tuple[str, ...] = NOISES,
) -> Scores:
    """z-scores of all outputs and noises, on the small problem and on the wide one."""
    scores: dict[str, np.ndarray] = {}
    for of, noise in it.product(OUTPUTS, noises):
        if of not in DERIVATIVES and reduction == "none":
            continue  # has no baseline: "loo" is the same
        pieces = []
        for case, plan in _plans(oracle, of, noise, reduction, settings):
            pieces.append(compare(draw(case, plan)[0], case, plan).ravel())
        scores[f"{NAMES[of]}, {SPELLED[noise]} noise"] = np.concatenate(pieces)
    return scores


def _plans(oracle: str, of: str, noise: str, reduction: str, settings: Settings):
    """Two million samples (or half, of paths) of the small problem, a quarter of the wide one."""
    more = settings.pick(1, 8) if oracle != "paths" else settings.pick(1, 4)
    samples = 2048 if oracle != "paths" else 1024
    sizes = [(small(oracle, noise), 1024 if oracle != "paths" else 512, samples * more)]
    if of != "jacobian":
        sizes.append((wide(oracle, noise), 128 if oracle != "paths" else 64, 1024 * more))
    for case, replicates, num_samples in sizes:
        seed = settings.seed_for("oracles", oracle, of, noise, reduction, case.name)
        yield case, Plan(of, replicates, num_samples, seed, reduction)


def few_scores(
    draw: Draw, oracle: str, settings: Settings, reductions: tuple[str, ...] = tuple(REDUCTIONS)
) -> Scores:
    """z-scores of all outputs from a handful of samples; noises take turns."""
    scores: dict[str, np.ndarray] = {}
    turn = it.cycle(NOISES)
    for reduction in reductions:
        for num_samples, of in it.product(FEW_SAMPLES[reduction], OUTPUTS):
            for noise in settings.pick((next(turn),), NOISES):
                seed = settings.seed_for("few", oracle, reduction, num_samples, of, noise)
                replicates = min(2**15, settings.pick(2**16, 2**20) // num_samples)
                plan = Plan(of, replicates, num_samples, seed, reduction)
                case = small(oracle, noise)
                key = f"{NAMES[of]}, {SPELLED[noise]}, {REDUCTIONS[reduction]}, M = {num_samples}"
                scores[key] = compare(draw(case, plan)[0], case, plan).ravel()
    return scores


# --------------------------------------------------------------------- paths without exact answers

_OVERLAPPING = in_float32([10.0, 10.1, 9.9], [10.2, 10.0, 10.0], [9.8, 10.1, 10.0])
_CHEAP = in_float32([0.5, 0.6, 0.4], [0.7, 0.5, 0.6], [0.5, 0.4, 0.5])
_PATH_OUTPUTS = ("value", "max", "jacobian", "vjp_epsilon")


def path_scores(draw: Draw, settings: Settings) -> dict[tuple[str, str], Scores]:
    """z-scores of "the library and NumPy expect the same", by problem and noise."""
    results = {}
    problems = {
        "Overlapping paths": (_OVERLAPPING, dpo.ShortestPath(4), ("normal",)),
        "Clipped costs": (_CHEAP, dpo.ShortestPath(4, min_cost=0.25), NOISES),
    }
    for name, (costs, oracle, noises) in problems.items():
        for noise in noises:
            case = Case(name, costs[None], 0.5, noise, oracle)
            mean, error = _by_numpy(case, settings)
            scores = {}
            for of in _PATH_OUTPUTS:
                seed = settings.seed_for("paths", name, noise, of)
                plan = Plan(of, 256, settings.pick(2048, 32768), seed)
                estimates = draw(case, plan)[0][:, 0]
                scores[NAMES[of]] = two_sample_scores(estimates, mean[of], error[of]).ravel()
            results[name, noise] = scores
    return results


_NUMPY: dict[tuple, Sampled] = {}


def _by_numpy(case: Case, settings: Settings) -> Sampled:
    """Drawn once: the same for the library and for its mutants."""
    assert isinstance(case.oracle, dpo.ShortestPath)
    key = case.name, case.noise, settings.seed, settings.full
    if key not in _NUMPY:
        seed = settings.seed_for("NumPy", case.name, case.noise)
        parameters = float(case.epsilon), case.noise, case.oracle, case.direction
        _NUMPY[key] = sampled_answers(case.theta[0], *parameters, settings.pick(32, 800), seed)
    return _NUMPY[key]


# ------------------------------------------------------------------------------------ what is shown


def _check(oracle: str, reduction: str, scores: Scores) -> Check:
    what = "VJP, JVP and Jacobian" if reduction == "none" else "value, maximum and derivatives"
    name = f"{ORACLES[oracle]}, {REDUCTIONS[reduction]}"
    return zcheck(name, f"{what} have the exact expectation, for every noise", scores)


def _few_check(oracle: str, scores: Scores) -> Check:
    counts = "; ".join(f"{REDUCTIONS[r]} {list(m)}" for r, m in FEW_SAMPLES.items())
    name = f"{ORACLES[oracle]} from few samples"
    return zcheck(name, "all outputs are unbiased however few the samples", scores, counts)


def _float64(oracle: str, settings: Settings) -> Check:
    scores = {}
    for of, reduction in it.product(OUTPUTS, ("loo", "antithetic", "qmc")):
        case = small(oracle, "normal")
        seed = settings.seed_for("oracles float64", oracle, of, reduction)
        samples = settings.pick(512, 4096)
        plan = Plan(of, 512, samples, seed, reduction, dtype=np.float64)
        key = f"{NAMES[of]}, {REDUCTIONS[reduction]}"
        scores[key] = compare(from_library(case, plan)[0], case, plan).ravel()
    return zcheck(f"{ORACLES[oracle]} in float64", "as in float32, normal noise", scores)


def _numpy_check(key: tuple[str, str], scores: Scores) -> Check:
    name, noise = key
    statement = "value, maximum, Jacobian and VJP in ε agree with brute force in NumPy"
    return zcheck(f"{name}, {SPELLED[noise]} noise", statement, scores, "3 × 3 grid, 4 neighbours")


def _table(table: dict[tuple[str, str], Scores]) -> Table:
    rows = []
    for (oracle, reduction), scores in table.items():
        cells = []
        for of in OUTPUTS:
            of_all = [z for name, z in scores.items() if name.startswith(NAMES[of])]
            cells.append(f"{largest(np.concatenate(of_all)):.2f}" if of_all else "")
        rows.append((f"{ORACLES[oracle]}, {REDUCTIONS[reduction]}", *cells))
    header = ("largest |z|", *(capital(NAMES[of]) for of in OUTPUTS))
    return Table(
        "Over all noises and problems; empty where there is no baseline", header, tuple(rows)
    )


def _figure(table: dict[tuple[str, str], Scores]) -> Figure:
    def pooled(position: int, names: dict[str, str]) -> dict[str, np.ndarray]:
        groups: dict[str, list[np.ndarray]] = {label: [] for label in names.values()}
        for key, scores in table.items():
            groups[names[key[position]]] += [z[z != 0] for z in scores.values()]
        return {label: np.concatenate(pieces) for label, pieces in groups.items()}

    return Figure(
        "z-scores of all estimators against normal quantiles, by oracle and by variance reduction; "
        "unbiased estimators lie on the diagonal. Entries that cannot vary are left out.",
        (
            _plots.quantiles(pooled(0, ORACLES), "By oracle"),
            _plots.quantiles(pooled(1, REDUCTIONS), "By variance reduction"),
        ),
    )
