"""What may be a seed, and where a fresh one comes from."""

from __future__ import annotations

import numpy as np
import pytest

import dpo

LAYER = dpo.Perturbed(num_samples=50)
THETA = np.zeros((2, 30), np.float32)


def test_the_same_seed_is_the_same_noise_in_every_method():
    np.testing.assert_array_equal(LAYER(THETA, seed=5), LAYER(THETA, seed=5))
    assert (LAYER(THETA, seed=5) != LAYER(THETA, seed=6)).any()


def test_ints_and_words():
    seed = (3 << 32) | 9
    words = np.array([9, 3], np.uint32)
    np.testing.assert_array_equal(LAYER(THETA, seed=seed), LAYER(THETA, seed=words))
    np.testing.assert_array_equal(LAYER(THETA, seed=np.int64(7)), LAYER(THETA, seed=7))


def test_none_draws_from_numpys_global_generator():
    np.random.seed(0)  # noqa: NPY002
    first, second = LAYER(THETA), LAYER(THETA)
    np.random.seed(0)  # noqa: NPY002
    np.testing.assert_array_equal(LAYER(THETA), first)
    assert (first != second).any()


def test_two_default_layers_do_not_share_noise():
    assert (dpo.Perturbed(num_samples=50)(THETA) != dpo.Perturbed(num_samples=50)(THETA)).any()


def test_torch_seeds():
    torch = pytest.importorskip("torch")
    theta = torch.zeros(2, 30)
    torch.manual_seed(0)
    first, second = LAYER(theta), LAYER(theta)
    torch.manual_seed(0)
    assert torch.equal(LAYER(theta), first) and not torch.equal(first, second)
    generator = torch.Generator().manual_seed(1)
    a, b = LAYER(theta, seed=generator), LAYER(theta, seed=generator)
    assert not torch.equal(a, b)
    assert torch.equal(LAYER(theta, seed=torch.Generator().manual_seed(1)), a)


def test_jax_keys():
    jax = pytest.importorskip("jax")
    x = jax.numpy.zeros((2, 30))
    new, old = LAYER(x, seed=jax.random.key(3)), LAYER(x, seed=jax.random.PRNGKey(3))
    np.testing.assert_array_equal(np.asarray(new), np.asarray(old))
    with pytest.raises(TypeError, match=r"seed=jax.random.key\(0\)"):
        LAYER(x)


@pytest.mark.parametrize(
    "seed, error",
    [
        (-1, ValueError),
        (2**64, ValueError),
        (True, TypeError),
        (1.5, TypeError),
        ("zero", TypeError),
        ([1, 2, 3], TypeError),
        (np.array([1, 2**32]), ValueError),
    ],
)
def test_bad_seeds(seed, error):
    with pytest.raises(error, match="seed"):
        LAYER(THETA, seed=seed)
