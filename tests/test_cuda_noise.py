"""CUDA noise: in ``precision="portable"`` the bits of ``kernels/noise*.py``, in "fast" close to
them."""

from __future__ import annotations

import numpy as np
import pytest
import simt
from dpo.kernels import codes, noise32, noise64, reference
from dpo.kernels.codes import ANTITHETIC, INDEPENDENT, SCALE_SCORE, SCORE, SOBOL
from dpo.kernels.cuda import calls
from helpers import FAMILIES, draws, random_words
from scipy import stats

THREADS = 128


def run(kernel, n, *arguments):
    device = simt.Simulator(folder=simt.HERE)
    device.function("noise_probe.cu", kernel)((-(-n // THREADS),), (THREADS,), arguments)


def c_type(dtype):
    return {np.float32: "float", np.float64: "double"}[dtype]


def draw_type(
    dtype, family, kind=codes.ADDITIVE, design=INDEPENDENT, weighting=SCORE, fast="false"
):
    code = FAMILIES[family] if isinstance(FAMILIES[family], int) else "TABULATED"
    return f"Draw<{c_type(dtype)}, {code}, {kind}, {design}, {weighting}, false, {fast}>"


def test_philox_known_answers():
    """Random123's ``kat_vectors``."""
    counters = np.array(
        [[0] * 4, [0xFFFFFFFF] * 4, [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]], np.uint32
    )
    keys = np.array([[0, 0], [0xFFFFFFFF] * 2, [0xA4093822, 0x299F31D0]], np.uint32)
    expected = [
        [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8],
        [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ]
    out = np.zeros((3, 4), np.uint32)
    run("blocks", 3, counters, keys, np.int32(3), out)
    assert (out == np.array(expected, np.uint32)).all()


def formulas(dtype, family, high, low, fast="false"):
    n = len(high)
    out = {name: np.zeros(n, dtype) for name in (family, "exponential", "logistic_score")}
    kernel = f"formulas<{draw_type(dtype, family, fast=fast)}>"
    run(kernel, n, high, low, np.int32(n), *out.values())
    return out


def test_formulas_have_the_same_bits(family, dtype):
    high, low = random_words(1 << 14), random_words(1 << 14, seed=1)[::-1].copy()
    module, words = (noise32, (high,)) if dtype == np.float32 else (noise64, (high, low))
    for name, ours in formulas(dtype, family, high, low).items():
        np.testing.assert_array_equal(ours, getattr(module, name)(*words), err_msg=name)


def test_exp_has_the_same_bits(dtype):
    x = np.concatenate([np.linspace(-90, 90, 1001), [0, 87.99, 88, 88.01, 699, 701, np.inf]])
    x = np.concatenate([x, -x]).astype(dtype)
    x = x[x > (-87 if dtype == np.float32 else -690)]  # the device has no subnormal float32
    out = np.zeros_like(x)
    run(f"exponentials<{c_type(dtype)}>", len(x), x, np.int32(len(x)), out)
    e = (noise32 if dtype == np.float32 else noise64).exp(np.abs(x))
    np.testing.assert_array_equal(out, np.where(x < 0, 1 / e, e))


def samples(dtype, noise_, d, rows=0, epsilon=0.5, weighting=SCORE, fast="false"):
    """``z`` (twice) and scores of a row, (M, whole quads)."""
    quads = -(-d // 4)
    out = [np.zeros((noise_.num_samples, 4 * quads), dtype) for _ in range(3)]
    digits = 0 if noise_.directions is None else noise_.directions.shape[1]
    kind = codes.MULTIPLICATIVE if noise_.multiplicative else codes.ADDITIVE
    family = next(name for name, code in FAMILIES.items() if code == noise_.family)
    kernel = f"samples<{draw_type(dtype, family, kind, noise_.design, weighting, fast)}>"
    run(
        kernel, noise_.num_samples, np.array(noise_.seed, np.uint32),
        calls.noise_data(noise_, dtype),
        np.int32(digits), np.uint32(rows), np.int32(quads), np.int32(noise_.num_samples),
        dtype(epsilon), *out,
    )  # fmt: skip
    return out


@pytest.mark.parametrize("design", [INDEPENDENT, ANTITHETIC, SOBOL])
def test_samples_of_every_design(family, dtype, design):
    noise_ = draws(family, 16, 8, design, row_ids=np.array([5]))
    z, s, again = samples(dtype, noise_, 8, rows=5)
    expected = reference.Noise(noise_, 1, 8, dtype)
    np.testing.assert_array_equal(z, expected.z[:, 0])
    np.testing.assert_array_equal(again, expected.z[:, 0])
    np.testing.assert_array_equal(s, expected.scores[:, 0])


@pytest.mark.parametrize("design", [INDEPENDENT, ANTITHETIC, SOBOL])
@pytest.mark.parametrize("name", ["laplace", "student"])
def test_samples_of_tabulated_noise(name, dtype, design):
    test_samples_of_every_design(name, dtype, design)


def test_scores_of_tabulated_noise_for_the_temperature(dtype):
    test_scores_of_the_temperature("student", dtype, False)


@pytest.mark.parametrize("multiplicative", [False, True])
def test_scores_of_the_temperature(family, dtype, multiplicative):
    noise_ = draws(family, 8, 8, multiplicative=multiplicative)
    _, s, _ = samples(dtype, noise_, 8, weighting=SCALE_SCORE)
    epsilon = np.full((1, 1), 0.5, dtype)
    theta = np.ones((1, 8), dtype)
    expected = reference.Pass(codes.Problem(), theta, epsilon, noise_, SCALE_SCORE)
    np.testing.assert_array_equal(s, expected.scores[:, 0])


# ------------------------------------------------------------------------------- precision "fast"


def test_fast_formulas_are_close(family):
    """But in the far tail, with probability e^-9, where 1 - u has few digits in float32."""
    words = random_words(1 << 14)
    fast = formulas(np.float32, family, words, words, fast="true")
    mirrored = words ^ np.uint32(0xFFFFFFFF)
    expected = noise32.exponential(mirrored)
    near = expected < 9
    assert np.abs(fast["exponential"] / expected - 1)[near].max() < 1e-4
    assert fast["exponential"].max() < 17
    z = getattr(noise32, family)(mirrored if family == "gumbel" else words)
    assert np.abs(fast[family] - z)[near | (family == "normal")].max() < 1e-3


def test_fast_normal_noise_is_normal():
    """Box-Muller, at a level fixed beforehand: p > 1e-6 on one fixed seed."""
    noise_ = draws("normal", 4096)
    z, s, again = samples(np.float32, noise_, 8, fast="true")
    assert (z == s).all() and (z == again).all()
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-6
    correlations = np.corrcoef(z.T) - np.eye(8)
    assert np.abs(correlations).max() < 5 / np.sqrt(4096)


def test_fast_antithetic_noise_is_mirrored():
    z, _, _ = samples(np.float32, draws("normal", 64, design=ANTITHETIC), 8, fast="true")
    assert (z[::2] == -z[1::2]).all()
