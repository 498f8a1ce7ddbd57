"""Wrong oracles, variance reductions, temperatures and stopping rules, which tests must reject.

As ``negative_control.py``, for the tests of ``oracles.py``, ``reductions.py``, ``temperatures.py``
and ``adaptive.py``; each mutant meets the tests of its own subject.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

import dpo

from . import adaptive
from ._estimators import DERIVATIVES, NAMES, OUTPUTS, Case, Plan, from_library
from ._mutants import (
    Mutant,
    Ratios,
    matrix,
    replaced,
    rescaled,
    shared_noise,
    unchanged,
    verdict,
)
from ._results import Section
from ._scores import Scores, worst
from ._settings import Settings
from ._statistics import Z_THRESHOLD
from .oracles import few_scores, oracle_scores, path_scores
from .reductions import honesty_scores, row_scores
from .temperatures import FAMILIES, temperature_scores


def run(settings: Settings) -> Section:
    """A kill matrix for each section."""
    checks, tables = [], []
    for kind, (mutants, tests) in _TRIALS.items():
        results = {}
        for mutant in mutants:
            settings.tick(f"{mutant.subject} {mutant.name}")
            results[mutant] = tests(mutant, settings)
        checks += [verdict(mutant, ratios, kind) for mutant, ratios in results.items()]
        tables.append(matrix(f"{kind.capitalize()}s", results))
    return Section(
        title="Negative controls: oracles, reductions, temperatures, adaptive sampling",
        intro="More deliberate mistakes, each before the tests of its own section, with the seeds "
        "and sizes used there. Some are invisible to most tests: the maximum is blind to the sign "
        "of a derivative, many samples to a wrong 1/M, means to wrong error bars.",
        checks=tuple(checks),
        tables=tuple(tables),
    )


def _ratio(scores: Scores) -> float:
    return worst(scores)[0] / Z_THRESHOLD


# ------------------------------------------------------------------------------------------ oracles


def _oracle_tests(mutant: Mutant, settings: Settings) -> Ratios:
    scores = oracle_scores(mutant.make, mutant.subject, "loo", settings, noises=("gumbel",))
    ratios = {NAMES[of]: _ratio(_only(scores, NAMES[of])) for of in OUTPUTS}
    ratios["few samples"] = _ratio(few_scores(mutant.make, mutant.subject, settings, ("loo",)))
    if mutant.subject == "paths":
        by_problem = path_scores(mutant.make, settings)
        ratios["NumPy"] = max(map(_ratio, by_problem.values()))
    return ratios


def _only(scores: Scores, start: str) -> Scores:
    return {key: z for key, z in scores.items() if key.startswith(start)}


def _descending(case: Case, plan: Plan):
    """Ranks counted from the top: ``d + 1 - rank``."""
    estimates, errors = from_library(case, plan)
    if plan.of == "value":
        return case.theta.shape[-1] + 1 - estimates, errors
    return (-estimates if plan.of in DERIVATIVES else estimates), errors


def _one_more(case: Case) -> dict:
    assert isinstance(case.oracle, dpo.TopK)
    return {"oracle": dpo.TopK(case.oracle.k + 1)}


def _no_diagonals(case: Case) -> dict:
    """On the small grid; around the wall of the wide one there is no other way."""
    return {"oracle": dpo.ShortestPath(4)} if case.event == (3, 3) else {}


def _unclipped(case: Case) -> dict:
    assert isinstance(case.oracle, dpo.ShortestPath)
    return {"oracle": dataclasses.replace(case.oracle, min_cost=0.0)}


def _skips_a_cell(case: Case, plan: Plan):
    """Paths step over the last cell before the middle of the grid."""
    estimates, errors = from_library(case, plan)
    cell = int(np.prod(case.event)) // 2 - 1
    if plan.of in ("value", "jvp", "jacobian"):
        estimates[:, :, cell] = 0
    return estimates, errors


_ALL_DERIVATIVES = ("VJP", "JVP", "Jacobian")
_ORACLES = (
    unchanged(from_library, "topk"),
    Mutant("k + 1 instead of k", replaced(_one_more), ("value", *_ALL_DERIVATIVES), "topk"),
    unchanged(from_library, "ranks"),
    Mutant("ranks descend", _descending, ("value", *_ALL_DERIVATIVES, "few samples"), "ranks"),
    unchanged(from_library, "paths"),
    Mutant(
        "derivatives and maximum have the sign of a maximisation",
        rescaled(lambda case, plan: -1.0, "max", *DERIVATIVES),
        ("maximum", *_ALL_DERIVATIVES, "few samples", "NumPy"),
        "paths",
    ),
    Mutant("diagonal steps forgotten", replaced(_no_diagonals), ("value", "Jacobian"), "paths"),
    Mutant("a path skips a cell", _skips_a_cell, ("value", "JVP", "Jacobian"), "paths"),
    Mutant("costs not clipped at min_cost", replaced(_unclipped), ("NumPy",), "paths"),
)


# --------------------------------------------------------------------------------------- reductions


def _reduction_tests(mutant: Mutant, settings: Settings) -> Ratios:
    draw, reduction = mutant.make, mutant.subject
    return {
        "few samples": _ratio(few_scores(draw, "argmax", settings, (reduction,))),
        "standard errors": _ratio(honesty_scores(draw, reduction, settings, ("argmax",))),
        "rows": _ratio(row_scores(draw, reduction, settings)),
    }


def _leaks(case: Case, plan: Plan):
    """A row's estimate is a quarter that of the row before."""
    estimates, errors = from_library(case, plan)
    return 0.75 * estimates + 0.25 * np.roll(estimates, 1, axis=0), errors


def _keeps_the_pair(case: Case, plan: Plan) -> float:
    """With mirrored scores, leaving out one sample and not its pair is a factor M / (M - 1)."""
    return plan.num_samples / (plan.num_samples - 1) if plan.num_samples > 2 else 1.0


def _as_if_independent(case: Case, plan: Plan):
    """Error bars of the same number of independent samples."""
    estimates, _ = from_library(case, plan)
    return estimates, from_library(case, dataclasses.replace(plan, variance_reduction="loo"))[1]


def _shared_out(case: Case, plan: Plan):
    """A batch's rows share its samples."""
    rows = {1: 1, 64: 2}.get(plan.replicates, 4)
    few = max(2, plan.num_samples // rows)
    return from_library(case, dataclasses.replace(plan, num_samples=few))


_REDUCTIONS = (
    unchanged(from_library, "loo"),
    Mutant("samples shared out among the rows of a batch", _shared_out, ("rows",), "loo"),
    Mutant("all rows see one noise", shared_noise, ("standard errors", "rows"), "loo"),
    Mutant("a row leaks into the next", _leaks, ("rows",), "loo"),
    unchanged(from_library, "antithetic"),
    Mutant(
        "leaves out a sample but not its pair: M − 1 for M",
        rescaled(_keeps_the_pair, *DERIVATIVES),
        ("few samples",),
        "antithetic",
    ),
    Mutant(
        "error bars as if pairs were independent",
        _as_if_independent,
        ("standard errors",),
        "antithetic",
    ),
    unchanged(from_library, "qmc"),
    Mutant(
        "error bars as if points were independent", _as_if_independent, ("standard errors",), "qmc"
    ),
)


# ------------------------------------------------------------------------------------- temperatures


def _temperature_tests(mutant: Mutant, settings: Settings) -> Ratios:
    return {
        FAMILIES[family]: _ratio(temperature_scores(mutant.make, family, "argmax", settings))
        for family in FAMILIES
    }


def _next_row(case: Case) -> dict:
    shared = np.ndim(case.epsilon) == 0
    return {} if shared else {"epsilon": np.roll(case.epsilon, 1, axis=0)}


def _next_coordinate(case: Case) -> dict:
    own = np.shape(case.epsilon) == case.theta.shape
    return {"epsilon": np.roll(case.epsilon, 1, axis=1)} if own else {}


def _uncentred(case: Case, plan: Plan) -> float:
    """``exp(eps Z)`` without ``- eps^2 / 2``: its mean is ``exp(eps^2 / 2)``."""
    if case.perturbation == "additive":
        return 1.0
    return float(np.exp(np.mean(case.epsilon) ** 2 / 2))


def _without_chain(case: Case, plan: Plan) -> float | np.ndarray:
    return np.abs(case.theta) if case.perturbation == "multiplicative" else 1.0


_EVERY, _ROWS, _COORDINATES, _LOG_NORMAL = FAMILIES.values()
_TEMPERATURES = (
    unchanged(from_library),
    Mutant(
        "derivative in ε without 1/ε",
        rescaled(lambda case, plan: case.epsilon, "vjp_epsilon"),
        tuple(FAMILIES.values()),
    ),
    Mutant("a row has the temperature of the one before", replaced(_next_row), (_ROWS,)),
    Mutant(
        "a coordinate has the temperature of the one before",
        replaced(_next_coordinate),
        (_COORDINATES, _LOG_NORMAL),
    ),
    Mutant("log-normal factors not centred", rescaled(_uncentred, "max"), (_LOG_NORMAL,)),
    Mutant("multiplicative VJP without 1/θ", rescaled(_without_chain, "vjp"), (_LOG_NORMAL,)),
)


# ----------------------------------------------------------------------------------------- adaptive


def _adaptive_tests(mutant: Mutant, settings: Settings) -> Ratios:
    seed = settings.seed_for("adaptive control")
    run = mutant.make(adaptive.ladder("normal"), "value", 0.01, "loo", 1024, seed)
    return {
        check.name.partition(": ")[2]: check.statistic / check.threshold
        for check in adaptive.judge({"ladder": run})
    }


def _never_again(case, of, tolerance, reduction, replicates, seed):
    """The first stage is the last, whatever the spread."""
    plan = Plan(of, replicates, adaptive.FIRST, seed, reduction)
    samples = np.full((replicates, len(case.theta)), adaptive.FIRST)
    needed = adaptive.needed(case, of, tolerance, reduction)
    return adaptive.Run(case, of, tolerance, *from_library(case, plan), samples, needed)


def _twice(case, of, tolerance, reduction, replicates, seed):
    """Stops at twice the tolerance."""
    run = adaptive.from_library(case, of, 2 * tolerance, reduction, replicates, seed)
    return dataclasses.replace(run, tolerance=tolerance)


def _believes_sixteen(case, of, tolerance, reduction, replicates, seed):
    """A first stage of sixteen samples, and an outcome never seen has probability 0."""
    run = adaptive.from_library(case, of, tolerance, reduction, replicates, seed)
    first, error = from_library(case, Plan(of, replicates, 16, seed, reduction))
    done = error.max(-1, keepdims=True) <= tolerance
    return dataclasses.replace(
        run,
        mean=np.where(done, first, run.mean),
        error=np.where(done, error, run.error),
        samples=np.where(done[..., 0], 16, run.samples),
    )


def _optimist(case, of, tolerance, reduction, replicates, seed):
    """Error bars half of what they should be."""
    run = adaptive.from_library(case, of, tolerance, reduction, replicates, seed)
    return dataclasses.replace(run, error=run.error / 2)


def _spendthrift(case, of, tolerance, reduction, replicates, seed):
    """Every row draws as many samples as the hardest."""
    run = adaptive.from_library(case, of, tolerance, reduction, replicates, seed)
    return dataclasses.replace(run, samples=np.full_like(run.samples, run.samples.max()))


_ADAPTIVE = (
    unchanged(adaptive.from_library),
    Mutant("never draws again", _never_again, ("tolerance", "true errors")),
    Mutant("stops at twice the tolerance", _twice, ("tolerance", "true errors")),
    Mutant(
        "believes sixteen samples that agree",
        _believes_sixteen,
        ("true errors", "error bars", "bias"),
    ),
    Mutant("error bars half as large", _optimist, ("error bars",)),
    Mutant("every row draws as many as the hardest", _spendthrift, ("cost",)),
)

_TRIALS: dict[str, tuple[tuple[Mutant, ...], Callable[[Mutant, Settings], Ratios]]] = {
    "oracle": (_ORACLES, _oracle_tests),
    "variance reduction": (_REDUCTIONS, _reduction_tests),
    "temperature": (_TEMPERATURES, _temperature_tests),
    "adaptive rule": (_ADAPTIVE, _adaptive_tests),
}
