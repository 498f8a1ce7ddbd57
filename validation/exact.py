"""``method="exact"`` against independent answers, and the sampler against it."""

from __future__ import annotations

import dataclasses
import itertools as it

import numpy as np
from scipy import stats

import dpo

from ._answers import derivative
from ._estimators import NAMES, NOISES, OUTPUTS, SPELLED, Case, Draw, Plan, capital, from_library
from ._integrals import DIFFERENCED, EXACT, LOSSES, Solve, cases, error_of, from_exact
from ._problems import ORACLES, random_scores, small
from ._race import race
from ._results import Check, Section, Table
from ._scores import Scores, zcheck
from ._settings import Settings
from ._statistics import LEVEL, student_scores

LIMITS: dict[type, float] = {np.float64: 1e-12, np.float32: 2e-6}
"""Of an error, in units of the problem: rounding, with room for sums."""
DIFFERENCE_LIMIT = 1e-8
"""Of what is compared with differences."""
LOSS_LIMIT = 1e-10
"""Of losses in float64: the dual problem stops at a gradient of 1e-9, whose square is its error."""

_SAMPLES = 1_000_000
_REPLICATES = 24

Errors = dict[tuple[str, str, type, str], float]
"""By oracle, noise, precision and output."""


def run(settings: Settings) -> Section:
    """Errors in both precisions, totals, derivatives, losses; samplers; error against time."""
    settings.tick("answers")
    errors = errors_of(from_exact, EXACT, NOISES, ("plain", "temperatures"), OUTPUTS)
    checks = [_agreement(oracle, dtype, errors) for oracle, dtype in it.product(EXACT, LIMITS)]
    checks += [_settled(dtype) for dtype in LIMITS]
    settings.tick("totals")
    checks += [_totals(dtype) for dtype in LIMITS]
    settings.tick("derivatives")
    checks += [_differenced(of) for of in DIFFERENCED]
    checks.append(_own_differences())
    settings.tick("losses")
    checks += [_losses(oracle) for oracle in EXACT]
    checks += [_matches(), _not_negative()]
    for oracle in EXACT:
        settings.tick(f"{oracle}, samplers")
        checks.append(_samplers(oracle, settings))
    settings.tick("error against time")
    return Section(
        title="Exact against Monte-Carlo",
        intro='What method="exact" integrates is compared with SciPy\'s quadratures above, which '
        "share no line with it. Errors are in units of the problem: of 1 (of d for ranks), over ε "
        "once for every derivative; the maximum's and the loss's of Σ y · (max |θ| + ε). Problems "
        "have 5, 20 and 300 coordinates, temperatures from 1e-3 to 1e3, shared and a coordinate's "
        "own, masks, ties, and scores a million temperatures away.\n\nThen the samplers are "
        "compared with it: a million samples, whose only error must be chance.",
        checks=tuple(checks),
        figures=(race(settings),),
        tables=(_table(errors),),
    )


def errors_of(
    solve: Solve,
    oracles: tuple[str, ...],
    noises: tuple[str, ...],
    families: tuple[str, ...],
    outputs: tuple[str, ...],
    dtypes: tuple[type, ...] = tuple(LIMITS),
) -> Errors:
    """The largest error over the problems of all families."""
    errors = {}
    for oracle, noise, dtype, of in it.product(oracles, noises, dtypes, outputs):
        problems = it.chain.from_iterable(cases(oracle, noise, family) for family in families)
        found = [error_of(solve, case, of, dtype) for case in problems]
        errors[oracle, noise, dtype, of] = float(np.max(found))
    return errors


def _worst(errors: Errors) -> tuple[float, str]:
    """The largest error, and what it is of."""
    key = max(errors, key=lambda key: np.nan_to_num(errors[key], nan=np.inf))
    oracle, noise, _, of = key
    names = {**NAMES, **DIFFERENCED, **LOSSES}
    return errors[key], f"largest: {names[of]}, {ORACLES[oracle].lower()}, {SPELLED[noise]} noise"


def _check(name: str, statement: str, errors: Errors, limit: float) -> Check:
    worst, note = _worst(errors)
    return Check(name, f"{statement}: max |gap|", worst, limit, note=note)


# -------------------------------------------------------------------------- values and derivatives


def _agreement(oracle: str, dtype: type, errors: Errors) -> Check:
    own = {key: e for key, e in errors.items() if key[0] == oracle and key[2] is dtype}
    statement = "value, maximum, VJP, JVP and Jacobian are SciPy's, for every noise and temperature"
    return _check(f"Exact {ORACLES[oracle].lower()}, {_name(dtype)}", statement, own, LIMITS[dtype])


def _settled(dtype: type) -> Check:
    errors = errors_of(from_exact, EXACT, NOISES, ("settled",), OUTPUTS, (dtype,))
    statement = "masked, equal and distant scores: what is settled is so, the rest is as without it"
    name = f"Masks, ties and distances, {_name(dtype)}"
    return _check(name, statement, errors, LIMITS[dtype])


def _totals(dtype: type) -> Check:
    miss = {str(case.oracle): total_error(from_exact, case, dtype) for case in large_cases()}
    worst = max(miss, key=lambda key: np.nan_to_num(miss[key], nan=np.inf))
    sizes = "; ".join(f"{case.oracle} of {case.theta.shape[1]:,}" for case in large_cases())
    return Check(
        f"Totals, {_name(dtype)}",
        "Σ y is 1, k and d(d+1)/2, many coordinates and ε from 1e-3 to 1e3: largest relative gap",
        miss[worst],
        LIMITS[dtype],
        note=sizes,
    )


def large_cases() -> tuple[Case, ...]:
    """Too large for independent answers, but not for their sum."""
    epsilon = np.array([1e-3, 0.1, 1e3])
    sizes = {dpo.Argmax(): 32_000, dpo.TopK(60): 200, dpo.Ranks(): 4000}
    return tuple(
        Case("large", np.repeat(random_scores(1, d), 3, axis=0), epsilon, "normal", oracle)
        for oracle, d in sizes.items()
    )


def total_error(solve: Solve, case: Case, dtype: type) -> float:
    """The largest relative error of a row's total."""
    total = case.oracle.problem(case.theta.shape).total
    return float(np.abs(solve(case, "value", dtype).sum(-1) / total - 1).max())


def _differenced(of: str) -> Check:
    errors = errors_of(from_exact, EXACT, NOISES, ("derivatives",), (of,), (np.float64,))
    statement = {
        "vjp_epsilon": "vᵀ ∂y/∂ε, of one temperature and of every coordinate's, is the difference",
        "second": "D²y[v, w] is the difference of vᵀJ along w",
    }[of] + " of SciPy's answers"
    return _check(capital(DIFFERENCED[of]), statement, errors, DIFFERENCE_LIMIT)


def _own_differences() -> Check:
    worst = 0.0
    for oracle, noise in it.product(("argmax", "ranks"), NOISES):
        worst = max(worst, _difference_error(cases(oracle, noise, "plain")[-1]))
    return Check(
        "Differences of its own answers",
        "∂F = ⟨y, w⟩, ∂⟨v, y⟩ = ⟨VJP(v), w⟩ and ∂VJP(v) = D²y[v, w] along one direction w, "
        "300 coordinates: max |gap|",
        worst,
        DIFFERENCE_LIMIT,
        note="argmax, and ranks by nodes; central differences, extrapolated twice",
    )


def _difference_error(case: Case) -> float:
    v, w = case.direction, case.direction[::-1]

    def along(h: float) -> np.ndarray:
        moved = dataclasses.replace(case, theta=case.theta + (h - 1) * w)
        maximum, value, vjp = (from_exact(moved, of) for of in ("max", "value", "vjp"))
        return np.concatenate([maximum, value @ v, vjp.ravel()])

    value, vjp, second = (from_exact(case, of) for of in ("value", "vjp", "second"))
    slopes = np.concatenate([value @ w, vjp @ w, second.ravel()])
    return float(np.abs(derivative(along, 1.0) - slopes).max()) / case.theta.size


# ------------------------------------------------------------------------------ losses and samplers


def _losses(oracle: str) -> Check:
    errors = errors_of(from_exact, (oracle,), NOISES, ("losses",), ("loss",), (np.float64,))
    statement = "L(θ; y_ε(θ₀)) = F(θ) − F(θ₀) − ⟨θ − θ₀, y_ε(θ₀)⟩, SciPy's, for interior targets"
    return _check(f"Exact loss, {ORACLES[oracle].lower()}", statement, errors, LOSS_LIMIT)


def _matches() -> Check:
    errors = errors_of(from_exact, EXACT, NOISES, ("losses",), ("match",), (np.float64,))
    return _check("Exact loss at a match", "L(θ; y_ε(θ)) = 0", errors, LOSS_LIMIT)


def _not_negative() -> Check:
    problems = [cases(*key, "losses")[0] for key in it.product(EXACT, NOISES)]
    losses = np.concatenate([from_exact(case, "loss") for case in problems])
    statement = "L(θ; y) ≥ 0 for random scores and interior targets: largest −L"
    note = f"{losses.size} rows; losses from {losses.min():.2g} to {losses.max():.2g}"
    return Check("Exact loss is not negative", statement, -losses.min(), LOSS_LIMIT, note=note)


def sampler_scores(
    draw: Draw, oracle: str, settings: Settings, noises: tuple[str, ...] = NOISES
) -> tuple[Scores, float]:
    """z-scores of a million samples against the exact method, and the least bias they would show.

    That bias is of the value: what a fault that moves its probabilities (or ranks) must reach.
    """
    scores, power = {}, 0.0
    replicates = settings.pick(_REPLICATES, 128)
    for noise, of in it.product(noises, ("value", "max", "vjp")):
        case = small(oracle, noise)
        seed = settings.seed_for("exact", oracle, noise, of)
        estimates = draw(case, Plan(of, replicates, _SAMPLES, seed))[0]
        exact = from_exact(case, of)
        scores[f"{NAMES[of]}, {SPELLED[noise]} noise"] = student_scores(estimates, exact).ravel()
        if of == "value":
            error = estimates.std(0, ddof=1).max() / np.sqrt(replicates)
            power = max(power, float(error * stats.t.isf(LEVEL / 2, replicates - 1)))
    return scores, power


def _samplers(oracle: str, settings: Settings) -> Check:
    scores, power = sampler_scores(from_library, oracle, settings)
    statement = "value, maximum and VJP of a million samples have the exact expectation"
    note = f"a bias of {power:.0e} in the value would show"
    return zcheck(f"Sampled and exact {ORACLES[oracle].lower()}", statement, scores, note)


# ----------------------------------------------------------------------------------- what is shown

_SHOWN = ("value", "max", "vjp", "jacobian")


def _table(errors: Errors) -> Table:
    rows = []
    for oracle, noise in it.product(EXACT, NOISES):
        cells = [f"{errors[oracle, noise, dtype, of]:.0e}" for dtype in LIMITS for of in _SHOWN]
        rows.append((f"{ORACLES[oracle]}, {SPELLED[noise]} noise", *cells))
    names = [f"{capital(NAMES[of])}, {_name(dtype)}" for dtype in LIMITS for of in _SHOWN]
    caption = "Largest error over sizes and temperatures, in units of the problem"
    return Table(caption, ("max |gap|", *names), tuple(rows))


def _name(dtype: type) -> str:
    return np.dtype(dtype).name
