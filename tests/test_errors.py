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
        (dict(epsilon="0.5"), TypeError, "epsilon must be a positive number or .*, got '0.5'"),
        (dict(epsilon=True), TypeError, "epsilon must be a positive number or .*, got True"),
        (dict(epsilon=[0.5, -1.0]), ValueError, r"epsilon must be positive and finite, got -1\.0"),
        (dict(num_samples=0), ValueError, "num_samples must be between 1 and .*, got 0"),
        (dict(num_samples=2**32), ValueError, "num_samples must be between"),
        (dict(num_samples=10.0), TypeError, "num_samples must be a positive integer, got 10.0"),
        (dict(num_samples=True), TypeError, "num_samples must be a positive integer, got True"),
        (
            dict(noise="cauchy"),
            ValueError,
            "'normal', 'gumbel', 'logistic', 'laplace' .* got 'cauchy'",
        ),
        (dict(noise=dpo.Noise()), ValueError, "noise must be one of"),
        (dict(noise=3), ValueError, "noise must be one of"),
        (
            dict(method="quadrature"),
            ValueError,
            "method must be one of 'mc', 'exact', 'auto', got 'quadrature'",
        ),
        (
            dict(variance_reduction="rqmc"),
            ValueError,
            "variance_reduction must be one of 'loo', 'none', 'antithetic', 'qmc'",
        ),
        (dict(precision="half"), ValueError, "precision must be one of 'portable', 'fast'"),
        (dict(oracle=dpo.Argmax), TypeError, "did you forget the parentheses"),
        (dict(oracle="argmax"), TypeError, r"oracle must be a dpo oracle such as dpo.Argmax\(\)"),
        (dict(oracle=np.argmax), TypeError, "oracle must be a dpo oracle"),
        (
            dict(variance_reduction="antithetic", num_samples=7),
            ValueError,
            "num_samples must be even .* got 7, try 8",
        ),
        (
            dict(variance_reduction="qmc", num_samples=1001),
            ValueError,
            "num_samples must be a multiple of 8 .* got 1001, try 1008",
        ),
        (dict(perturbation="exponential"), ValueError, "'additive', 'multiplicative'"),
        (
            dict(perturbation="multiplicative", noise="gumbel"),
            ValueError,
            "noise must be 'normal', got Gumbel",
        ),
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
        ([[0.0, np.nan]], ValueError, r"theta contains NaN, first at index \(0, 1\)"),
        (
            np.broadcast_to(np.float32(0), (2**31,)),
            ValueError,
            r"at most 2\*\*31 - 1024 coordinates",
        ),
        ("scores", TypeError, "theta must be an array .* got str"),
        (None, TypeError, "theta must be an array .* got NoneType"),
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
        (np.array([0, 1]), r"of class labels pass one-hot rows, numpy.eye\(3\)\[y_true\]"),
        (np.array([0, 1, 0]), "one solution for all is"),
        (
            np.array([[0, 1, 1], [1, 0, 0]]),
            r"row 0 has minimum 0, maximum 1 and sum 2; for class labels",
        ),
        (np.array([[1, 0, 0], [-1, 1, 1]]), "row 1 has minimum -1"),
        (np.full((2, 3), np.inf), "y_true must be finite"),
    ],
)
def test_targets(y_true, message):
    with pytest.raises(ValueError, match=message):
        dpo.fenchel_young_loss(THETA, y_true, seed=0)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: dpo.TopK(0), ValueError, "k must be a positive integer, got 0"),
        (lambda: dpo.TopK(1.5), TypeError, "k must be a positive integer, got 1.5"),
        (lambda: dpo.perturbed_topk(THETA, 4, seed=0), ValueError, r"k must be in 1\.\.3 .* got 4"),
        (
            lambda: dpo.perturbed_ranks(np.broadcast_to(np.float32(0), (2**20 + 1,)), seed=0),
            ValueError,
            "at most",
        ),
        (lambda: dpo.ShortestPath(6), ValueError, "neighbors must be 4 or 8, got 6"),
        (lambda: dpo.ShortestPath(source=(0.5, 0)), ValueError, "source must be a cell"),
        (lambda: dpo.ShortestPath(target=3), ValueError, "target must be a cell"),
        (lambda: dpo.ShortestPath(min_cost=-1), ValueError, "min_cost must be finite and not"),
        (
            lambda: dpo.perturbed_shortest_path(THETA, target=(0, 3), seed=0),
            ValueError,
            r"target must lie in the 2 x 3 grid, got \(0, 3\)",
        ),
        (
            lambda: dpo.perturbed_shortest_path(THETA, source=[(0, 0), (0, 1)], seed=0),
            ValueError,
            r"source must be one cell or broadcast to the batch \(\), got shape \(2,\)",
        ),
        (
            lambda: dpo.perturbed_shortest_path(np.zeros(3), seed=0),
            ValueError,
            r"at least one coordinate on its last 2 axes, got shape \(3,\)",
        ),
        (
            lambda: dpo.perturbed_shortest_path([[1.0, np.inf, 1.0]], seed=0),
            ValueError,
            "without a path of finite cost from source to target",
        ),
        (
            lambda: dpo.perturbed_shortest_path([[[1, 1.0]], [[np.inf, 1.0]]], seed=0),
            ValueError,
            "the dtype can hold; first in row 1",
        ),
        (
            lambda: dpo.perturbed_argmax(np.ma.masked_array(THETA, THETA > 0), seed=0),
            TypeError,
            "theta has a mask, which would be lost",
        ),
        (
            lambda: dpo.Perturbed()(THETA, seed=0, row_offset=2**32 - 1),
            ValueError,
            r"row_offset \+ the number of rows must be at most 2\*\*32",
        ),
        (
            lambda: dpo.Perturbed(dpo.Ranks()).loss([0.5, -np.inf], [2.0, 1.0], seed=0),
            ValueError,
            "theta has infinite scores, to which ranks give weight",
        ),
        (lambda: dpo.Perturbed().vjp(THETA, None, seed=0), TypeError, "v must be an array .* None"),
        (
            lambda: dpo.Perturbed().loss(THETA, np.eye(3)[:2], seed=0, normalize="yes"),
            TypeError,
            "normalize must be True or False, got 'yes'",
        ),
        (
            lambda: dpo.Perturbed(lambda scores: scores),
            TypeError,
            "a function is a layer by dpo.perturbed",
        ),
        (lambda: dpo.Perturbed(noise=dpo.Gumbel), ValueError, "forget the parentheses"),
        (lambda: dpo.ShortestPath(min_cost=None), ValueError, "min_cost must be finite"),
        (
            lambda: dpo.perturbed_shortest_path(np.full((4, 4), 1e38, np.float32), seed=0),
            ValueError,
            "add up to more than the dtype can hold",
        ),
        (
            lambda: dpo.perturbed_argmax(THETA, epsilon=np.ones(3), seed=0),
            ValueError,
            r"broadcast to the batch \(2,\), or have as many axes .* got shape \(3,\)",
        ),
        (
            lambda: dpo.perturbed_argmax(THETA, epsilon=np.zeros((2, 1)), seed=0),
            ValueError,
            r"epsilon must be positive and finite, got 0\.0",
        ),
        (lambda: dpo.Adaptive(0), ValueError, "tolerance must be a positive number, got 0"),
        (lambda: dpo.Adaptive(0.1, 0), ValueError, "max_samples must be between 1"),
        (
            lambda: dpo.Perturbed(num_samples=dpo.Adaptive(0.1)).samples(THETA, seed=0),
            ValueError,
            "samples needs a fixed num_samples",
        ),
        (
            lambda: dpo.Perturbed(variance_reduction="qmc").samples(np.zeros(30000), seed=0),
            ValueError,
            "21201 coordinates, got 1000 and 30000; use 'loo'",
        ),
    ],
)
def test_oracles_and_samples(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "oracle, y_true, message",
    [
        (dpo.TopK(2), [[1, 0, 0], [1, 1, 0]], "0/1 with 2 ones, .* row 0 has .* sum 1"),
        (dpo.Ranks(), [[3, 1, 2], [2, 2, 3]], r"a permutation of 1\.\.3, .* row 1 .* sum 7"),
        (dpo.Ranks(), [[3, 1, 2], [1, 1, 4]], "row 1 has .* maximum 4"),
        (dpo.Ranks(), [[3, 1, 2], [1, 1.5, 3.5]], "row 1 has .* maximum 3.5"),
        (dpo.Ranks(), [[3, 1.5, 1.5], [1, 2, 3]], None),
        (dpo.ShortestPath(), [[1, 1, 0], [0, 0, 0]], "at the ends 1 and 0"),
    ],
)
def test_targets_of_other_oracles(oracle, y_true, message):
    if message is None:
        assert np.isfinite(dpo.fenchel_young_loss(THETA, y_true, oracle=oracle, seed=0)).all()
        return
    with pytest.raises(ValueError, match=message):
        dpo.fenchel_young_loss(THETA, y_true, oracle=oracle, seed=0)


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
