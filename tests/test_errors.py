"""Bad input: each error names the argument, its value, and what would be right."""

from __future__ import annotations

import numpy as np
import pytest

import dpo

THETA = np.zeros((2, 3))


@pytest.mark.parametrize(
    "parameters, error, message",
    [
        (dict(epsilon=0), ValueError, r"epsilon must be positive and finite, got 0\.0"),
        (dict(epsilon=-1.0), ValueError, r"epsilon must be positive and finite, got -1\.0"),
        (dict(epsilon=np.nan), ValueError, "epsilon must be positive and finite, got nan"),
        (dict(epsilon=np.inf), ValueError, "epsilon must be positive and finite, got inf"),
        (dict(epsilon=1e-300), ValueError, "rescale theta"),
        (dict(epsilon="0.5"), TypeError, "epsilon must be a positive number, got '0.5'"),
        (dict(epsilon=True), TypeError, "epsilon must be a positive number, got True"),
        (dict(epsilon=np.ones(2)), TypeError, r"epsilon must be one positive number .* \(2,\)"),
        (dict(num_samples=0), ValueError, "num_samples must be between 1 and .*, got 0"),
        (dict(num_samples=2**32), ValueError, "num_samples must be between"),
        (dict(num_samples=10.0), TypeError, "num_samples must be a positive integer, got 10.0"),
        (dict(num_samples=True), TypeError, "num_samples must be a positive integer, got True"),
        (dict(noise="cauchy"), ValueError, "'normal', 'gumbel', 'logistic' .* got 'cauchy'"),
        (dict(noise=dpo.Noise()), ValueError, "noise must be one of"),
        (dict(noise=3), ValueError, "noise must be one of"),
        (dict(method="exact"), ValueError, "method must be one of 'mc', got 'exact'"),
        (
            dict(variance_reduction="qmc"),
            ValueError,
            "variance_reduction must be one of 'loo', 'none'",
        ),
        (dict(precision="fast"), ValueError, "precision must be one of 'portable'"),
        (dict(oracle=dpo.Argmax), TypeError, "did you forget the parentheses"),
        (dict(oracle="argmax"), TypeError, r"oracle must be a dpo oracle such as dpo.Argmax\(\)"),
        (dict(oracle=np.argmax), TypeError, "oracle must be a dpo oracle"),
    ],
)
def test_hyper_parameters(parameters, error, message):
    with pytest.raises(error, match=message):
        dpo.Perturbed(**parameters)
    with pytest.raises((error, TypeError)):
        dpo.perturbed_argmax(THETA, seed=0, **parameters)


@pytest.mark.parametrize(
    "theta, error, message",
    [
        (
            np.zeros((2, 3), np.int64),
            TypeError,
            r"int64; cast it first: theta.astype\(numpy.float32\)",
        ),
        (np.zeros((2, 3), bool), TypeError, "got bool"),
        (np.zeros((2, 3), complex), TypeError, "got complex128"),
        (np.zeros((2, 3), np.longdouble), TypeError, "got "),
        (np.float64(1.0), ValueError, r"at least one coordinate on its last axis, got shape \(\)"),
        (np.zeros((2, 0)), ValueError, r"got shape \(2, 0\)"),
        ([[0.0, np.nan]], ValueError, "theta contains NaN, first at row 0, coordinate 1"),
        (np.broadcast_to(np.float32(0), (2**31,)), ValueError, r"at most 2\*\*31 - 1 coordinates"),
        ("scores", TypeError, "expected an array .* got str"),
        (None, TypeError, "expected an array .* got NoneType"),
    ],
)
def test_scores(theta, error, message):
    with pytest.raises(error, match=message):
        dpo.perturbed_argmax(theta, seed=0)


@pytest.mark.parametrize(
    "v, error, message",
    [
        (np.zeros(4), ValueError, r"v must broadcast to theta's shape \(2, 3\), got shape \(4,\)"),
        (np.zeros((5, 2, 3)), ValueError, "v must broadcast"),
        (np.full((2, 3), np.nan), ValueError, "v must be finite"),
        (np.zeros((2, 3), complex), TypeError, "v must be float16"),
    ],
)
def test_directions(v, error, message):
    with pytest.raises(error, match=message):
        dpo.Perturbed().vjp(THETA, v, seed=0)


@pytest.mark.parametrize(
    "y_true, message",
    [
        (np.array([0, 1]), "for class labels pass one-hot rows"),
        (np.array([[0, 1, 1], [1, 0, 0]]), r"row 0 has minimum 0 and sum 2; for class labels"),
        (np.array([[1, 0, 0], [-1, 1, 1]]), "row 1 has minimum -1"),
        (np.full((2, 3), np.inf), "y_true must be finite"),
    ],
)
def test_targets(y_true, message):
    with pytest.raises(ValueError, match=message):
        dpo.fenchel_young_loss(THETA, y_true, seed=0)


def test_estimate_arguments():
    layer = dpo.Perturbed()
    with pytest.raises(ValueError, match=r"of must be one of 'value', .* got 'mean'"):
        layer.estimate(THETA, of="mean", seed=0)
    with pytest.raises(ValueError, match="of='vjp' needs direction"):
        layer.estimate(THETA, of="vjp", seed=0)
    with pytest.raises(ValueError, match="of='max' takes no direction"):
        layer.estimate(THETA, of="max", direction=THETA, seed=0)


def test_a_failed_call_leaves_the_next_one_whole():
    layer = dpo.Perturbed(num_samples=20)
    before = layer(THETA, seed=0)
    with pytest.raises(ValueError):
        layer(np.full((2, 3), np.nan), seed=0)
    np.testing.assert_array_equal(layer(THETA, seed=0), before)


def test_layers_are_values():
    """Frozen, hashable, comparable, picklable, readable."""
    import dataclasses
    import pickle

    layer = dpo.Perturbed(noise="Gumbel", epsilon=np.float32(0.5), num_samples=np.int64(10))
    same = dpo.Perturbed(dpo.Argmax(), noise=dpo.Gumbel(), epsilon=0.5, num_samples=10)
    assert layer == same and hash(layer) == hash(same)
    assert pickle.loads(pickle.dumps(layer)) == layer
    assert eval(repr(layer), vars(dpo)) == layer
    with pytest.raises(dataclasses.FrozenInstanceError):
        layer.epsilon = 1.0


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "2"])
def test_thread_counts(n):
    with pytest.raises(ValueError, match="num_threads must be a positive integer"):
        dpo.set_num_threads(n)
