"""What the API asks of whole arrays on a GPU, in one kernel each (``arrays.cu``).

The same by CuPy's functions would be some ten launches around those of the perturbed argmax, which
for small arrays take longer than it does.
"""

from __future__ import annotations

import numpy as np

from .calls import MAX_THREADS, TYPES, Array, Device, or_current, template

_FILE = "arrays.cu"
_MAX_BLOCKS = 2**11
"""Of a search: enough for any GPU."""
_LARGEST = float(np.finfo(np.float64).max)


def has_nan(x: Array, device: Device | None = None) -> bool:
    """Whether there is a NaN in ``x``, contiguous; waits for the device."""
    return not all_within(x, -np.inf, np.inf, device)


def all_finite(x: Array, device: Device | None = None) -> bool:
    """Whether no entry of ``x``, contiguous, is infinite or NaN; waits for the device."""
    return all_within(x, -_LARGEST, _LARGEST, device)


def all_within(x: Array, low: float, high: float, device: Device | None = None) -> bool:
    """Whether every entry of ``x``, contiguous, is in [low, high]; waits for the device."""
    if x.size == 0:
        return True
    device = or_current(device)
    flag = device.flag()
    blocks = min(_MAX_BLOCKS, -(-x.size // MAX_THREADS))
    given = x, np.int64(x.size), np.float64(low), np.float64(high), flag.array
    search = device.function(_FILE, template("find_outside", TYPES[x.dtype.type]))
    search((blocks,), (MAX_THREADS,), given)
    return not flag.raised()


def filled(
    shape: tuple[int, ...], value: float, dtype: type, device: Device | None = None
) -> Array:
    """An array of one number, not to be written to: those asked for last are kept."""
    return or_current(device).filled(shape, value, dtype)


def divided(
    x: Array,
    divisor: float,
    dtype: type,
    result: Array | None = None,
    device: Device | None = None,
) -> Array:
    """``x / divisor``, computed in float64 and rounded to ``dtype``: a new array, or ``result``.

    ``x`` is of reals or integers; ``result`` is contiguous, and of its shape and of ``dtype``.
    """
    device = or_current(device)
    if result is None:
        result = device.xp.empty(x.shape, dtype)
    x = device.xp.ascontiguousarray(x, None if x.dtype.type in TYPES else np.float64)
    if x.size > 0:
        kernel = template("divide", TYPES[x.dtype.type], TYPES[result.dtype.type])
        given = x, np.int64(x.size), np.float64(divisor), result
        device.function(_FILE, kernel)((-(-x.size // MAX_THREADS),), (MAX_THREADS,), given)
    return result


def apply_slope(
    sums: Array,
    divisor: int,
    theta: Array,
    epsilon: Array,
    sign: float,
    multiplicative: bool,
    device: Device | None = None,
) -> Array:
    """``sums / divisor`` times ``d location / d theta / eps``, (rows, d) float64.

    Where ``sums``, (rows, slots, d), has sums of weighted scores in its first slot. The slope is
    ``sign / eps``, with multiplicative noise ``sign / (eps theta)``, and 0 for masked scores.
    """
    device = or_current(device)
    rows, d = theta.shape
    result = device.xp.empty((rows, d), np.float64)
    if rows > 0:
        kernel = template("apply_slope", TYPES[theta.dtype.type], multiplicative)
        row_of_sums, columns = np.int64(sums.shape[1] * d), np.int32(epsilon.shape[1])
        given = sums, row_of_sums, theta, epsilon, np.int64(theta.size), np.int32(d), columns
        blocks = -(-theta.size // MAX_THREADS)
        launch = device.function(_FILE, kernel)
        launch((blocks,), (MAX_THREADS,), (*given, np.float64(divisor), np.float64(sign), result))
    return result
