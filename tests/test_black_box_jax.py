"""Any function in JAX: traced or called back, under every transformation, solved once."""

from __future__ import annotations

import numpy as np
import pytest

import dpo

jax = pytest.importorskip("jax")
jnp = jax.numpy

THETA = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
V = np.random.default_rng(1).standard_normal((3, 5)).astype(np.float32)
REDUCTIONS = ("loo", "none", "antithetic", "qmc")


def argmax(scores):
    assert isinstance(scores, jax.Array)
    return jax.nn.one_hot(scores.argmax(-1), scores.shape[-1])


def numpy_argmax(scores):
    assert isinstance(scores, np.ndarray)
    return (np.arange(scores.shape[-1]) == scores.argmax(-1)[..., None]).astype(int)


def pair(callback=False, memory=2**26, **settings):
    settings = {"num_samples": 320, **settings}
    fun = numpy_argmax if callback else argmax
    return (
        dpo.perturbed(fun, maximizer=True, callback=callback, memory=memory, **settings),
        dpo.Perturbed(dpo.Argmax(), **settings),
    )


def close(actual, expected):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=3e-6 * scale)


@pytest.fixture(params=[False, True], ids=["traced", "callback"])
def callback(request):
    return request.param


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_everything_is_that_of_the_fused_solver(reduction, callback):
    f, fused = pair(callback, variance_reduction=reduction)
    close(jax.jit(lambda x: f(x, seed=3))(THETA), fused(THETA, seed=3))  # XLA multiplies by 1 / M
    np.testing.assert_array_equal(f(jnp.asarray(THETA), seed=3), fused(THETA, seed=3))
    gradient = jax.jit(jax.grad(lambda x: (f(x, seed=3) * V).sum()))(THETA)
    close(gradient, fused.vjp(THETA, V, seed=3))
    tangent = jax.jvp(lambda x: f(x, seed=3), (jnp.asarray(THETA),), (jnp.asarray(V),))[1]
    close(tangent, fused.jvp(THETA, V, seed=3))
    close(jax.jit(lambda x: f.jacobian(x, seed=3))(THETA), fused.jacobian(THETA, seed=3))
    if reduction == "loo":
        close(jax.jit(lambda x: f.vjp(x, V, seed=3))(THETA), fused.vjp(THETA, V, seed=3))
        close(jax.jit(lambda x: f.jvp(x, V, seed=3))(THETA), fused.jvp(THETA, V, seed=3))


@pytest.mark.parametrize("reduction", ["loo", "antithetic", "qmc"])
def test_windows_change_nothing(reduction):
    """A scan over windows and one that is left; solutions kept, or found again."""
    whole, _ = pair(variance_reduction=reduction)
    gradient = jax.grad(lambda x, f: (f(x, seed=3) * V).sum())
    expected = gradient(THETA, whole)
    kept = 320 * 3 * 5 * 4  # bytes of all solutions
    for memory in (kept, kept - 1):
        f, _ = pair(variance_reduction=reduction, memory=memory)
        close(gradient(THETA, f), expected)


def test_max_and_loss_and_their_second_derivatives(callback):
    targets = np.eye(5, dtype=np.float32)[[0, 3, 1]]
    f, fused = pair(callback, noise="gumbel")
    for name, args in {"max": (), "loss": (targets,)}.items():

        def total(x, layer, name=name, args=args):
            return getattr(layer, name)(x, *map(jnp.asarray, args), seed=3).sum()

        def product(x, layer, total=total):
            return (jax.grad(total)(x, layer) * V).sum()

        theta = jnp.asarray(THETA)
        for derivative in (total, jax.grad(total), jax.grad(product)):
            close(jax.jit(derivative, static_argnums=1)(theta, f), derivative(theta, fused))


def test_multiplicative_noise():
    f, fused = pair(perturbation="multiplicative")
    theta = jnp.asarray(np.where(np.arange(5) == 2, 0, THETA))
    totals = (lambda x, f: f.max(x, seed=3) @ V[:3, 0], lambda x, f: (f(x, seed=3) * V).sum())
    for total in totals:
        close(jax.grad(total)(theta, f), jax.grad(total)(theta, fused))


def test_vmap_gives_each_instance_what_it_gives_alone(callback):
    f, _ = pair(callback, num_samples=40)
    keys = jax.random.split(jax.random.key(0), 3)
    one = lambda x, key: f(x, seed=key)  # noqa: E731
    mapped = jax.jit(jax.vmap(one))(THETA, keys)
    gradients = jax.vmap(jax.grad(lambda x, key, v: one(x, key) @ v))(THETA, keys, V)
    for b in range(3):
        close(mapped[b], f(jnp.asarray(THETA[b]), seed=keys[b]))
        close(gradients[b], f.vjp(jnp.asarray(THETA[b]), jnp.asarray(V[b]), seed=keys[b]))


def test_one_instance_at_a_time_with_arguments_and_trees(callback):
    def fun(x, scale, mode, *, offset):
        assert x.ndim == 1 and mode == "sum"
        return {"best": scale * x.max() + offset, "two": (x[:2],)}

    shapes = {"best": jax.ShapeDtypeStruct((), "f4"), "two": (jax.ShapeDtypeStruct((2,), "f4"),)}
    settings = {"num_samples": 40, "callback": callback, "result_shape": shapes, "noise": "gumbel"}
    f = dpo.perturbed(fun, batched=False, **settings)
    offset = np.array([1.0, 2.0, 3.0], np.float32)

    def call(x, scale):
        return f(x, scale, "sum", offset=dpo.PerInstance(offset), seed=3)

    y = jax.jit(call)(THETA, 2.0)
    p = f.perturbed_scores(THETA, seed=3)
    close(y["best"], (2 * p.max(-1)).mean(0) + offset)
    close(y["two"][0], p[..., :2].mean(0))
    gradient = jax.grad(lambda x: call(x, 2.0)["best"].sum() + call(x, 2.0)["two"][0].sum())
    v = {"best": np.ones(3), "two": (np.ones((3, 2)),)}
    options = {"offset": dpo.PerInstance(offset), "seed": 3}
    numpy = dpo.perturbed(fun, batched=False, num_samples=40, noise="gumbel")
    close(gradient(jnp.asarray(THETA)), numpy.vjp(THETA, v, 2.0, "sum", **options))
    with pytest.raises(TypeError, match="an argument beside theta requires a gradient"):
        jax.grad(lambda scale: call(jnp.asarray(THETA), scale)["best"].sum())(jnp.float32(2.0))


def test_solutions_are_found_once_under_grad():
    solved = []

    def fun(x):
        solved.append(x[..., 0].size)
        return numpy_argmax(x)

    f = dpo.perturbed(fun, callback=True, maximizer=True, num_samples=320)
    for method, expected in {"__call__": 1, "max": 1}.items():
        gradient = jax.jit(jax.grad(lambda x, m=method: getattr(f, m)(x, seed=3).sum()))
        gradient(THETA).block_until_ready()
        assert sum(solved) == expected * 320 * 3
        solved.clear()


def test_traced_functions_are_traced_once_under_grad():
    traced = []

    def fun(x):
        traced.append(x.shape)
        return argmax(x)

    f = dpo.perturbed(fun, maximizer=True, num_samples=320)
    jax.jit(jax.grad(lambda x: (f(x, seed=3) * V).sum()))(THETA)
    assert traced == [(320, 3, 5)]


def test_memory_does_not_grow_with_the_samples():
    """Neither noise nor solutions of all samples are ever held: those would take 48 MB each."""
    theta = np.zeros((1, 100), np.float32)
    f = dpo.perturbed(argmax, num_samples=120_000, memory=2**20)
    gradient = jax.jit(jax.grad(lambda x: (f(x, seed=3) ** 2).sum()))
    analysis = gradient.lower(theta).compile().memory_analysis()
    assert analysis.temp_size_in_bytes < 2**21


def test_half_precision():
    f, fused = pair()
    theta = jnp.asarray(THETA, jnp.bfloat16)
    value, gradient = jax.value_and_grad(lambda x: (f(x, seed=3)[:, 0]).sum())(theta)
    assert value.dtype == gradient.dtype == jnp.bfloat16
    assert (jax.jit(lambda x: f(x, seed=3))(theta) == fused(theta, seed=3)).all()


def test_empty_batches(callback):
    f, _ = pair(callback)
    none = jnp.zeros((0, 5))
    assert jax.jit(lambda x: f(x, seed=3))(none).shape == (0, 5)
    assert jax.grad(lambda x: f(x, seed=3).sum())(none).shape == (0, 5)


def test_what_cannot_be_done_is_refused():
    f, _ = pair()
    theta = jnp.asarray(THETA)
    with pytest.raises(NotImplementedError, match="cannot be differentiated twice"):
        jax.hessian(lambda x: (f(x, seed=3) * V).sum())(theta)
    with pytest.raises(TypeError, match="pass a key"):
        jax.jit(f)(theta)
    with pytest.raises(NotImplementedError, match="estimate is not available inside"):
        jax.jit(lambda x: f.estimate(x, seed=3).mean)(theta)
    with pytest.raises(NotImplementedError, match="num_samples must be a number"):
        adaptive = dpo.perturbed(argmax, num_samples=dpo.Adaptive(0.1))
        jax.jit(lambda x: adaptive(x, seed=3))(theta)
    with pytest.raises(TypeError, match="pass callback=True"):
        host = dpo.perturbed(lambda x: np.asarray(x).max(-1), num_samples=20)
        jax.jit(lambda x: host(x, seed=3))(theta)
    with pytest.raises(TypeError, match="result_shape must say"):
        called = dpo.perturbed(lambda x: x.max(-1), num_samples=20, callback=True)
        jax.jit(lambda x: called(x, seed=3))(theta)
    with pytest.raises(ValueError, match="batched=False"):
        wrong = dpo.perturbed(lambda x: x.max(), num_samples=20)
        jax.jit(lambda x: wrong(x, seed=3))(theta)
    with pytest.raises(ValueError, match=r"must return arrays of shapes \(\(20, 3, 5\),\)"):
        wrong = dpo.perturbed(lambda x: x.swapaxes(0, 2), num_samples=20, maximizer=True)
        jax.jit(lambda x: wrong(x, seed=3))(theta)
    with pytest.raises(TypeError, match="an argument beside theta requires a gradient"):
        jax.grad(lambda y: f.loss(theta, y, seed=3).sum())(theta)


def test_a_failure_in_a_callback_says_where():
    def fun(x):
        raise ArithmeticError("too large")

    f = dpo.perturbed(fun, batched=False, maximizer=True, callback=True, num_samples=20)
    with pytest.raises(Exception, match="too large on row 0, sample 0 of 20"):
        jax.jit(lambda x: f(x, seed=3))(THETA).block_until_ready()
