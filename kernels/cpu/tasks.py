"""How a launch is split into tasks, and what they leave is put together.

Compiled into JAX programs too, which launch without Python.
"""

from __future__ import annotations

import numpy as np

from ._jit import jitable, kernel
from .accumulate import CHUNK, STRANDS
from .simd import LANES

_STRAND_BYTES = 1 << 26
"""Bound on the partial sums of rows that are split over threads."""
_SHARED_COORDINATES = 1 << 13
"""Bound on those of rows that share a group of lanes."""


@jitable
def parts_of(rows: int, d: int, num_samples: int, slots: int, size: int, threads: int) -> int:
    """Strands a row is split into: all where rows alone cannot keep the threads busy.

    A row's sums are (slots, size).
    """
    pays = threads > 1 and 0 < rows < 2 * threads and num_samples > CHUNK
    fits = rows * STRANDS * (slots * size + d) * 8 <= _STRAND_BYTES
    return STRANDS if pays and fits else 1


@jitable
def rows_together(rows: int, d: int, num_samples: int, threads: int) -> int:
    """How many rows a task has, so that what their samples leave over shares a group of lanes.

    One where nothing is left over, or little beside the rest, or where rows are so long that what
    is shared would take as much memory again.
    """
    remainder = num_samples % LANES
    if rows == 0 or remainder == 0 or num_samples > 16 * LANES or d > _SHARED_COORDINATES:
        return 1
    rounds = -(-rows // (LANES // remainder * threads))  # every thread gets as many tasks
    return -(-rows // (rounds * threads))


@kernel
def add_strands(strands, parts, whole):
    """A row's strands added in order, as where one task runs all of them; both are (n, size)."""
    for b in range(whole.shape[0]):
        for i in range(whole.shape[1]):
            total = whole.dtype.type(0)
            for k in range(parts):
                total += strands[b * parts + k, i]
            whole[b, i] = total


def joined(strands: np.ndarray, parts: int) -> np.ndarray:
    """What rows add up to, (rows, ...), from what tasks did, (rows * parts, ...)."""
    if parts == 1:
        return strands
    rows = len(strands) // parts
    whole = np.empty((rows, *strands.shape[1:]), strands.dtype)
    add_strands(strands.reshape(len(strands), -1), parts, whole.reshape(rows, -1))
    return whole
