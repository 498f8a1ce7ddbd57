"""The argmax as ``fused.py`` takes it: one-hot solutions, the decisions of ``argmax.py``.

Serves what ``argmax.py`` and ``argmax_jacobian.py`` do not: JVPs and other Jacobians, other designs
of samples, a temperature a coordinate, multiplicative noise.
"""

from __future__ import annotations

import numpy as np

from ..bits import int32, select
from ..codes import RACE
from ._jit import jitable, kernel
from .argmax import largest_finite, race_weights
from .fused import run_tasks
from .simd import LANES, broadcast, load, store


@jitable
def workspace(theta, options, lanes):
    """Nothing is needed."""
    return 0


@jitable
def prepare(theta, scale, d, kind):
    """For the race, scores become negated weights."""
    if kind == RACE:
        race_weights(theta[:d], scale[0], largest_finite(theta[:d]))


@kernel
def one_hot(p, d, count, y):
    """One-hot of the largest score of each lane; the lowest index wins a tie."""
    stride = p.shape[1]
    one, zero = broadcast(np.int32(1)), broadcast(np.int32(0))
    for at in range(0, count, LANES):
        best, winner = load(p, at), broadcast(np.int32(0))
        for i in range(1, d):
            x = load(p, i * stride + at)
            better = x > best
            best, winner = select(better, x, best), select(better, int32(i), winner)
        for i in range(d):
            store(y, i * stride + at, select(winner == np.int32(i), one, zero))


@jitable
def solve(p, d, count, places, which, options, work, y):
    """See ``one_hot``."""
    one_hot(p, d, count, y)


@jitable
def note(y, d, count, work, memo, group):
    """Solutions are not kept."""


@jitable
def recall(p, d, count, memo, group, work, y):
    """Solutions are not kept."""


def memo_words(problem, d, dtype):
    """Words of a solution in a memo."""
    return 0


NS_PER_COORDINATE = 1.5
RECALL_READS_SCORES = False


@kernel
def run(few, begin, end, split, operation, call, memo, solutions, scores, counts, sums):
    """Tasks ``begin .. end - 1``; see ``fused.py``."""
    run_tasks(
        workspace, prepare, solve, note, recall, RECALL_READS_SCORES, few, begin, end, split,
        operation, call, memo, solutions, scores, counts, sums,
    )  # fmt: skip
