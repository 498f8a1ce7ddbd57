"""What NumPy needs several passes and temporaries for, in one: is there a NaN, is all finite?"""

from __future__ import annotations

import numpy as np

from ._jit import kernel
from .launch import compiled_layout


@kernel
def _has_nan(x):
    found = False
    for b in range(x.shape[0]):
        for i in range(x.shape[1]):
            found |= x[b, i] != x[b, i]
    return found


@kernel
def _has_not_finite(x):
    found = False
    for b in range(x.shape[0]):
        for i in range(x.shape[1]):
            found |= not np.isfinite(x[b, i])
    return found


def has_nan(rows: np.ndarray) -> bool:
    """Whether any entry of (rows, d) scores is NaN."""
    return _has_nan(compiled_layout(rows))


def all_finite(rows: np.ndarray) -> bool:
    """Whether no entry of a (rows, d) array is NaN or infinite."""
    return not _has_not_finite(compiled_layout(rows))
