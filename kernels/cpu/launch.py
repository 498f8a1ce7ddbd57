"""Launch the CPU kernels: choose one, allocate, split into tasks, map over threads, add up."""

from __future__ import annotations

import functools as ft
import importlib
from typing import NamedTuple

import numpy as np

from ..codes import (
    ADDITIVE,
    FEW,
    INDEPENDENT,
    JACOBIAN,
    JVP,
    MAXIMUM,
    MOMENTS,
    MULTIPLICATIVE,
    RACE,
    SCORE,
    VALUE,
    VJP,
    Draws,
    Problem,
)
from ..noise import GUMBEL
from ..user import Interrupted
from . import argmax, argmax_jacobian, argmax_rows, failure
from .arrays import all_finite, apply_slope, contract, divided, has_nan
from .kept import vjp_of_kept
from .layout import compiled_layout
from .simd import LANES
from .tasks import joined, parts_of, rows_together
from .threads import get_num_threads, run_tasks

__all__ = [
    "Sums", "all_finite", "apply_slope", "contract", "divided", "has_nan", "launch", "new_memo",
    "vjp_of_kept",
]  # fmt: skip


class Sums(NamedTuple):
    """What a launch accumulated, row by row."""

    counts: np.ndarray
    """(rows, 1 or 2, d) int64: ``sum y`` and, where asked for, ``sum y^2``; zero for a VJP."""
    totals: np.ndarray
    """(rows, slots, size) float64: the operation's sums, see ``fused.py``."""


def launch(
    problem: Problem,
    theta: np.ndarray,
    epsilon: np.ndarray,
    draws: Draws,
    operation: int = VALUE,
    *,
    direction: np.ndarray | None = None,
    mean: np.ndarray | None = None,
    memo: np.ndarray | None = None,
    solutions: np.ndarray | None = None,
    scores: np.ndarray | None = None,
    squares: bool = False,
    weighting: int = SCORE,
) -> Sums:
    """One launch of ``argmax.py``, ``argmax_rows.py``, ``argmax_jacobian.py``, ``topk_sparse.py``
    or ``fused.py``, whose docstrings define it.

    ``theta``, ``direction`` and ``mean`` are (rows, d), float32 or float64, all of one dtype, and
    ``epsilon`` is (rows, 1) or (rows, d), positive. ``memo``, made by ``new_memo``, is where VALUE
    and MAXIMUM leave what was decided; a VJP of the same samples that is given it need not decide
    again. ``solutions``, (rows, num_samples, d) int32, receives every solution, and ``scores``,
    where samples are few and solutions wanted too, the scores of their noise: see ``kept.py``. A
    VJP of few samples that is given ``solutions`` does not decide again either.
    """
    assert scores is None or (solutions is not None and draws.num_samples <= FEW)
    theta = compiled_layout(theta)
    empty = np.empty((0, 0), theta.dtype)
    call = _Call(
        theta=theta,
        epsilon=np.asarray(epsilon, theta.dtype),
        draws=draws,
        key=compiled_key(draws),
        row_ids=padded_row_ids(draws, len(theta)),
        operation=operation,
        squares=squares,
        direction=empty if direction is None else compiled_layout(direction),
        mean=empty if mean is None else compiled_layout(mean),
        memo=memo,
    )
    if weighting == SCORE and solutions is None and is_plain(problem, epsilon, draws, operation):
        return _plain_argmax(call)
    if weighting == SCORE and solutions is None and _is_plain_jacobian(problem, call):
        return _plain_jacobian(call)
    if is_sparse_topk(problem, epsilon, draws, theta.shape[1]):
        if weighting == SCORE and solutions is None and operation in (VALUE, VJP):
            return _sparse_topk(problem, call)
        call = call._replace(memo=None)  # of another form
    try:
        return _fused(problem, call, weighting, solutions, scores)
    except Interrupted:
        error = first_failure(problem, call.theta, call.epsilon, draws)
    raise error


def first_failure(
    problem: Problem, theta: np.ndarray, epsilon: np.ndarray, draws: Draws
) -> Exception:
    """What to raise where a user's solver fails: see ``failure.py``."""
    return failure.first(problem, theta, epsilon, draws, _solve_only)


def _solve_only(problem: Problem, theta: np.ndarray, epsilon: np.ndarray, draws: Draws) -> None:
    """A launch that is made to see whether the solver fails."""
    none = np.empty((0, 0), theta.dtype)
    row_ids, key = padded_row_ids(draws, len(theta)), compiled_key(draws)
    call = _Call(theta, epsilon, draws, key, row_ids, VALUE, False, none, none, None)
    _fused(problem, call, SCORE)


class _Call(NamedTuple):
    """What both kinds of kernels are given."""

    theta: np.ndarray
    epsilon: np.ndarray
    draws: Draws
    key: tuple[np.uint64, np.uint64, np.uint64]
    row_ids: np.ndarray
    operation: int
    squares: bool
    direction: np.ndarray
    mean: np.ndarray
    memo: np.ndarray | None

    @property
    def family(self) -> int | np.ndarray:
        return compiled_family(self.draws, self.theta.dtype)

    def parts(self, slots: int, size: int) -> int:
        """Strands a row is split into: see ``tasks.py``."""
        rows, d = self.theta.shape
        return parts_of(rows, d, self.draws.num_samples, slots, size, get_num_threads())


def is_plain(problem: Problem, epsilon: np.ndarray, draws: Draws, operation: int) -> bool:
    """Whether ``argmax.py`` can do it: what training with independent samples calls."""
    return operation in (VALUE, MAXIMUM, VJP) and _is_plain_argmax(problem, epsilon, draws)


def _is_plain_argmax(problem: Problem, epsilon: np.ndarray, draws: Draws) -> bool:
    return (
        problem.oracle == "argmax"
        and draws.design == INDEPENDENT
        and not draws.multiplicative
        and epsilon.shape[1] == 1
    )


def _is_plain_jacobian(problem: Problem, call: _Call) -> bool:
    """Whether ``argmax_jacobian.py`` can do it: what training with few coordinates calls."""
    return (
        call.operation == JACOBIAN
        and not call.squares
        and call.theta.dtype == np.float32
        and call.theta.shape[1] <= argmax_jacobian.MAX_COORDINATES
        and _is_plain_argmax(problem, call.epsilon, call.draws)
    )


def is_sparse_topk(problem: Problem, epsilon: np.ndarray, draws: Draws, d: int) -> bool:
    """Whether values and VJPs of a top-k are for ``topk_sparse.py``."""
    return (
        problem.oracle == "topk"
        and not problem.minimises
        and draws.design == INDEPENDENT
        and draws.num_samples > FEW
        and not draws.multiplicative
        and epsilon.shape[1] == 1
        and _module("topk_sparse").serves(problem.options[0], d)
    )


def new_memo(problem: Problem, theta: np.ndarray, epsilon: np.ndarray, draws: Draws):
    """Room for what every sample decided; None where solutions have no short form."""
    rows, d = theta.shape
    words = solution_words(problem, epsilon, draws, d, theta.dtype)
    if words == 0:
        return None
    if is_plain(problem, epsilon, draws, VJP):
        return np.empty((rows, draws.num_samples), np.int32)
    if draws.num_samples <= FEW:
        return np.empty((rows, draws.num_samples, words), np.int32)
    return np.empty((rows * -(-draws.num_samples // LANES), words, LANES), np.int32)


def memo_words(problem: Problem, epsilon: np.ndarray, draws: Draws, d: int, dtype) -> int:
    """Words a row of ``new_memo``; 0 where there is none."""
    in_lanes = draws.num_samples > FEW and not is_plain(problem, epsilon, draws, VJP)
    samples = -(-draws.num_samples // LANES) * LANES if in_lanes else draws.num_samples
    return samples * solution_words(problem, epsilon, draws, d, dtype)


def solution_words(problem: Problem, epsilon: np.ndarray, draws: Draws, d: int, dtype) -> int:
    """Words of one solution in it."""
    if is_plain(problem, epsilon, draws, VJP):
        return 1
    if is_sparse_topk(problem, epsilon, draws, d):
        return _module("topk_sparse").memo_words(problem.options[0], d)
    return words_of_a_solution(problem, d, dtype)


def words_of_a_solution(problem: Problem, d: int, dtype) -> int:
    """In its short form, for ``d`` coordinates; 0 where it has none."""
    return _module(problem.oracle).memo_words(problem, d, dtype)


# ------------------------------------------------------------------------------ the plain argmax


def _plain_argmax(call: _Call) -> Sums:
    rows, d = call.theta.shape
    num_samples, operation = call.draws.num_samples, call.operation
    slots = 2 if call.squares or operation == MAXIMUM else 1
    size = {VALUE: 0, MAXIMUM: 1, VJP: d}[operation]
    parts = call.parts(slots, size)
    by_rows = argmax_rows.fills_lanes(rows, num_samples)
    counts = np.zeros((rows * parts, d), np.int64)
    sums = np.zeros((rows * parts, slots, size), np.float64)
    decided = np.empty((0, 0), np.int32) if call.memo is None else call.memo
    operands = (
        operation, call.squares, call.theta, _padded_epsilons(call), call.family, call.key,
        num_samples, call.draws.sample_offset, call.row_ids, call.direction, call.mean, decided,
        counts, sums,
    )  # fmt: skip
    if by_rows:
        num_tasks = -(-rows // LANES)

        def tasks(begin: int, end: int) -> None:
            argmax_rows.run(begin, end, *operands)

    else:
        num_tasks = rows * parts

        def tasks(begin: int, end: int) -> None:
            argmax.run(begin, end, parts, *operands)

    run_tasks(tasks, num_tasks, rows * num_samples * d)
    return Sums(joined(counts[:, None], parts), joined(sums, parts))


def _plain_jacobian(call: _Call) -> Sums:
    rows, d = call.theta.shape
    size = (d + 1) * d
    parts = call.parts(1, size)
    counts = np.zeros((rows * parts, d), np.int64)
    sums = np.zeros((rows * parts, size), np.float64)
    operands = (
        call.theta, _padded_epsilons(call), call.family, call.key, call.draws.num_samples,
        call.draws.sample_offset, call.row_ids, counts, sums,
    )  # fmt: skip

    def tasks(begin: int, end: int) -> None:
        argmax_jacobian.run(begin, end, parts, *operands)

    run_tasks(tasks, rows * parts, rows * call.draws.num_samples * d)
    return Sums(joined(counts[:, None], parts), joined(sums[:, None], parts))


# ------------------------------------------------------------------------------ the sparse top-k


def _sparse_topk(problem: Problem, call: _Call) -> Sums:
    rows, d = call.theta.shape
    num_samples, operation = call.draws.num_samples, call.operation
    slots, size = 2 if call.squares else 1, d if operation == VJP else 0
    parts = call.parts(slots, size)
    counts = np.zeros((rows * parts, d), np.int64)
    sums = np.zeros((rows * parts, slots, size), np.float64)
    memo = np.empty((0, 0, 0), np.int32) if call.memo is None else call.memo
    topk = _module("topk_sparse")
    operands = (
        operation, call.squares, problem.options[0], call.theta, _padded_epsilons(call),
        call.family, call.key, num_samples, call.draws.sample_offset, call.row_ids, call.direction,
        call.mean, memo, counts, sums,
    )  # fmt: skip

    def tasks(begin: int, end: int) -> None:
        topk.run(begin, end, parts, *operands)

    run_tasks(tasks, rows * parts, topk.NS_PER_COORDINATE * rows * num_samples * d)
    counts = counts[:, None]
    if call.squares and operation == VALUE:
        counts = np.concatenate((counts, counts), axis=1)  # a one is its own square
    return Sums(joined(counts, parts), joined(sums, parts))


# ------------------------------------------------------------------------------ every other solver


@ft.cache
def _module(oracle: str):
    """The file of a solver, imported (not yet compiled) on first use."""
    name = "argmax_dense" if oracle == "argmax" else oracle
    return importlib.import_module(f".{name}", __package__)


def _options(problem: Problem) -> np.ndarray:
    """The solver's integers as its file takes them."""
    if problem.solver is None:
        return np.array(problem.options, np.int64)
    return _module(problem.oracle).options(problem.solver)


def _fused(
    problem: Problem,
    call: _Call,
    weighting: int,
    solutions: np.ndarray | None = None,
    scores: np.ndarray | None = None,
) -> Sums:
    rows, d = call.theta.shape
    draws, operation = call.draws, call.operation
    slots = 1
    if operation in (MAXIMUM, MOMENTS):
        slots = 2
    elif call.squares and operation != VALUE:
        slots = 2 if operation == VJP else 3
    size = {VALUE: 0, MAXIMUM: 1, VJP: d, JVP: d + 1, JACOBIAN: (d + 1) * d, MOMENTS: d}[operation]
    few = draws.num_samples <= FEW and operation in (VALUE, MAXIMUM, VJP)
    parts = 1 if few else call.parts(slots, size)
    together = 1
    if not few and parts == 1:
        together = rows_together(rows, d, draws.num_samples, get_num_threads())
    kinds = 2 if call.squares and operation == VALUE else 1
    counts = np.zeros((rows * parts, kinds, d), np.int64)
    sums = np.zeros((rows * parts, slots, size), np.float64)
    scale = call.epsilon
    if problem.minimises and not draws.multiplicative:
        scale = -scale
    none, no_scores = np.empty((0, 0, 0), np.int32), np.empty((0, 0, 0), call.theta.dtype)
    directions = np.empty((0, 0), np.uint32)
    if draws.directions is not None:
        directions = compiled_layout(draws.directions)
    places = np.empty((0, 0), np.int64) if problem.places is None else problem.places
    kernel_call = (
        (call.family, _kind(problem, call, weighting), draws.design, weighting), call.key,
        directions, call.theta, compiled_layout(scale), call.row_ids,
        (draws.num_samples, draws.sample_offset), call.direction, call.mean,
        call.theta.dtype.type(draws.pull), _options(problem), places,
    )  # fmt: skip
    memo = none if call.memo is None else call.memo
    solutions = none if solutions is None else solutions
    scores = no_scores if scores is None else scores
    oracle = _module(problem.oracle)

    def tasks(begin: int, end: int) -> None:
        oracle.run(
            few, begin, end, (parts, together), operation, kernel_call, memo, solutions, scores,
            counts, sums,
        )  # fmt: skip

    num_tasks = -(-rows // LANES) if few else -(-rows // together) * parts
    run_tasks(tasks, num_tasks, oracle.NS_PER_COORDINATE * rows * draws.num_samples * d)
    return Sums(joined(counts, parts), joined(sums, parts))


def _kind(problem: Problem, call: _Call, weighting: int) -> int:
    if call.draws.multiplicative:
        return MULTIPLICATIVE
    race = problem.oracle == "argmax" and call.draws.family == GUMBEL
    needs_z = call.operation in (MAXIMUM, MOMENTS) or weighting != SCORE
    return RACE if race and call.epsilon.shape[1] == 1 and not needs_z else ADDITIVE


# -------------------------------------------------------------------------------- small parts


def _padded_epsilons(call: _Call) -> np.ndarray:
    """A temperature a row, long enough to load whole blocks of lanes."""
    epsilons = np.ones(len(call.theta) + LANES, call.theta.dtype)
    epsilons[: len(call.theta)] = call.epsilon[:, 0]
    return epsilons


def padded_row_ids(draws: Draws, rows: int) -> np.ndarray:
    """An identity a row, long enough to load whole blocks of lanes."""
    row_ids = np.zeros(rows + LANES, np.uint64)
    row_ids[:rows] = np.arange(rows) if draws.row_ids is None else draws.row_ids
    return row_ids


def compiled_key(draws: Draws) -> tuple[np.uint64, np.uint64, np.uint64]:
    """What ``perturb.words`` takes as its key."""
    low, high = draws.seed
    return np.uint64(low), np.uint64(high), np.uint64(draws.first_quad)


def compiled_family(draws: Draws, dtype: np.dtype) -> int | np.ndarray:
    """A family as kernels take it: its code, or its table in the precision of the scores."""
    return draws.family if isinstance(draws.family, int) else draws.family.table(dtype)
