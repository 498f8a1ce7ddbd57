"""Direction numbers of Sobol' points, for quasi-Monte-Carlo samples.

Point ``m`` has, as a 32-bit fraction, coordinate ``i``

    x_i(m) = xor of V[i, j] over the binary digits j of m that are 1

and the points ``0 .. 2^k - 1`` are a digital net: every coordinate's first k digits take each value
once. ``V`` is read off SciPy's generator (Joe and Kuo's numbers, at most 21,201 coordinates), whose
points come in Gray-code order: after ``2^(j+1) - 1`` steps it stands at the point ``V[:, j]``.
"""

from __future__ import annotations

import functools as ft

import numpy as np
from scipy.stats import qmc

MAX_COORDINATES = qmc.Sobol.MAXDIM
MAX_POINTS = 2**20


@ft.lru_cache(maxsize=16)
def directions(d: int, digits: int) -> np.ndarray:
    """``V``, (d rounded up to whole quads, digits) uint32, for ``2^digits`` points."""
    table = np.zeros(((d + 3) // 4 * 4, digits), np.uint32)
    generator = qmc.Sobol(d, scramble=False, bits=32)
    position = 0
    for j in range(digits):
        target = 2 ** (j + 1) - 1
        generator.fast_forward(target - position)
        table[:d, j] = np.ldexp(generator.random(1)[0], 32).astype(np.uint32)
        position = target + 1
    table.setflags(write=False)
    return table
