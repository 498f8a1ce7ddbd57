"""Any array in, the same kind, dtype and shape out; inputs untouched, views honoured."""

from __future__ import annotations

import numpy as np
import pytest

import dpo

LAYER = dpo.Perturbed(num_samples=64)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (0, 5), (2, 0, 5), (1, 1)])
def test_shapes_and_dtypes(dtype, shape):
    theta = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    y_true = np.zeros(shape, dtype)
    y_true[..., 0] = 1
    expected = {
        "value": (LAYER(theta, seed=0), shape),
        "max": (LAYER.max(theta, seed=0), shape[:-1]),
        "vjp": (LAYER.vjp(theta, theta, seed=0), shape),
        "jvp": (LAYER.jvp(theta, theta, seed=0), shape),
        "jacobian": (LAYER.jacobian(theta, seed=0), (*shape, shape[-1])),
        "samples": (LAYER.samples(theta, seed=0), (64, *shape)),
        "loss": (LAYER.loss(theta, y_true, seed=0), shape[:-1]),
    }
    for name, (result, result_shape) in expected.items():
        assert result.shape == result_shape, name
        assert result.dtype == dtype, name


def test_half_precision_computes_in_float32():
    theta = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float16)
    single = LAYER(theta.astype(np.float32), seed=0)
    np.testing.assert_array_equal(LAYER(theta, seed=0), single.astype(np.float16))


def test_any_memory_layout():
    base = np.random.default_rng(0).standard_normal((6, 10)).astype(np.float32)
    expected = LAYER(base[::2, ::-2].copy(), seed=0)
    np.testing.assert_array_equal(LAYER(base[::2, ::-2], seed=0), expected)
    np.testing.assert_array_equal(LAYER(np.asfortranarray(base), seed=0), LAYER(base, seed=0))
    broadcast = np.broadcast_to(base[0], (4, 10))
    np.testing.assert_array_equal(LAYER(broadcast, seed=0), LAYER(broadcast.copy(), seed=0))


def test_read_only_input_is_neither_written_nor_compiled_anew():
    from dpo.kernels.cpu import argmax

    theta = np.random.default_rng(0).standard_normal((2, 5)).astype(np.float32)
    LAYER(theta, seed=0)
    compiled = len(argmax.run.signatures)
    frozen = theta.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(LAYER(frozen, seed=0), LAYER(theta, seed=0))
    assert len(argmax.run.signatures) == compiled
    assert not frozen.flags.writeable


def test_lists_and_integers_in_lists():
    np.testing.assert_array_equal(LAYER([1, 2, 3], seed=0), LAYER(np.array([1.0, 2, 3]), seed=0))


def test_one_dimensional_results_are_scalars():
    assert np.ndim(LAYER.max([1.0, 2.0], seed=0)) == 0
    assert float(LAYER.loss([1.0, 2.0], [1, 0], seed=0)) > 0


def test_integer_targets_and_broadcast_directions():
    theta = np.random.default_rng(0).standard_normal((4, 3))
    onehot = np.eye(3, dtype=int)[[0, 1, 2, 0]]
    np.testing.assert_array_equal(
        LAYER.loss(theta, onehot, seed=0), LAYER.loss(theta, onehot.astype(float), seed=0)
    )
    v = np.array([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(
        LAYER.vjp(theta, v, seed=0), LAYER.vjp(theta, np.tile(v, (4, 1)), seed=0)
    )


class OnlyDLPack:
    """A foreign array: nothing but the protocol."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **keywords):
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_anything_with_dlpack():
    theta = np.random.default_rng(0).standard_normal((2, 5)).astype(np.float32)
    np.testing.assert_array_equal(LAYER(OnlyDLPack(theta), seed=0), LAYER(theta, seed=0))


def test_jax_arrays():
    jax = pytest.importorskip("jax")
    theta = np.random.default_rng(0).standard_normal((2, 5)).astype(np.float32)
    x = jax.numpy.asarray(theta)
    y = LAYER(x, seed=7)
    assert isinstance(y, jax.Array) and y.dtype == x.dtype
    np.testing.assert_array_equal(np.asarray(y), LAYER(theta, seed=7))
    np.testing.assert_array_equal(
        np.asarray(LAYER.vjp(x, x, seed=7)), LAYER.vjp(theta, theta, seed=7)
    )
    assert LAYER(x.astype("bfloat16"), seed=7).dtype == jax.numpy.bfloat16
