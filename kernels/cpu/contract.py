"""A VJP from the sums of a Jacobian pass: ``v^T sum (y - centre) s^T``, where ``d`` is small."""

from __future__ import annotations

import numpy as np

from ._jit import kernel


@kernel
def contract(v, centre, outer, result):
    """``result = v^T (outer[:, :d] - centre outer[:, d]^T)``, row by row, coordinates in order.

    ``outer`` is (rows, d + 1, d) float64, a Jacobian's sums; ``centre`` (rows, d) float64.
    """
    rows, d = result.shape
    for b in range(rows):
        result[b] = 0.0
        expected = 0.0
        for i in range(d):
            x = np.float64(v[b, i])
            expected += x * centre[b, i]
            for k in range(d):
                result[b, k] += x * outer[b, i, k]
        for k in range(d):
            result[b, k] -= expected * outer[b, d, k]
