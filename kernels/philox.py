"""Philox4x32-10, the counter-based generator (Salmon, Moraes, Dror and Shaw, SC 2011).

    (w0, w1, w2, w3) = philox4x32(counter, key)

is a pure function of a 128-bit counter and a 64-bit key. The library addresses it by *logical
coordinates* (the noise contract): coordinate ``i`` of sample ``m`` of batch row ``b`` reads

    word i % 4 of philox4x32(counter=(i // 4, m, b, stream), key=(seed_lo, seed_hi))

so noise never depends on a launch, a chunk or a thread, and a backward pass regenerates it.

The code below is the definition for NumPy arrays *and*, registered by ``kernels/cpu/_jit.py``, the
code Numba compiles. Each 32-bit word travels in the low half of a 64-bit lane, masked only before
a multiplication: the 32 x 32 -> 64 bit product is then one vector instruction. The upper half of
a lane is garbage until masked.
"""

from __future__ import annotations

import numpy as np

MULTIPLIER_0 = np.uint64(0xD2511F53)
MULTIPLIER_1 = np.uint64(0xCD9E8D57)
WEYL_0 = np.uint64(0x9E3779B9)
WEYL_1 = np.uint64(0xBB67AE85)

LOW_HALF = np.uint64(0xFFFFFFFF)
HALF_WIDTH = np.uint64(32)

STREAM_NOISE = np.uint64(0)
"""The words every noise family reads."""
STREAM_REFINE = np.uint64(1)
"""The second words of float64 noise: they refine float32's words below their last bit."""
STREAM_SHIFT = np.uint64(2)
"""The random digital shifts of quasi-Monte-Carlo points."""


def philox_round(c0, c1, c2, c3, k0, k1):
    """One round of the bijection."""
    p0 = (c0 & LOW_HALF) * MULTIPLIER_0
    p1 = (c2 & LOW_HALF) * MULTIPLIER_1
    return (p1 >> HALF_WIDTH) ^ c1 ^ k0, p1, (p0 >> HALF_WIDTH) ^ c3 ^ k1, p0


def philox4x32(c0, c1, c2, c3, k0, k1):
    """Four words (in the low halves of four uint64) from counter ``c0..c3`` and key ``k0, k1``.

    Written out round by round so that, where only the sample ``c1`` varies from lane to lane, the
    compiler sees that a third of the first rounds is scalar.
    """
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, k0, k1)
    k0, k1 = (k0 + WEYL_0) & LOW_HALF, (k1 + WEYL_1) & LOW_HALF
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, k0, k1)
    k0, k1 = (k0 + WEYL_0) & LOW_HALF, (k1 + WEYL_1) & LOW_HALF
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, k0, k1)
    k0, k1 = (k0 + WEYL_0) & LOW_HALF, (k1 + WEYL_1) & LOW_HALF
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, k0, k1)
    k0, k1 = (k0 + WEYL_0) & LOW_HALF, (k1 + WEYL_1) & LOW_HALF
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, k0, k1)
    k0, k1 = (k0 + WEYL_0) & LOW_HALF, (k1 + WEYL_1) & LOW_HALF
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, k0, k1)
    k0, k1 = (k0 + WEYL_0) & LOW_HALF, (k1 + WEYL_1) & LOW_HALF
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, k0, k1)
    k0, k1 = (k0 + WEYL_0) & LOW_HALF, (k1 + WEYL_1) & LOW_HALF
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, k0, k1)
    k0, k1 = (k0 + WEYL_0) & LOW_HALF, (k1 + WEYL_1) & LOW_HALF
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, k0, k1)
    k0, k1 = (k0 + WEYL_0) & LOW_HALF, (k1 + WEYL_1) & LOW_HALF
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, k0, k1)
    return c0 & LOW_HALF, c1 & LOW_HALF, c2 & LOW_HALF, c3 & LOW_HALF


def words(quads, samples, rows, stream, seed):
    """The words of coordinates ``4 q .. 4 q + 3`` as uint32, shape ``broadcast(...) + (4,)``.

    ``quads`` (``i // 4``), ``samples`` and ``rows`` are integer arrays that broadcast; ``seed`` is
    the pair ``(seed_lo, seed_hi)``.
    """
    quads, samples, rows = (np.asarray(a, np.uint64) for a in (quads, samples, rows))
    k0, k1 = (np.asarray(k, np.uint64) for k in seed)
    out = philox4x32(quads, samples, rows, np.asarray(stream, np.uint64), k0, k1)
    return np.stack(np.broadcast_arrays(*out), axis=-1).astype(np.uint32)
