"""The emulated fused multiply-add is exact, and Numba's is the same function."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from dpo.kernels import bits
from dpo.kernels.cpu._jit import kernel


@kernel
def compiled_fma(a, b, c, out):
    for i in range(a.size):
        out[i] = bits.fma(a[i], b[i], c[i])


def operands(dtype, n=4000):
    """Products that nearly cancel the addend: where one rounding and two differ."""
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, n)).astype(dtype)
    c = np.where(
        rng.random(n) < 0.5, -(a * b), rng.standard_normal(n) * 2.0 ** rng.integers(-30, 30, n)
    )
    return a, b, (c * (1 + rng.integers(-2, 3, n) * np.finfo(dtype).eps)).astype(dtype)


def test_fma_is_correctly_rounded(dtype):
    a, b, c = operands(dtype)
    ours = bits.fma(a, b, c)
    assert ours.dtype == dtype
    for x, y, z, r in zip(a, b, c, ours, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        error = abs(Fraction(float(r)) - exact)
        for neighbour in (np.nextafter(r, dtype(-np.inf)), np.nextafter(r, dtype(np.inf))):
            assert error <= abs(Fraction(float(neighbour)) - exact)


def test_fma_differs_from_two_roundings(dtype):
    a, b, c = operands(dtype)
    assert (bits.fma(a, b, c) != a * b + c).any()


def test_fma_numba_equals_numpy(dtype):
    a, b, c = operands(dtype, 100_000)
    out = np.empty_like(a)
    compiled_fma(a, b, c, out)
    assert (out == bits.fma(a, b, c)).all()


@pytest.mark.parametrize("values", [(np.inf, 1.0, 1.0), (1.0, 1.0, -np.inf), (np.nan, 1.0, 1.0)])
def test_fma_special_values(dtype, values):
    a, b, c = (np.array([v], dtype) for v in values)
    np.testing.assert_array_equal(bits.fma(a, b, c), a * b + c)
