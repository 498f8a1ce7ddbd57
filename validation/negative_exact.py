"""Wrong integrals and wrong samplers, which the tests of ``exact.py`` must reject.

As ``negative_oracles.py``. No kernel is compiled for a mistake: kernels are handed other nodes, the
argmax is integrated once more in NumPy from the library's own nodes and laws, which makes its
formulas easy to alter, and what remains is a wrong problem or a wrong factor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from unittest import mock

import numpy as np
from dpo.kernels.exact import launch, laws, nodes
from dpo.kernels.noise import FAMILIES

import dpo

from ._estimators import NAMES, Case, Plan, from_library
from ._exact import LAWS
from ._integrals import DIFFERENCED, LOSSES, Solve, cases, expected, from_exact
from ._mutants import Mutant, Ratios, matrix, unchanged, verdict
from ._results import Section
from ._settings import Settings
from ._statistics import Z_THRESHOLD, largest
from .exact import (
    DIFFERENCE_LIMIT,
    LIMITS,
    LOSS_LIMIT,
    errors_of,
    sampler_scores,
    total_error,
)


def run(settings: Settings) -> Section:
    """A kill matrix for integrals, and one for samplers."""
    integrals = {}
    for mutant in _INTEGRALS:
        settings.tick(f"{mutant.label} {mutant.name}")
        integrals[mutant] = _integral_tests(mutant)
    samplers = {}
    for mutant in _SAMPLERS:
        settings.tick(f"sampler {mutant.name}")
        samplers[mutant] = _sampler_tests(mutant, settings)
    checks = [verdict(mutant, ratios, "integral") for mutant, ratios in integrals.items()]
    checks += [verdict(mutant, ratios, "sample") for mutant, ratios in samplers.items()]
    return Section(
        title="Negative controls: exact expectations",
        intro='Mistakes in what method="exact" integrates, before the tests of its section, in '
        "float64 with normal noise. Nodes are altered where kernels are handed them; formulas of "
        "the argmax in a copy of its kernel in NumPy, on the library's own nodes and laws, which "
        "unaltered passes. Samplers are judged by the exact expectation.",
        checks=tuple(checks),
        tables=(matrix("Integrals", integrals), matrix("Samplers", samplers)),
    )


# ---------------------------------------------------------------------------------------- the tests

_DIRECT = ("value", "max", "vjp", "jacobian")


def _integral_tests(mutant: Mutant) -> Ratios:
    if mutant.subject == _TWIN:
        return _ratios(mutant.make, "argmax", ("plain", "temperatures"), ("value", "vjp"))
    solve, oracle = mutant.make, mutant.subject
    problems = [c for name in ("plain", "temperatures") for c in cases(oracle, "normal", name)]
    totals = max(total_error(solve, case, np.float64) for case in problems)
    settled = _ratios(solve, oracle, ("settled",), _DIRECT)
    return {
        **_ratios(solve, oracle, ("plain", "temperatures"), _DIRECT),
        "total": totals / LIMITS[np.float64],
        "masks and distances": max(settled.values()),
        **_ratios(solve, oracle, ("derivatives",), tuple(DIFFERENCED), DIFFERENCE_LIMIT),
        **_ratios(solve, oracle, ("losses",), tuple(LOSSES), LOSS_LIMIT),
    }


def _ratios(
    solve: Solve,
    oracle: str,
    families: tuple[str, ...],
    outputs: tuple[str, ...],
    limit: float = LIMITS[np.float64],
) -> Ratios:
    """The largest error in each output over its limit."""
    errors = errors_of(solve, (oracle,), ("normal",), families, outputs, (np.float64,))
    names = {**NAMES, **DIFFERENCED, **LOSSES}
    return {names[of]: error / limit for (_, _, _, of), error in errors.items()}


def _sampler_tests(mutant: Mutant, settings: Settings) -> Ratios:
    scores, _ = sampler_scores(mutant.make, mutant.subject, settings, ("gumbel",))
    return {key.partition(",")[0]: largest(z) / Z_THRESHOLD for key, z in scores.items()}


# ---------------------------------------------------------------------------- nodes and problems


def _with_nodes(change: Callable[[np.ndarray], np.ndarray]) -> Solve:
    """Kernels are handed other rules; the last axis holds step, low and high."""
    rules = {
        "rules": lambda *arguments: change(nodes.rules(*arguments)),
        "rule": lambda *arguments: change(np.array(nodes.rule(*arguments))),
    }
    altered = SimpleNamespace(**(vars(nodes) | rules))

    def solve(case: Case, of: str, dtype: type = np.float64) -> np.ndarray:
        with mock.patch.object(launch, "nodes", altered):
            return from_exact(case, of, dtype)

    return solve


_FAR_APART = _with_nodes(lambda rule: rule * np.array([4, 1, 1]))
_CUT = _with_nodes(lambda rule: rule - np.array([0, 0, 2]))


def _replaced(change: Callable[[Case], dict]) -> Solve:
    """The library on another case."""

    def solve(case: Case, of: str, dtype: type = np.float64) -> np.ndarray:
        return from_exact(dataclasses.replace(case, **change(case)), of, dtype)

    return solve


def _one_more(case: Case) -> dict:
    assert isinstance(case.oracle, dpo.TopK)
    return {"oracle": dpo.TopK(case.oracle.k + 1)}


def _next_coordinate(case: Case) -> dict:
    own = np.ndim(case.epsilon) == 2
    return {"epsilon": np.roll(case.epsilon, 1, axis=1)} if own else {}


def _merely_low(case: Case) -> dict:
    return {"theta": np.where(case.theta == -np.inf, -2.0, case.theta)}


def _one_variable(case: Case) -> dict:
    """``H`` is normal of variance 1, not 2."""
    return {"epsilon": case.epsilon / np.sqrt(2)}


# ---------------------------------------------------------------------------- factors and offsets


def _one_power_short(of: str) -> Solve:
    """One 1 / epsilon is missing."""

    def solve(case: Case, output: str, dtype: type = np.float64) -> np.ndarray:
        answer = from_exact(case, output, dtype)
        return answer * case.epsilon if output == of else answer

    return solve


def _beats_itself(case: Case, of: str, dtype: type = np.float64) -> np.ndarray:
    """``H(0) = 1 / 2`` is counted."""
    return from_exact(case, of, dtype) + (0.5 if of == "value" else 0)


def _offset_of_a_solution(case: Case, of: str, dtype: type = np.float64) -> np.ndarray:
    """``eps Omega(y) = -eps <y, E Z>``, whatever the target."""
    if of not in LOSSES:
        return from_exact(case, of, dtype)
    y = expected(case, "value")
    y = y if of == "match" else y[::-1]
    mean = case.epsilon * LAWS[case.noise].mean
    return from_exact(case, "max", dtype) - ((case.theta + mean) * y).sum(1)


# ------------------------------------------------------------------------------- a twin in NumPy

_TWIN = "argmax in NumPy"


def _twin(hazard: Callable = laws.hazard, others: float = 1.0) -> Solve:
    """``argmax.run`` in NumPy: ``hazard`` is the law, ``others`` the weight of ``S_v`` in a VJP."""

    def solve(case: Case, of: str, dtype: type = np.float64) -> np.ndarray:
        return np.stack([row(case, *pair)[of == "vjp"] for pair in case.rows])

    def row(case: Case, theta: np.ndarray, epsilon) -> tuple[np.ndarray, np.ndarray]:
        family = [law.name for law in FAMILIES].index(case.noise)
        tolerance = nodes.default_tolerance(np.dtype(np.float64))
        step, low, high = nodes.rules(family, theta.size, tolerance)[-1]
        unit = np.min(epsilon)
        x, scale = theta / unit, epsilon / unit
        t = np.arange((x + low * scale).max(), (x + high * scale).max(), step)
        u = (t[:, None] - x) / scale
        minus_log, r = hazard(family, u)
        e = step * np.exp(-minus_log.sum(1))
        slope, r = laws.hazard_slope(family, u, r) / scale**2, r / scale
        total = others * (r @ case.direction)
        return e @ r, -(e @ (r * total[:, None] + slope * case.direction)) / unit

    return solve


def _without_square(family: int, u: np.ndarray):
    """``-log G`` of the lower tail without its ``u^2 / 2``."""
    minus_log, r = laws.hazard(family, u)
    return minus_log - np.where(u > 0, 0, u * u / 2), r


def _louder(case: Case, plan: Plan):
    return from_library(dataclasses.replace(case, epsilon=1.03 * case.epsilon), plan)


# ------------------------------------------------------------------------------------ the mutants

_ALL = ("value", "maximum", "VJP", "Jacobian")
_INTEGRALS = (
    unchanged(from_exact, "argmax"),
    Mutant("nodes four times too far apart", _FAR_APART, _ALL, "argmax"),
    Mutant("nodes end two units too soon", _CUT, ("value", "maximum", "total"), "argmax"),
    Mutant(
        "a coordinate has the temperature of the one before",
        _replaced(_next_coordinate),
        (*_ALL, "derivative in ε"),
        "argmax",
    ),
    Mutant(
        "masked scores are merely low", _replaced(_merely_low), ("masks and distances",), "argmax"
    ),
    Mutant(
        "derivative in ε without 1/ε",
        _one_power_short("vjp_epsilon"),
        ("derivative in ε",),
        "argmax",
    ),
    Mutant(
        "second-order product over ε, not ε²",
        _one_power_short("second"),
        ("second-order product",),
        "argmax",
    ),
    Mutant(
        "offset of a solution, whatever the target",
        _offset_of_a_solution,
        ("loss", "loss at a match"),
        "argmax",
    ),
    unchanged(_twin(), _TWIN),
    Mutant("lower tail without −u²/2", _twin(_without_square), ("value", "VJP"), _TWIN),
    Mutant("VJP without S, the others' share", _twin(others=0.0), ("VJP",), _TWIN),
    unchanged(from_exact, "topk"),
    Mutant("in with k others above, not k − 1", _replaced(_one_more), (*_ALL, "total"), "topk"),
    Mutant("nodes four times too far apart", _FAR_APART, _ALL, "topk"),
    unchanged(from_exact, "ranks"),
    Mutant(
        "H of one noise variable, not of a difference",
        _replaced(_one_variable),
        (*_ALL, "loss"),
        "ranks",
    ),
    Mutant("a score outranks itself half of the time", _beats_itself, ("value", "total"), "ranks"),
    Mutant("nodes four times too far apart", _FAR_APART, ("value", "VJP"), "ranks"),
)
_SAMPLERS = (
    unchanged(from_library, "argmax"),
    Mutant("noise scaled by 1.03", _louder, ("value", "maximum"), "argmax"),
)
