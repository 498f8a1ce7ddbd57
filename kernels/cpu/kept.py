"""The VJP of few samples whose solutions and scores a value has left: nothing is drawn or decided
again, by the same sums in the same order as in ``fused.py``.

    sums = sum_m a_m s_m,    a_m = <v, y_m - mean>
"""

from __future__ import annotations

import numpy as np

from ..bits import fma
from ..codes import Draws
from ._jit import jitable, kernel
from .layout import compiled_layout


@jitable
def weigh(solutions, v, mean, pull, weights):
    """``a_m`` of all samples, (rows * num_samples,); four at a time, since a step of the sum waits
    for the one before."""
    rows, m, d = solutions.shape
    y, last = solutions.reshape((rows * m, d)), rows * m - 1
    zero, real = v.dtype.type(0.0), v.dtype.type
    for n in range(0, last + 1, 4):
        n1, n2, n3 = min(n + 1, last), min(n + 2, last), min(n + 3, last)
        b0, b1, b2, b3 = n // m, n1 // m, n2 // m, n3 // m
        a0, a1, a2, a3 = zero, zero, zero, zero
        for i in range(d):
            a0 = fma(v[b0, i], real(y[n, i]) - mean[b0, i], a0)
            a1 = fma(v[b1, i], real(y[n1, i]) - mean[b1, i], a1)
            a2 = fma(v[b2, i], real(y[n2, i]) - mean[b2, i], a2)
            a3 = fma(v[b3, i], real(y[n3, i]) - mean[b3, i], a3)
        weights[n], weights[n1], weights[n2], weights[n3] = a0, a1, a2, a3
    if pull != 0:
        for n in range(0, last, 2):
            pair = weights[n] + weights[n + 1]
            weights[n], weights[n + 1] = (
                fma(pull, pair, weights[n]),
                fma(pull, pair, weights[n + 1]),
            )


@kernel
def add_kept(solutions, scores, v, mean, pull, sums):
    """``sums``, (rows, d), of all rows."""
    rows, m, d = solutions.shape
    weights = np.empty(rows * m, v.dtype)
    if d > 0:
        weigh(solutions, v, mean, pull, weights)
    for b in range(rows):
        total = sums[b]
        for i in range(d):
            total[i] = 0.0
        for k in range(m):
            a, s = weights[b * m + k], scores[b, k]
            for i in range(d):
                total[i] += np.float64(a * s[i])


def vjp_of_kept(
    draws: Draws, solutions: np.ndarray, scores: np.ndarray, v: np.ndarray, mean: np.ndarray
) -> np.ndarray:
    """The sums of a VJP, (rows, 1, d) float64, of what ``launch`` has left in ``solutions`` and
    ``scores``, (rows, num_samples, d); ``v`` and ``mean`` are (rows, d), of the scores' dtype."""
    sums = np.empty((len(v), 1, v.shape[1]))
    pull = v.dtype.type(draws.pull)
    add_kept(solutions, scores, compiled_layout(v), compiled_layout(mean), pull, sums[:, 0])
    return sums
