"""What the API asks of whole arrays beside launches, each in one pass: the twin of
``kernels/cuda/arrays.cu``.

NumPy needs several passes and temporaries for any of it, which for small arrays take longer than
the launch.
"""

from __future__ import annotations

import numpy as np

from ._jit import jitable, kernel
from .layout import compiled_layout


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


@kernel
def _divided(x, divisor, result):
    for b in range(x.shape[0]):
        for i in range(x.shape[1]):
            result[b, i] = x[b, i] / divisor


def divided(x: np.ndarray, divisor: float, dtype: type = np.float64) -> np.ndarray:
    """``x / divisor``, (rows, d) float64; of counts in half of NumPy's time."""
    result = np.empty(x.shape, dtype)
    _divided(compiled_layout(x), float(divisor), result)
    return result


# ------------------------------------------------------------------------- from sums to a gradient


@jitable
def slope(score, epsilon, sign, multiplicative):
    """``d location / d score / eps``; 0 for scores that are masked or never perturbed."""
    x = np.float64(score)
    if np.isinf(x) or (multiplicative and x == 0):
        return 0.0
    return sign / (np.float64(epsilon) * x) if multiplicative else sign / np.float64(epsilon)


@jitable
def apply_slope_to_row(sums, divisor, theta, epsilon, sign, result):
    """As ``apply_slope``, of a row that has one temperature and additive noise."""
    scale = sign / np.float64(epsilon)
    for i in range(result.size):
        result[i] = sums[i] / divisor * (0.0 if np.isinf(theta[i]) else scale)


@jitable
def apply_any_slope_to_row(sums, divisor, theta, epsilon, sign, multiplicative, result):
    """As ``apply_slope``, of a row; ``epsilon`` is of one entry or one a coordinate."""
    if epsilon.size == 1 and not multiplicative:
        apply_slope_to_row(sums, divisor, theta, epsilon[0], sign, result)
        return
    for i in range(result.size):
        own = epsilon[i if epsilon.size > 1 else 0]
        result[i] = sums[i] / divisor * slope(theta[i], own, sign, multiplicative)


@kernel
def _apply_slope(sums, divisor, theta, epsilon, sign, multiplicative, result):
    for b in range(len(theta)):
        apply_any_slope_to_row(
            sums[b, 0], divisor, theta[b], epsilon[b], sign, multiplicative, result[b]
        )


def apply_slope(
    sums: np.ndarray,
    divisor: int,
    theta: np.ndarray,
    epsilon: np.ndarray,
    sign: float,
    multiplicative: bool,
) -> np.ndarray:
    """``sums / divisor`` times ``d location / d theta / eps``, (rows, d) float64.

    ``sums``, (rows, slots, d) float64, has sums of weighted scores in its first slot. The slope is
    ``sign / eps``, with multiplicative noise ``sign / (eps theta)``, and 0 for masked scores.
    """
    result = np.empty(theta.shape)
    theta, epsilon = compiled_layout(theta), compiled_layout(epsilon)
    _apply_slope(
        compiled_layout(sums), float(divisor), theta, epsilon, sign, multiplicative, result
    )
    return result


@kernel
def contract_sums(v, centre, outer, result):
    """``result = v^T (outer[:, :d] - centre outer[:, d]^T)``, row by row, coordinates in order."""
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


def contract(v: np.ndarray, centre: np.ndarray, outer: np.ndarray) -> np.ndarray:
    """``v^T (outer[:, :d] - centre outer[:, d]^T)``, (rows, d) float64: a VJP's sums.

    ``outer``, (rows, d + 1, d) float64, has the sums of a Jacobian, and ``centre``, (rows, d)
    float64, what solutions are centred by.
    """
    result = np.empty(v.shape)
    contract_sums(compiled_layout(v), compiled_layout(centre), compiled_layout(outer), result)
    return result
