"""Is a solver what the theory needs? Experiments that try to refute it.

A perturbed optimizer takes any function of the scores; what is *known* about it depends on the
function. For a linear maximiser ``y*(theta) = argmax_{y in Y} <y, theta>``, and for it alone, the
gradient of ``F_eps`` is ``y_eps``, Jacobians are symmetric and the Fenchel-Young loss is convex
(Berthet et al., 2020, Section 2). ``Y`` need not be known: every solution that a solver returns is
a point of it, so a solver is refuted where a solution it returned for some scores beats the one it
returns for others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ._checks import as_integer
from ._oracle_report import FAIL, NOTE, PASS, SKIP, Check, OracleReport, guarantees
from ._trial import TOLERANCE, Candidate, Fault, Trial, as_candidate, differing_row, show

_REPEATS = 4
_LEAST_PROBES = 8


def check_oracle(
    oracle,
    *,
    d: int | None = None,
    shape: Sequence[int] | None = None,
    batched: bool | None = None,
    minimizes: bool | None = None,
    total: float | None = None,
    lower: float | None = None,
    feasible=None,
    asarray: Callable = np.asarray,
    num_probes: int = 64,
    seed: int = 0,
) -> OracleReport:
    """Try to refute that a solver is the linear maximiser that the theory needs.

    The solver runs on random scores, their neighbours, multiples, and ties, without noise:

        y*(theta) = argmax_{y in Y} <y, theta>

    What it returns is compared with what it returned for other scores. The report names each fault,
    says which guarantees follow and what to use where one does not. Passing is no proof: nothing
    was found against the solver in ``num_probes`` experiments of each kind.

    Parameters
    ----------
    oracle
        A ``dpo`` oracle, a layer (its solver is checked), or a function of scores that returns
        solutions of their shape; an object with ``fun`` is checked as that function.
    d, shape
        The shape of one instance: ``d`` scores, or a grid's ``shape=(H, W)``. A ``dpo`` oracle has
        a default.
    batched
        Whether a function takes ``(batch, *shape)`` (default) or one instance at a time.
    minimizes
        Whether scores are costs.
    total
        What every solution must sum to, if that is known: ``k``, say.
    lower
        Where a solver clips scores from below on purpose, as ``ShortestPath`` at ``min_cost``.
    feasible
        Points of ``Y`` that are known, ``(n, *shape)``: none may beat a solution.
    asarray
        What makes the array that the function takes of NumPy's: ``torch.as_tensor``, say.
    num_probes, seed
        How many scores, and which; the solver is called for about 35 times as many.

    Raises
    ------
    TypeError, ValueError
        If ``oracle`` cannot be called or a size is missing or does not fit. A solver that raises is
        a fault, in the report.

    Examples
    --------
    >>> import dpo, numpy
    >>> dpo.check_oracle(dpo.TopK(2)).ok
    True
    >>> def smallest(theta):
    ...     return numpy.eye(theta.shape[-1])[theta.argmin(-1)]
    >>> [fault.name for fault in dpo.check_oracle(smallest, d=5).failures]
    ['maximises']
    """
    num_probes = as_integer("num_probes", num_probes, _LEAST_PROBES)
    solver = as_candidate(
        oracle, _as_shape(d, shape), batched, minimizes, total, lower, asarray=asarray
    )
    trial = Trial(solver, _as_points(feasible, solver.shape), num_probes, seed)
    checks: dict[str, Check] = {}
    for name, check in _CHECKS.items():
        needs = [c for c in (*_FOUNDATIONS, *_ALSO.get(name, ())) if c in checks]
        broken = [c for c in needs if checks[c].verdict == FAIL]
        if broken:
            checks[name] = Check(name, SKIP, f"not checked ({broken[0]})")
        else:
            checks[name] = _attempt(name, check, trial)
    title = f"{solver.name}, scores of shape {solver.shape}, {num_probes} probes, seed {seed}"
    return OracleReport(title, checks, guarantees(checks))


def _as_shape(d: int | None, shape: Sequence[int] | None) -> tuple[int, ...] | None:
    if d is not None and shape is not None:
        raise ValueError(f"pass d or shape, not both, got d={d!r} and shape={shape!r}")
    if d is not None:
        return (as_integer("d", d),)
    return None if shape is None else tuple(as_integer("shape", n) for n in shape)


def _as_points(feasible, shape: tuple[int, ...]) -> np.ndarray:
    points = np.empty((0, *shape)) if feasible is None else np.asarray(feasible, np.float64)
    if points.shape[1:] != shape:
        raise ValueError(f"feasible must have shape (n, *{shape}), got {points.shape}")
    return points


# ------------------------------------------------------------------------------------- the checks


def _attempt(name: str, check: Callable, trial: Trial) -> Check:
    """The verdict of a check; whatever the solver raises in it is a fault."""
    try:
        return Check(name, *check(trial))
    except Fault as fault:
        return Check(name, FAIL, str(fault))
    except Exception as error:
        return Check(name, FAIL, f"raised {type(error).__name__}: {error}{trial.solver.hint}")


_Verdict = tuple[str, str]


def _output(trial: Trial) -> _Verdict:
    y = np.concatenate([trial.of_positive, trial.of_tied])
    whole = (y == np.round(y)).all()
    kind = f"integers in {y.min():g} .. {y.max():g}" if whole else "real numbers"
    return PASS, f"finite arrays of the scores' shape: {kind}"


def _deterministic(trial: Trial) -> _Verdict:
    # The first answer may still be influenced by what came before: `history` looks at that.
    trial.solver(trial.positive)
    first = trial.solver(trial.positive)
    for _ in range(1, _REPEATS):
        row = differing_row(first, trial.solver(trial.positive))
        if row is not None:
            return FAIL, f"repeated calls differ, for scores {show(trial.positive[row])}"
    return PASS, f"{_REPEATS} repeated calls agree"


def _history(trial: Trial) -> _Verdict:
    solver, theta = trial.solver, trial.positive
    solver(theta)
    first = solver(theta)
    solver(np.roll(theta[::-1], 1, axis=-1))
    row = differing_row(first, solver(theta))
    if row is None and not solver.batched:
        row = differing_row(first, solver(theta[::-1])[::-1])
    if row is not None:
        return FAIL, f"depends on earlier calls, for scores {show(theta[row])}"
    return PASS, "earlier calls make no difference"


def _memory(trial: Trial) -> _Verdict:
    theta = trial.positive.copy()
    returned = list(trial.solver.calls(theta))
    if not np.array_equal(theta, trial.positive):
        return FAIL, "changes the scores it is given: let it work on a copy"
    kept = [np.array(np.asarray(y)) for y in returned]
    list(trial.solver.calls(trial.positive[::-1].copy()))
    if any(not np.array_equal(a, np.asarray(b)) for a, b in zip(kept, returned, strict=True)):
        return FAIL, "overwrites a solution it has returned: let it return a new array"
    return PASS, "changes neither its scores nor earlier solutions"


def _batch(trial: Trial) -> _Verdict:
    solver, theta = trial.solver, trial.positive
    if not solver.batched:
        return PASS, "called with one instance at a time"
    whole = trial.of_positive
    for i in range(_LEAST_PROBES):
        if differing_row(solver(theta[i : i + 1]), whole[i : i + 1]) is not None:
            return FAIL, f"mixes rows: {show(theta[i])} has one solution alone, one in a batch"
    if differing_row(solver(theta[::-1])[::-1], whole) is not None:
        return FAIL, "mixes rows: solutions depend on the order of a batch"
    return PASS, "rows of a batch do not influence one another"


def _scores(trial: Trial) -> _Verdict:
    distinct = _count_distinct(trial.of_positive)
    if distinct == 1:
        distinct = _count_distinct(np.concatenate([trial.of_positive, trial.of_signed]))
    if distinct > 1 or len(trial.known):  # of the points that are known, `maximises` judges
        return PASS, f"{distinct} different solutions seen"
    return FAIL, (
        "ignores its scores: all have one solution (if there is but one feasible point, take a "
        "larger instance)"
    )


def _count_distinct(y: np.ndarray) -> int:
    return len(np.unique(np.round(y, 6), axis=0))


def _maximises(trial: Trial) -> _Verdict:
    verb = "minimises" if trial.solver.sign < 0 else "maximises"
    seen = np.concatenate([trial.of_positive, trial.of_tied])
    fault = trial.beaten(trial.positive, trial.of_positive, seen)
    if fault is None:
        return PASS, f"{verb} <y, theta>: no solution beaten by any other seen"
    if trial.is_opposite():
        remedy = "leave out minimizes=True" if trial.solver.sign < 0 else "pass minimizes=True"
        other = "maximises" if trial.solver.sign < 0 else "minimises"
        return FAIL, f"{other} <y, theta>: {remedy}, or negate the scores; {fault}"
    return FAIL, f"no linear {verb[:-1]}r: {fault}"


def _negative(trial: Trial) -> _Verdict:
    seen = np.concatenate([trial.of_positive, trial.of_signed])
    fault = trial.beaten(trial.signed, trial.of_signed, seen)
    if fault:
        hint = "; if it clips scores on purpose, say where: lower=0.0"
        return FAIL, "wrong on negative scores: " + fault + (
            hint if trial.solver.lower is None else ""
        )
    if trial.solver.lower is not None:
        return NOTE, (
            f"scores below {trial.solver.lower:g} count as {trial.solver.lower:g}: the optimum is "
            "that of the clipped scores, exact where noise rarely takes scores there"
        )
    return PASS, "right on negative scores too"


def _size(trial: Trial) -> _Verdict:
    groups = {"positive": trial.of_positive, "tied": trial.of_tied, "signed": trial.of_signed}
    sums = {name: y.reshape(len(y), -1).sum(1) for name, y in groups.items()}
    total = trial.solver.total
    usual = sums["positive"]
    if total is None and np.ptp(usual) > TOLERANCE * max(1.0, np.abs(usual).max()):
        return PASS, f"sums of solutions vary, from {usual.min():g} to {usual.max():g}"
    # Unless a total is promised, signs may change it: the positive part of the scores is linear.
    compared = ("positive", "tied") if total is None else tuple(groups)
    expected = float(usual[0]) if total is None else total
    for name in compared:
        wrong = np.abs(sums[name] - expected) > TOLERANCE * max(1.0, abs(expected))
        if wrong.any():
            y = groups[name][np.argmax(wrong)]
            return FAIL, f"solutions must sum to {expected:g}, {show(y)} sums to {y.sum():g}"
    return PASS, f"all solutions sum to {expected:g}"


def _scale(trial: Trial) -> _Verdict:
    solver = trial.solver
    if solver.lower:
        return NOTE, f"not invariant: clipping at {solver.lower:g} does not scale"
    for factor in (2.0**-10, 0.5, 2.0, 2.0**10):
        for theta, y in ((trial.positive, trial.of_positive), (trial.signed, trial.of_signed)):
            row = differing_row(y, solver(factor * theta))
            if row is not None:
                return FAIL, f"{factor:g} times {show(theta[row])} has another solution"
    return PASS, "positive multiples of scores have the same solution"


def _ties(trial: Trial) -> _Verdict:
    solver, theta, y = trial.solver, trial.tied, trial.of_tied
    for _ in range(_REPEATS):
        row = differing_row(y, solver(theta))
        if row is not None:
            return FAIL, f"breaks ties differently from call to call, for {show(theta[row])}"
    return PASS, f"of equal scores {_tie_rule(solver, theta, y)}"


def _tie_rule(solver: Candidate, theta: np.ndarray, y: np.ndarray) -> str:
    """Which order of the coordinates, if any, would break ties as the solver does."""
    slope = np.arange(math.prod(solver.shape)).reshape(solver.shape) / 2.0**20 * solver.sign
    if differing_row(y, solver(theta - slope)) is None:
        return "the lowest index is preferred"
    if differing_row(y, solver(theta + slope)) is None:
        return "the highest index is preferred"
    return "a fixed rule of its own chooses"


def _dtype(trial: Trial) -> _Verdict:
    single = trial.solver(trial.positive.astype(np.float32))
    row = differing_row(trial.of_positive, single)
    if row is None:
        return PASS, "float32 and float64 scores have the same solution"
    if trial.beaten(trial.positive, single, trial.of_positive) is None:
        return PASS, "float32 and float64 scores have solutions equally good, to rounding"
    return FAIL, f"float32 scores {show(trial.positive[row])} have another solution than float64"


_CHECKS: dict[str, Callable[[Trial], _Verdict]] = {
    "output": _output,
    "deterministic": _deterministic,
    "history": _history,
    "memory": _memory,
    "batch": _batch,
    "scores": _scores,
    "maximises": _maximises,
    "negative": _negative,
    "size": _size,
    "scale": _scale,
    "ties": _ties,
    "dtype": _dtype,
}
_FOUNDATIONS = ("output", "deterministic", "history", "batch")
"""Without these a comparison of solutions means nothing."""
_ALSO = {"negative": ("maximises",)}
