"""A user's solver inside the fused pass: lanes to rows of scores, solved one by one, and back.

    p, (d, lanes)  ->  scores, (32, d) float64  ->  solve each  ->  y, (d, lanes) int32

The solver is machine code at an address (``user_function.py``), called once for 32 samples; this
file is compiled with the library. Scores are transposed in registers, four coordinates at a time;
of solutions, mostly zeros, 32 coordinates are looked at in one comparison.

**Memory.** O(32 d) a thread, and what the solver works in. 0/1 solutions are kept as a bit a
coordinate for the VJP.

**Failure.** A solver that raises, or writes an entry out of range, ends the launch; ``failure.py``
then finds out where and why.
"""

from __future__ import annotations

import numpy as np

from ..user import BoundSolver, Interrupted
from . import user_function
from ._jit import jitable, kernel
from .bit_memo import note, recall, words
from .fused import run_tasks
from .simd import (
    LANES,
    any_lane,
    broadcast,
    lane_array,
    lane_bits,
    load,
    lowest_bit,
    store,
)
from .sums import to_rows
from .user_function import call_address

NS_PER_COORDINATE = 5.0
RECALL_READS_SCORES = False


def options(bound: BoundSolver) -> np.ndarray:
    """The solver as integers: addresses of code and data that ``bound`` keeps alive."""
    address = user_function.address(bound.solver)
    data = bound.layout.ctypes.data, bound.shared.ctypes.data
    return np.array([address, *data, bound.work_words, bound.low, bound.high], np.int64)


def memo_words(problem, d, dtype):
    """A bit a coordinate, where entries are 0 or 1."""
    return words(d) if problem.solver.is_binary else 0


@jitable
def workspace(theta, options, lanes):
    """Rows of scores and of solutions, all zero, and what the solver works in."""
    d = theta.shape[1]
    scores = lane_array(LANES, (d + 3) // 4 * 4, np.empty(0, np.float64))
    solutions = lane_array(LANES, (d + LANES - 1) // LANES * LANES, np.empty(0, np.int32))
    solutions[...] = 0
    return scores, solutions, np.empty(options[3], np.int64)


@jitable
def prepare(theta, scale, d, kind):
    """Nothing depends on the row."""


# -------------------------------------------------------------------------------- rows to lanes


@kernel
def to_lanes(solutions, count, low, high, y, at):
    """Rows of solutions to lanes ``at ..``, leaving zeros; whether all are in range."""
    zeros = broadcast(np.int32(0))
    good = True
    for lane in range(count):
        row = solutions[lane]
        for first in range(0, row.size, LANES):
            x = load(row, first)
            bits = lane_bits(x != zeros)
            if bits == 0:
                continue
            good = good and not any_lane((x < np.int32(low)) | (x > np.int32(high)))
            while bits != 0:
                i = first + lowest_bit(bits)
                y[i, at + lane] = row[i]
                bits &= bits - 1
            store(row, first, zeros)
    return good


# ------------------------------------------------------------------------------------ the oracle


@jitable
def solve(p, d, count, places, which, options, work, y):
    """Solutions of a block, 32 samples at a time."""
    scores, solutions, space = work
    y[...] = 0
    for at in range(0, count, LANES):
        here = min(LANES, count - at)
        to_rows(p, at, d, scores)
        solved = call_address(
            options[0],
            (
                scores.ctypes.data, scores.shape[1], solutions.ctypes.data, solutions.shape[1],
                here, which.ctypes.data, options[2], places.ctypes.data, places.shape[1],
                space.ctypes.data, options[1],
            ),
        )  # fmt: skip
        good = to_lanes(solutions, here, options[4], options[5], y, at)
        if solved < here or not good:
            raise Interrupted("a solver failed")


@kernel
def run(few, begin, end, split, operation, call, memo, solutions, scores, counts, sums):
    """Tasks ``begin .. end - 1``; see ``fused.py``."""
    run_tasks(
        workspace, prepare, solve, note, recall, RECALL_READS_SCORES, few, begin, end, split,
        operation, call, memo, solutions, scores, counts, sums,
    )  # fmt: skip
