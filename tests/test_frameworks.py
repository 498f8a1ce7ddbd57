"""One suite for every framework, eager and compiled: the same numbers, the same rules.

Each property is one that other libraries were seen to break.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import dpo

SEED = 7
ORACLES = {
    "argmax": dpo.Argmax(),
    "topk": dpo.TopK(2),
    "ranks": dpo.Ranks(),
    "path": dpo.ShortestPath(neighbors=4),
}


class Framework(NamedTuple):
    """How a framework makes arrays, differentiates, maps and compiles."""

    array: Callable
    """From NumPy."""
    seed: Callable
    """From a number, what may be traced."""
    gradient: Callable
    """Of the sum of ``f``."""
    vmap: Callable
    compiled: Callable

    def numpy(self, x: Any) -> np.ndarray:
        return np.asarray(x.detach() if hasattr(x, "detach") else x)


def torch_framework():
    torch = pytest.importorskip("torch")

    def gradient(f, *arrays):
        leaves = [x.detach().clone().requires_grad_() for x in arrays]
        return torch.autograd.grad(f(*leaves).sum(), leaves)

    def compiled(f):
        torch._dynamo.reset()  # what other tests compiled of the same lines counts as recompiling
        return torch.compile(f, fullgraph=True, backend="aot_eager")

    array = lambda x: torch.from_numpy(np.array(x))  # noqa: E731
    return Framework(array, torch.tensor, gradient, torch.func.vmap, compiled)


def jax_framework():
    jax = pytest.importorskip("jax")

    def gradient(f, *arrays):
        return jax.grad(lambda *xs: f(*xs).sum(), argnums=tuple(range(len(arrays))))(*arrays)

    return Framework(jax.numpy.asarray, jax.numpy.asarray, gradient, jax.vmap, jax.jit)


@pytest.fixture(params=["torch", "jax"])
def framework(request):
    return torch_framework() if request.param == "torch" else jax_framework()


@pytest.fixture(params=ORACLES)
def oracle(request):
    return ORACLES[request.param]


def scores(oracle, rows=4, seed=0):
    shape = (rows, 3, 4) if oracle.event_ndim == 2 else (rows, 6)
    return np.random.default_rng(seed).uniform(0.5, 2, shape).astype(np.float32)


def targets(oracle, theta):
    return dpo.Perturbed(oracle, epsilon=1e-3, num_samples=1)(theta, seed=1)


@pytest.mark.parametrize("method", ["mc", "exact"])
def test_the_same_numbers_as_in_numpy(framework, oracle, method):
    if method == "exact" and not oracle.has_exact_form:
        pytest.skip("no exact form")
    theta, v = scores(oracle), scores(oracle, seed=1)
    y = targets(oracle, theta)
    layer = dpo.Perturbed(oracle, num_samples=64, method=method)
    x, w, z = (framework.array(a) for a in (theta, v, y))
    for name, arrays, given in (
        ("__call__", (), ()),
        ("max", (), ()),
        ("loss", (y,), (z,)),
        ("vjp", (v,), (w,)),
        ("jvp", (v,), (w,)),
        ("jacobian", (), ()),
        ("vjp_epsilon", (v,), (w,)),
    ):
        expected = getattr(layer, name)(theta, *arrays, seed=SEED)
        ours = getattr(layer, name)(x, *given, seed=SEED)
        np.testing.assert_array_equal(framework.numpy(ours), expected)
    expected = layer.estimate(theta, seed=SEED)
    ours = layer.estimate(x, seed=SEED)
    np.testing.assert_array_equal(framework.numpy(ours.standard_error), expected.standard_error)
    assert ours.num_samples == expected.num_samples


@pytest.mark.parametrize("variance_reduction", ["loo", "none", "antithetic", "qmc"])
@pytest.mark.parametrize("num_samples", [2, 64])
def test_a_pullback_is_the_value_and_its_vjp(oracle, variance_reduction, num_samples):
    theta, v = scores(oracle), scores(oracle, seed=1)
    epsilon = np.full(4, 0.5)
    layer = dpo.Perturbed(
        oracle, epsilon=epsilon, num_samples=num_samples, variance_reduction=variance_reduction
    )
    expected = layer(theta, seed=SEED), layer.vjp(theta, v, seed=SEED)
    y, pull = layer.pullback(theta, seed=SEED)
    np.testing.assert_array_equal(y, expected[0])
    theta[:], epsilon[:], y[:] = 1.0, 1.0, 1.0  # what was given and got may change afterwards
    for _ in range(2):
        product = pull(v)
        np.testing.assert_array_equal(product, expected[1])
        product[:] = 1.0


@pytest.mark.parametrize("method", ["mc", "exact"])
def test_a_pullback_in_any_framework(framework, oracle, method):
    if method == "exact" and not oracle.has_exact_form:
        pytest.skip("no exact form")
    theta, v = scores(oracle), scores(oracle, seed=1)
    layer = dpo.Perturbed(oracle, num_samples=64, method=method)
    y, pull = layer.pullback(framework.array(theta), seed=SEED)
    np.testing.assert_array_equal(framework.numpy(y), layer(theta, seed=SEED))
    product = framework.numpy(pull(framework.array(v)))
    np.testing.assert_array_equal(product, layer.vjp(theta, v, seed=SEED))
    with pytest.raises(NotImplementedError, match="vjp"):
        framework.vmap(lambda row: layer.pullback(row, seed=SEED)[0])(framework.array(theta))
    with pytest.raises(NotImplementedError, match=r"layer\.vjp"):
        framework.vmap(pull)(framework.array(np.stack([v, v])))


def test_a_pullback_sees_the_samples_that_an_adaptive_value_needs():
    theta = np.random.default_rng(0).normal(size=(4, 6))
    layer = dpo.Perturbed(num_samples=dpo.Adaptive(tolerance=0.05, max_samples=4096))
    y, pull = layer.pullback(theta, seed=SEED)
    used = layer.estimate(theta, seed=SEED).num_samples
    np.testing.assert_array_equal(y, layer(theta, seed=SEED))
    v = np.ones((1, 6)) * np.arange(6)
    for b, number in enumerate(used):
        row = slice(b, b + 1)
        fixed = dpo.Perturbed(num_samples=int(number))
        expected = fixed.vjp(theta[row], v, seed=SEED, row_offset=b)
        np.testing.assert_array_equal(pull(np.repeat(v, 4, axis=0))[row], expected)


def test_gradients_are_the_explicit_derivatives(framework, oracle):
    theta, v = scores(oracle), scores(oracle, seed=1)
    y = targets(oracle, theta)
    layer = dpo.Perturbed(oracle, num_samples=64)
    sign = -1 if oracle.event_ndim == 2 else 1
    x, w, z = (framework.array(a) for a in (theta, v, y))
    value = layer(theta, seed=SEED)
    for f, expected in (
        (lambda x: layer(x, seed=SEED) * w, layer.vjp(theta, v, seed=SEED)),
        (lambda x: layer.max(x, seed=SEED), sign * value),
        (lambda x: layer.loss(x, z, seed=SEED), sign * (value - y)),
    ):
        for program in (f, framework.compiled(f)):
            (slope,) = framework.gradient(program, x)
            np.testing.assert_allclose(framework.numpy(slope), expected, rtol=1e-6, atol=1e-6)


def test_a_program_takes_seeds_and_is_the_eager_call(framework, oracle):
    x = framework.array(scores(oracle))
    layer = dpo.Perturbed(oracle, num_samples=64)
    program = framework.compiled(lambda x, seed: layer(x, seed=seed))
    for number in range(4):
        ours = framework.numpy(program(x, framework.seed(number)))
        np.testing.assert_array_equal(ours, framework.numpy(layer(x, seed=number)))


def test_temperatures_have_gradients(framework, oracle):
    theta, v = scores(oracle), scores(oracle, seed=1)
    epsilon = np.linspace(0.3, 0.6, len(theta), dtype=np.float32)
    expected = dpo.Perturbed(oracle, epsilon=epsilon, num_samples=64).vjp_epsilon(
        theta, v, seed=SEED
    )
    x, w = framework.array(theta), framework.array(v)

    def f(epsilon):
        return dpo.Perturbed(oracle, epsilon=epsilon, num_samples=64)(x, seed=SEED) * w

    (slope,) = framework.gradient(f, framework.array(epsilon))
    np.testing.assert_allclose(framework.numpy(slope), expected, rtol=1e-5, atol=1e-5)
    (same,) = framework.gradient(framework.compiled(f), framework.array(epsilon))
    np.testing.assert_allclose(framework.numpy(same), expected, rtol=1e-5, atol=1e-5)


def test_rows_are_independent(framework, oracle):
    """Value, gradient and so its variance are the same in a batch of 1 and of 4."""
    theta, v = scores(oracle), scores(oracle, seed=1)
    layer = dpo.Perturbed(oracle, num_samples=64)
    x, w = framework.array(theta), framework.array(v)
    (whole,) = framework.gradient(lambda x: layer(x, seed=SEED) * w, x)
    for k in range(4):
        row = slice(k, k + 1)

        def one(x, row=row, k=k):
            return layer(x, seed=SEED, row_offset=k) * w[row]

        (alone,) = framework.gradient(one, x[row])
        np.testing.assert_array_equal(framework.numpy(alone), framework.numpy(whole[row]))


def test_vmap_maps(framework, oracle):
    x = framework.array(scores(oracle))
    layer = dpo.Perturbed(oracle, num_samples=64)
    mapped = framework.numpy(framework.vmap(lambda row: layer(row, seed=SEED))(x))
    for k in range(4):
        np.testing.assert_array_equal(mapped[k], framework.numpy(layer(x[k], seed=SEED)))


def test_second_derivatives_are_right_or_refused(framework):
    layer, exact = dpo.Perturbed(num_samples=64), dpo.Perturbed(method="exact")
    x = framework.array(scores(dpo.Argmax())[0].astype(np.float64))
    module = __import__("torch.func" if hasattr(x, "detach") else "jax", fromlist=["hessian"])
    x = framework.array(scores(dpo.Argmax())[0])
    curvature = module.hessian(lambda x: layer.max(x, seed=SEED))(x)
    ours, jacobian = framework.numpy(curvature), framework.numpy(layer.jacobian(x, seed=SEED))
    np.testing.assert_allclose(ours, jacobian, rtol=1e-4, atol=1e-5)
    with pytest.raises(NotImplementedError, match="twice"):
        module.hessian(lambda x: layer(x, seed=SEED)[0])(x)
    third = framework.numpy(module.hessian(lambda x: exact(x)[0])(x))
    np.testing.assert_allclose(third, third.T, rtol=1e-3, atol=1e-5)
    assert np.abs(third).max() > 1e-3


def test_the_loss_is_the_loss(framework):
    """Non-negative, zero at a match, and not half a squared residual."""
    theta = scores(dpo.TopK(2))
    layer = dpo.Perturbed(dpo.TopK(2), method="exact")
    x = framework.array(theta)
    far = framework.array(targets(dpo.TopK(2), -theta))
    assert (framework.numpy(layer.loss(x, far)) > 0.1).all()
    np.testing.assert_allclose(framework.numpy(layer.loss(x, layer(x))), 0, atol=1e-5)
    residual = framework.numpy(layer(x)) - framework.numpy(far)
    assert (framework.numpy(layer.loss(x, far)) > 0.6 * (residual**2).sum(1)).any()


def test_half_precision_comes_back_as_it_came(framework):
    x = framework.array(scores(dpo.TopK(2)))
    layer = dpo.Perturbed(dpo.TopK(2), num_samples=64)
    kind = "bfloat16"
    half = x.bfloat16() if hasattr(x, "detach") else x.astype(kind)
    y = layer(half, seed=SEED)
    assert str(y.dtype).endswith(kind)
    (slope,) = framework.gradient(lambda x: layer.max(x, seed=SEED), half)
    assert str(slope.dtype).endswith(kind)
    full = layer(half.float() if hasattr(x, "detach") else half.astype("float32"), seed=SEED)
    rounded = full.bfloat16() if hasattr(x, "detach") else full.astype(kind)
    assert bool((y == rounded).all())


def test_default_layers_do_not_share_noise(framework):
    x = framework.array(scores(dpo.TopK(2)))
    first, second = dpo.Perturbed(num_samples=64), dpo.Perturbed(num_samples=64)
    if not hasattr(x, "detach"):
        with pytest.raises(TypeError, match="pass a key"):
            first(x)
        return
    assert not (first(x) == second(x)).all()
