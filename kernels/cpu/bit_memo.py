"""Solutions of zeros and ones as a bit a coordinate: a memo where there is no shorter one.

``note`` and ``recall`` are those of an oracle, see ``fused.py``.
"""

from __future__ import annotations

import numpy as np

from ..bits import int32
from ._jit import jitable, kernel
from .simd import LANES, broadcast, load, store


def words(d: int) -> int:
    """Words that ``d`` bits take."""
    return (d + 31) // 32


@kernel
def pack(y, d, at, memo):
    """Lanes ``at ..`` of ``y`` to ``memo``, (words, 32)."""
    stride = y.shape[1]
    for word in range(memo.shape[0]):
        bits = broadcast(np.int32(0))
        for i in range(32 * word, min(32 * word + 32, d)):
            bits = bits | (load(y, i * stride + at) << int32(i % 32))
        store(memo, word * LANES, bits)


@kernel
def unpack(memo, d, at, y):
    """And back."""
    stride = y.shape[1]
    for i in range(d):
        bits = load(memo, i // 32 * LANES)
        store(y, i * stride + at, (bits >> int32(i % 32)) & np.int32(1))


@jitable
def note(y, d, count, work, memo, group):
    """Keep solutions."""
    for at in range(0, count, LANES):
        pack(y, d, at, memo[group + at // LANES])


@jitable
def recall(p, d, count, memo, group, work, y):
    """Solutions as they were kept."""
    for at in range(0, count, LANES):
        unpack(memo[group + at // LANES], d, at, y)
