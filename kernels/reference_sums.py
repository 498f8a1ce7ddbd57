"""The fixed order of every float sum, in plain NumPy (``kernels/cpu/argmax.py``, Determinism)."""

from __future__ import annotations

import numpy as np

from .bits import fma

CHUNK = 256
LANES = 32
STRANDS = 16


def mates(x):
    """Samples 2 j and 2 j + 1 exchanged; the last of an odd number has none."""
    result = np.zeros_like(x)
    even = len(x) // 2 * 2
    result[0:even:2], result[1:even:2] = x[1:even:2], x[0:even:2]
    return result


def tree_of_products(a, b):
    """``sum_m a_m b_m`` over the fixed tree, (M, k) and (M, k) give (k,) float64."""
    a, b = np.broadcast_arrays(a, b)
    total = np.zeros(a.shape[1])
    for strand in range(STRANDS):
        partial = np.zeros_like(total)
        for m in range(strand * CHUNK, len(a), STRANDS * CHUNK):
            x, y = a[m : m + CHUNK], b[m : m + CHUNK]
            lanes = np.zeros((LANES, a.shape[1]), a.dtype)
            for k in range(0, len(x), LANES):
                n = len(x[k : k + LANES])
                lanes[:n] = fma(x[k : k + LANES], y[k : k + LANES], lanes[:n])
            while len(lanes) > 1:
                lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
            partial += lanes[0].astype(np.float64)
        total += partial
    return total


def tree_sum(terms):
    """``sum_m terms_m`` over the fixed tree."""
    return tree_of_products(np.ones_like(terms), terms)


def ordered_sum(terms):
    """``sum_m terms_m`` in float64, sample by sample within a strand; (M, k) gives (k,)."""
    total = np.zeros(terms.shape[1])
    for strand in range(STRANDS):
        partial = np.zeros_like(total)
        for m in range(strand * CHUNK, len(terms), STRANDS * CHUNK):
            for term in terms[m : m + CHUNK].astype(np.float64):
                partial += term
        total += partial
    return total


def squares(terms, tree):
    """``sum_m terms_m^2`` over a tree; in float64 where it is ``ordered_sum``."""
    if tree is ordered_sum:
        return ordered_sum(terms.astype(np.float64) ** 2)
    return tree_of_products(terms, terms)


def ordered_dot(a, b):
    """``<a, b>`` in float64, coordinate by coordinate."""
    total = np.float64(0.0)
    for x, y in zip(a.astype(np.float64), b.astype(np.float64), strict=True):
        total += x * y
    return total
