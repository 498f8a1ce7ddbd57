"""The noise families: accuracy, symmetry, order, range, and the same bits from every backend."""

from __future__ import annotations

import numpy as np
import pytest
from dpo.kernels import noise, noise32, noise64
from dpo.kernels.cpu._jit import kernel
from helpers import EDGE_WORDS, random_words
from scipy.special import ndtri

NAMES = ["normal", "gumbel", "logistic", "exponential", "gumbel_score", "logistic_score"]


def word_tails(words, low=None):
    """``(t, upper)`` in float64 from the definition, apart from the library's code."""
    full = words.astype(object) * 2**32 + (0 if low is None else low.astype(object))
    bits = 64 if low is not None else 32
    full = full if low is not None else words.astype(object)
    upper = np.array([x >= 2 ** (bits - 1) for x in full])
    near = np.array([float(2 * min(x, 2**bits - 1 - x) + 1) for x in full])
    return near / 2.0 ** (bits + 1), upper


def exact(name, t, upper):
    """The family's formula from the nearer tail, by SciPy and NumPy."""
    sign = np.where(upper, 1.0, -1.0)
    exponential = np.where(upper, -np.log1p(-t), -np.log(t))
    return {
        "normal": lambda: -sign * ndtri(t),
        "exponential": lambda: exponential,
        "gumbel": lambda: -np.log(exponential),
        "gumbel_score": lambda: 1 - exponential,
        "logistic": lambda: sign * (np.log1p(-t) - np.log(t)),
        "logistic_score": lambda: sign * (1 - 2 * t),
    }[name]()


@pytest.mark.parametrize("name", NAMES)
def test_accuracy_float32(name):
    words = random_words(1 << 16)
    z = getattr(noise32, name)(words)
    assert z.dtype == np.float32
    reference = exact(name, *word_tails(words))
    assert (np.abs(z - reference) < 5e-7 * np.maximum(np.abs(reference), 1)).all()


@pytest.mark.parametrize("name", NAMES)
def test_accuracy_float64(name):
    high, low = random_words(1 << 13), random_words(1 << 13, seed=1)
    z = getattr(noise64, name)(high, low)
    assert z.dtype == np.float64
    reference = exact(name, *word_tails(high, low))
    assert (np.abs(z - reference) < 2e-15 * np.maximum(np.abs(reference), 1)).all()


def test_exponential_keeps_relative_precision():
    """The race is decided by the smallest E: full relative precision there, in both precisions."""
    words = random_words(1 << 16)
    reference = exact("exponential", *word_tails(words))
    assert np.abs(noise32.exponential(words) / reference - 1).max() < 5e-7


@pytest.mark.parametrize("name", ["normal", "logistic", "logistic_score"])
def test_symmetric_families_are_odd(name, dtype):
    words = random_words(1 << 12)
    if dtype == np.float32:
        f = getattr(noise32, name)
        assert (f(words) == -f(~words)).all()
    else:
        f, low = getattr(noise64, name), words[::-1]
        assert (f(words, low) == -f(~words, ~low)).all()


@pytest.mark.parametrize("name", ["normal", "gumbel", "logistic"])
def test_monotone_in_the_word(name):
    """Never down by more than rounding between neighbours, and strictly up between grid points."""
    f = getattr(noise32, name)
    start = np.random.default_rng(2).integers(0, 2**32 - 2, 1 << 16, dtype=np.uint64)
    start = np.concatenate([start, EDGE_WORDS[:-1].astype(np.uint64)])
    here, there = f(start.astype(np.uint32)), f((start + 1).astype(np.uint32))
    ulp = np.spacing(np.maximum(np.abs(here), 0.5).astype(np.float32))
    assert ((there - here) >= -4 * ulp).all()
    grid = f(np.arange(0, 2**32, 2**14, dtype=np.uint64).astype(np.uint32))
    assert (np.diff(grid) > 0).all()


def test_ranges():
    """The documented ends: finite for every word, far tails included."""
    ends = np.array([0, 2**32 - 1], np.uint32)
    np.testing.assert_allclose(noise32.normal(ends), [-6.337957, 6.337957], rtol=1e-6)
    np.testing.assert_allclose(noise32.gumbel(ends), [-3.129995, 22.873857], rtol=1e-6)
    np.testing.assert_allclose(noise32.logistic(ends), [-22.873857, 22.873857], rtol=1e-6)
    assert (noise32.exponential(ends) > 0).all()


def test_float64_refines_float32(family):
    """The same seed gives the same noise in both precisions, up to float32's resolution."""
    high = np.random.default_rng(3).integers(0, 2**32, 4096, dtype=np.uint32)
    low = random_words(4096)[: high.size]
    z32, z64 = getattr(noise32, family)(high), getattr(noise64, family)(high, low)
    assert np.abs(z32 - z64).max() < 1e-4
    assert np.median(np.abs(z32 - z64)) < 1e-7


@kernel
def compiled32(which, words, out):
    for i in range(words.size):
        x = words[i]
        if which == 0:
            out[i] = noise32.normal(x)
        elif which == 1:
            out[i] = noise32.gumbel(x)
        elif which == 2:
            out[i] = noise32.logistic(x)
        elif which == 3:
            out[i] = noise32.exponential(x)
        elif which == 4:
            out[i] = noise32.gumbel_score(x)
        else:
            out[i] = noise32.logistic_score(x)


@kernel
def compiled64(which, high, low, out):
    for i in range(high.size):
        x, y = high[i], low[i]
        if which == 0:
            out[i] = noise64.normal(x, y)
        elif which == 1:
            out[i] = noise64.gumbel(x, y)
        elif which == 2:
            out[i] = noise64.logistic(x, y)
        elif which == 3:
            out[i] = noise64.exponential(x, y)
        elif which == 4:
            out[i] = noise64.gumbel_score(x, y)
        else:
            out[i] = noise64.logistic_score(x, y)


@pytest.mark.parametrize("which, name", list(enumerate(NAMES)))
def test_same_bits_numba_and_numpy(which, name):
    words = random_words(1 << 17, seed=4)
    out = np.empty(words.size, np.float32)
    compiled32(which, words, out)
    assert (out == getattr(noise32, name)(words)).all()
    low = words[::-1].copy()
    out = np.empty(words.size, np.float64)
    compiled64(which, words, low, out)
    assert (out == getattr(noise64, name)(words, low)).all()


def test_exp_of_race_weights(dtype):
    exp = noise32.exp if dtype == np.float32 else noise64.exp
    x = np.linspace(0, 80, 10_001).astype(dtype)
    np.testing.assert_allclose(exp(x), np.exp(x.astype(np.float64)), rtol=4 * np.finfo(dtype).eps)
    assert exp(np.array([0, 1e4, np.inf], dtype)).tolist() == [1.0, np.inf, np.inf]


def test_family_formulas_are_consistent():
    """score = -(log density)', score' = its derivative, density = CDF'; Fisher information."""
    z = np.linspace(-3, 5, 81)
    h = 1e-5
    for f in noise.FAMILIES:
        slope = (f.log_density(z + h) - f.log_density(z - h)) / (2 * h)
        np.testing.assert_allclose(f.score(z), -slope, atol=1e-8)
        curvature = (f.score(z + h) - f.score(z - h)) / (2 * h)
        np.testing.assert_allclose(f.score_derivative(z), curvature, atol=1e-8)
        density = (f.cdf(z + h) - f.cdf(z - h)) / (2 * h)
        np.testing.assert_allclose(np.exp(f.log_density(z)), density, atol=1e-8)
        wide = np.linspace(-40, 60, 200_001)
        weight = np.exp(f.log_density(wide)) * (wide[1] - wide[0])
        np.testing.assert_allclose(
            (weight * f.score(wide) ** 2).sum(), f.fisher_information, rtol=1e-5
        )
        np.testing.assert_allclose((weight * wide).sum(), f.mean, atol=1e-4)
