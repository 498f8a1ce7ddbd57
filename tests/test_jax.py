"""JAX: jit, grad, jvp and vmap are the explicit calls; what cannot be right raises."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dpo

jax = pytest.importorskip("jax")
jnp = jax.numpy

ROOT = Path(__file__).parent.parent
LAYER = dpo.Perturbed(num_samples=64)
LAYERS = {
    "normal": LAYER,
    "gumbel": dpo.Perturbed(noise="gumbel", num_samples=64),
    "topk": dpo.Perturbed(dpo.TopK(2), num_samples=64),
    "ranks": dpo.Perturbed(dpo.Ranks(), num_samples=64, variance_reduction="none"),
    "paths": dpo.Perturbed(dpo.ShortestPath(source=[(0, 0), (0, 1), (1, 0)]), num_samples=16),
    "antithetic": dpo.Perturbed(num_samples=64, variance_reduction="antithetic"),
    "qmc": dpo.Perturbed(num_samples=64, variance_reduction="qmc"),
    "multiplicative": dpo.Perturbed(num_samples=64, perturbation="multiplicative"),
    "rows": dpo.Perturbed(num_samples=64, epsilon=[0.2, 0.5, 1.0]),
    "coordinates": dpo.Perturbed(num_samples=64, epsilon=np.linspace(0.2, 1, 5)[None]),
    "wide": dpo.Perturbed(num_samples=20),
    "exact": dpo.Perturbed(method="exact"),
    "exact ranks": dpo.Perturbed(dpo.Ranks(), method="exact", epsilon=np.full((3, 1), 0.7)),
}
SEED = (3 << 32) | 9
WORDS = np.array([9, 3], np.uint32)
each = pytest.mark.parametrize("name", LAYERS)
compiled = pytest.mark.parametrize("compile", [lambda f: f, jax.jit], ids=["eager", "jit"])


def arrays(name, dtype=np.float32):
    """Scores, a direction, and targets."""
    shape = {"paths": (3, 4, 4), "wide": (3, 40)}.get(name, (3, 5))
    rng = np.random.default_rng(0)
    theta, v = rng.standard_normal((2, *shape)).astype(dtype)
    theta = theta + 3 if name == "paths" else theta
    layer = LAYERS[name]
    solutions = dpo.Perturbed(layer.oracle, epsilon=1e-6, num_samples=1)
    return theta, v, solutions(theta + v, seed=0)


def equal(actual, expected):
    assert isinstance(actual, jax.Array)
    np.testing.assert_array_equal(np.asarray(actual), expected)


@each
@compiled
def test_values_and_derivatives_are_the_explicit_ones(name, compile):
    layer, (theta, v, target) = LAYERS[name], arrays(name)
    x, u, y = map(jnp.asarray, (theta, v, target))
    equal(compile(lambda x, s: layer(x, seed=s))(x, WORDS), layer(theta, seed=SEED))
    equal(compile(lambda x, s: layer.max(x, seed=s))(x, WORDS), layer.max(theta, seed=SEED))
    equal(
        compile(lambda x, s: layer.loss(x, y, seed=s))(x, WORDS),
        layer.loss(theta, target, seed=SEED),
    )
    pullback = compile(lambda x, s, v: jax.vjp(lambda x: layer(x, seed=s), x)[1](v)[0])
    equal(pullback(x, WORDS, u), layer.vjp(theta, v, seed=SEED))
    pushed = compile(lambda x, s, t: jax.jvp(lambda x: layer(x, seed=s), (x,), (t,))[1])
    equal(pushed(x, WORDS, u), layer.jvp(theta, v, seed=SEED))


@each
@compiled
def test_gradient_of_max_and_loss(name, compile):
    layer, (theta, _, target) = LAYERS[name], arrays(name)
    x, y = jnp.asarray(theta), jnp.asarray(target)
    value, slope = compile(
        jax.value_and_grad(lambda x: layer.loss(x, y, seed=SEED, normalize=False).sum())
    )(x)
    expected = layer.loss(theta, target, seed=SEED, normalize=False).sum()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    by_max = compile(jax.grad(lambda x: layer.max(x, seed=SEED).sum()))(x)
    sign = -1 if name == "paths" else 1
    equal(slope, np.asarray(by_max) - sign * target)
    if name != "multiplicative":
        equal(by_max, sign * layer(theta, seed=SEED))
    else:  # the slope of the same samples, by finite differences
        with jax.enable_x64(True):
            wide, e = jnp.asarray(theta, float), 1e-6 * jnp.eye(5)[2]
            up, down = (layer.max(wide + s * e, seed=SEED) for s in (1, -1))
            np.testing.assert_allclose(by_max[:, 2], (up - down) / 2e-6, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["normal", "topk", "paths", "qmc", "exact"])
@compiled
def test_second_derivatives_of_max_and_loss(name, compile):
    """The gradient of F_eps is the perturbed optimum, itself differentiable: a Hessian product."""
    layer, (theta, v, target) = LAYERS[name], arrays(name)
    x, u, y = map(jnp.asarray, (theta, v, target))
    sign = -1 if name == "paths" else 1
    for f in (
        lambda x: layer.max(x, seed=SEED).sum(),
        lambda x: layer.loss(x, y, seed=SEED).sum(),
    ):
        reverse = compile(jax.grad(lambda x, f=f: (jax.grad(f)(x) * u).sum()))(x)
        equal(reverse, sign * layer.vjp(theta, v, seed=SEED))
        forward = compile(lambda x, f=f: jax.jvp(jax.grad(f), (x,), (u,))[1])(x)
        equal(forward, sign * layer.jvp(theta, v, seed=SEED))


@compiled
def test_second_derivatives_of_exact_values(compile):
    layer, (theta, v, _) = LAYERS["exact"], arrays("exact", np.float64)
    w = v[::-1].copy()
    expected = layer.second_order_product(theta, v, w)
    with jax.enable_x64(True):
        x, u, t = map(jnp.asarray, (theta, v, w))
        product = jax.grad(lambda x: (layer(x) * u).sum())
        equal(compile(lambda x: jax.jvp(product, (x,), (t,))[1])(x), expected)
        twice = compile(jax.grad(lambda x: (product(x) * t).sum()))(x)
        np.testing.assert_allclose(twice, expected, atol=1e-12)
        with pytest.raises(NotImplementedError, match="three times"):
            jax.grad(lambda x: jax.jvp(product, (x,), (t,))[1].sum())(x)


def test_second_derivatives_of_sampled_values_raise():
    theta = jnp.zeros((2, 5))
    for transform in (jax.hessian, lambda f: jax.grad(lambda x: jax.grad(f)(x).sum())):
        with pytest.raises(NotImplementedError, match="twice by sampling"):
            transform(lambda x: (LAYER(x, seed=0) ** 2).sum())(theta)
    layer = LAYERS["multiplicative"]
    with pytest.raises(NotImplementedError, match="additive"):
        jax.hessian(lambda x: layer.max(x, seed=0).sum())(theta + 1)


@compiled
def test_a_function_of_jacobians(compile):
    theta, *_ = arrays("normal")
    expected = LAYER.jacobian(theta, seed=SEED)
    x = jnp.asarray(theta)
    for jacobian in (jax.jacrev, jax.jacfwd):
        blocks = np.asarray(compile(jacobian(lambda x: LAYER(x, seed=SEED)))(x))
        for b in range(3):
            np.testing.assert_allclose(blocks[b, :, b], expected[b], rtol=1e-5, atol=1e-6)
            assert not blocks[b, :, (b + 1) % 3].any()
    hessian = np.asarray(compile(jax.hessian(lambda x: LAYER.max(x, seed=SEED).sum()))(x))
    np.testing.assert_allclose(hessian[1, :, 1], expected[1], rtol=1e-5, atol=1e-6)


TEMPERATURES = {
    "scalar": lambda shape: np.float32(0.4),
    "rows": lambda shape: np.linspace(0.2, 0.5, shape[0], dtype=np.float32),
    "coordinates": lambda shape: np.linspace(
        0.2, 0.5, np.prod(shape[1:]), dtype=np.float32
    ).reshape(1, *shape[1:]),
}
LEARNED = {
    "normal": LAYER,
    "gumbel": dpo.Perturbed(noise="gumbel", num_samples=64),
    "topk": dpo.Perturbed(dpo.TopK(2), num_samples=64, variance_reduction="antithetic"),
    "ranks": dpo.Perturbed(dpo.Ranks(), num_samples=64, variance_reduction="none"),
    "paths": dpo.Perturbed(dpo.ShortestPath(min_cost=2.5), num_samples=64),
    "qmc": dpo.Perturbed(num_samples=64, variance_reduction="qmc"),
    "multiplicative": dpo.Perturbed(num_samples=64, perturbation="multiplicative"),
    "exact": dpo.Perturbed(method="exact"),
}
learned = pytest.mark.parametrize("name", LEARNED)


def scores(name, dtype=np.float32):
    """Scores, a cotangent, and targets, for a layer whose temperature is learned."""
    rng = np.random.default_rng(1)
    theta, v = rng.standard_normal((2, *((3, 4, 4) if name == "paths" else (3, 5)))).astype(dtype)
    theta = theta + 3 if name == "paths" else theta
    oracle = LEARNED[name].oracle
    return theta, v, dpo.Perturbed(oracle, epsilon=1e-6, num_samples=1)(theta + v, seed=0)


def at(name, epsilon):
    return dataclasses.replace(LEARNED[name], epsilon=epsilon)


@learned
@pytest.mark.parametrize("shape", TEMPERATURES)
@compiled
def test_gradients_in_epsilon_are_those_of_torch(name, shape, compile):
    torch = pytest.importorskip("torch")
    theta, v, target = scores(name)
    epsilon = TEMPERATURES[shape](theta.shape)

    def losses(epsilon, theta, v, target):
        layer = at(name, epsilon)
        return (
            (layer(theta, seed=SEED) * v).sum(),
            layer.max(theta, seed=SEED).sum(),
            layer.loss(theta, target, seed=SEED).sum(),
        )

    arrays = tuple(map(jnp.asarray, (theta, v, target)))
    slopes = compile(jax.jacrev(lambda e, x: losses(e, x, *arrays[1:]), argnums=(0, 1)))
    for k, slope in enumerate(slopes(jnp.asarray(epsilon), arrays[0])):
        e, x = (torch.tensor(a, requires_grad=True) for a in (epsilon, theta))
        losses(e, x, torch.tensor(v), torch.tensor(target))[k].backward()
        for ours, theirs in zip(slope, (e.grad, x.grad), strict=True):
            assert ours.shape == theirs.shape
            scale = float(abs(theirs).max())
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6 * scale)


@learned
@pytest.mark.parametrize("shape", TEMPERATURES)
@compiled
def test_forward_mode_in_epsilon_is_reverse_mode_transposed(name, shape, compile):
    theta, v, _ = scores(name, np.float64)
    with jax.enable_x64(True):
        x, u = jnp.asarray(theta), jnp.asarray(v)
        e = jnp.asarray(TEMPERATURES[shape](theta.shape), float)
        t = jnp.cos(jnp.arange(e.size, dtype=float)).reshape(e.shape)
        for f in (
            lambda e, x: at(name, e)(x, seed=SEED),
            lambda e, x: at(name, e).max(x, seed=SEED),
        ):
            y, pullback = jax.vjp(f, e, x)
            w = u.reshape(-1)[: y.size].reshape(y.shape)
            by_epsilon, by_theta = pullback(w)
            push = compile(lambda e, x, f=f: jax.jvp(f, (e, x), (t, u))[1])
            forward, reverse = (push(e, x) * w).sum(), (by_epsilon * t).sum() + (by_theta * u).sum()
            np.testing.assert_allclose(forward, reverse, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["normal", "paths", "multiplicative", "exact"])
@compiled
def test_epsilon_slope_of_max_and_loss_is_a_difference_quotient(name, compile):
    theta, _, target = scores(name, np.float64)
    with jax.enable_x64(True):
        x, y, h = jnp.asarray(theta), jnp.asarray(target), 1e-6
        for f in (
            lambda e: at(name, e).max(x, seed=SEED).sum(),
            lambda e: at(name, e).loss(x, y, seed=SEED).sum(),
        ):
            quotient = (f(0.4 + h) - f(0.4 - h)) / (2 * h)
            np.testing.assert_allclose(compile(jax.grad(f))(0.4), quotient, rtol=1e-6, atol=1e-7)


def test_epsilon_under_vmap_and_a_learned_epsilon():
    """Every instance gives what it gives alone; one compilation serves every temperature."""
    theta, v, target = scores("normal")
    x, u, y = map(jnp.asarray, (theta, v, target))
    many, traces = jnp.array([0.2, 0.5, 2.0]), []

    @jax.jit
    def slope(e):
        traces.append(e)
        return jax.grad(lambda e: (at("normal", e)(x, seed=SEED) * u).sum())(e)

    alone = jnp.stack([slope(e) for e in many])
    assert len(traces) == 1
    equal(jax.jit(jax.vmap(slope))(many), alone)
    rows = jax.vmap(lambda e, x: at("normal", e)(x, seed=SEED))(many, x)
    expected = [at("normal", float(e))(t, seed=SEED) for e, t in zip(many, theta, strict=True)]
    equal(rows, expected)
    loss = jax.jit(lambda e: at("normal", e).loss(x, y, seed=SEED).mean())
    e = jnp.array(2.0)
    for _ in range(20):
        e = e - 0.1 * jax.grad(loss)(e)
    assert 0 < e < 2 and loss(e) < loss(2.0)
    with pytest.raises(Exception, match="epsilon must be positive and finite"):
        slope(-1.0).block_until_ready()


def test_second_derivatives_in_epsilon():
    """Of the slope in theta right, as it is the perturbed optimum; of that in epsilon an error."""
    theta, v, _ = scores("normal")
    x, u = jnp.asarray(theta), jnp.asarray(v)

    def mixed(e):
        return (jax.grad(lambda x: at("normal", e).max(x, seed=SEED).sum())(x) * u).sum()

    expected = at("normal", 1.0).vjp_epsilon(theta, v, seed=SEED).sum()
    np.testing.assert_allclose(jax.grad(mixed)(1.0), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jvp(mixed, (1.0,), (1.0,))[1], expected, rtol=1e-5)
    for f in (
        lambda e: at("normal", e).max(x, seed=SEED).sum(),
        lambda e: (at("normal", e)(x, seed=SEED) * u).sum(),
    ):
        with pytest.raises(NotImplementedError, match="stop_gradient"):
            jax.grad(jax.grad(f))(1.0)


@pytest.mark.parametrize("name", ["normal", "paths", "qmc", "rows", "coordinates", "exact ranks"])
@compiled
def test_vmap_is_a_map(name, compile):
    """Every instance, whatever is mapped, gives what it gives alone."""
    layer, (theta, v, _) = LAYERS[name], arrays(name)
    many = np.stack([theta, v + 2, theta[::-1]])
    keys = jax.random.split(jax.random.key(1), 3)
    words = np.asarray(jax.random.key_data(keys))
    x = jnp.asarray(many)
    one = [layer(t, seed=SEED) for t in many]
    equal(compile(jax.vmap(lambda x: layer(x, seed=SEED)))(x), one)
    last = compile(jax.vmap(lambda x: layer(x, seed=SEED), in_axes=-1, out_axes=1))
    equal(last(jnp.moveaxis(x, 0, -1)), np.stack(one, 1))
    by_key = jax.vmap(lambda x, key: layer(x, seed=key))
    equal(compile(by_key)(x, keys), [layer(t, seed=w) for t, w in zip(many, words, strict=True)])
    table = jax.vmap(lambda x: jax.vmap(lambda key: layer(x, seed=key))(keys))
    equal(compile(table)(x), [[layer(t, seed=w) for w in words] for t in many])
    slopes = jax.vmap(jax.grad(lambda x: (layer(x, seed=SEED) * v).sum()))
    equal(compile(slopes)(x), [layer.vjp(t, v, seed=SEED) for t in many])
    of_sum = jax.grad(lambda x: (jax.vmap(lambda x: layer(x, seed=SEED))(x) * v).sum())
    equal(compile(of_sum)(x), [layer.vjp(t, v, seed=SEED) for t in many])


def test_vmap_of_targets_and_of_nothing():
    theta, _, target = arrays("normal")
    x, y = jnp.asarray(theta), jnp.asarray(np.stack([target, target[::-1]]))
    losses = jax.jit(jax.vmap(lambda y: LAYER.loss(x, y, seed=SEED)))(y)
    equal(losses, [LAYER.loss(theta, np.asarray(t), seed=SEED) for t in y])
    empty = jax.jit(jax.vmap(lambda x: LAYER(x, seed=SEED)))(jnp.zeros((0, 3, 5)))
    assert empty.shape == (0, 3, 5)
    assert jax.jit(lambda x: LAYER(x, seed=0))(jnp.zeros((0, 5))).shape == (0, 5)


def test_seeds_are_values_not_constants():
    """One compilation serves every seed; each kind of seed is what it is outside."""
    theta, *_ = arrays("normal")
    x, traces = jnp.asarray(theta), []

    @jax.jit
    def f(x, seed):
        traces.append(seed)
        return LAYER(x, seed=seed)

    for seed in (0, 7, 2**31 - 1):
        equal(f(x, seed), LAYER(theta, seed=seed))
    assert len(traces) == 1
    for seed in (1, 2):
        new, old = jax.random.key(seed), jax.random.PRNGKey(seed)
        equal(f(x, new), LAYER(x, seed=new))
        equal(f(x, old), LAYER(x, seed=new))
    assert len(traces) == 3
    equal(LAYER(x, seed=jnp.asarray(7)), LAYER(theta, seed=7))
    with pytest.raises(Exception, match=r"seed must be in 0 .. 2\*\*64 - 1, got -1"):
        f(x, -1).block_until_ready()


def test_scan_over_keys():
    theta, *_ = arrays("normal")
    keys, traces = jax.random.split(jax.random.key(0), 5), []

    def step(x, key):
        traces.append(key)
        loss, slope = jax.value_and_grad(lambda x: LAYER.max(x, seed=key).sum())(x)
        return x - 0.1 * slope, loss

    end, losses = jax.jit(lambda x: jax.lax.scan(step, x, keys))(jnp.asarray(theta))
    assert len(traces) == 1
    x = jnp.asarray(theta)
    for key, loss in zip(keys, losses, strict=True):
        np.testing.assert_allclose(loss, LAYER.max(x, seed=key).sum(), rtol=1e-5)
        x = x - 0.1 * LAYER(x, seed=key)
    np.testing.assert_allclose(end, x, rtol=1e-5, atol=1e-6)


def test_training_converges():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((200, 4)), jnp.float32)
    labels = (x @ jnp.asarray(rng.standard_normal((4, 3)), jnp.float32)).argmax(-1)
    target = jax.nn.one_hot(labels, 3, dtype=jnp.int32)

    @jax.jit
    def step(weights, key):
        loss, slope = jax.value_and_grad(lambda w: LAYER.loss(x @ w, target, seed=key).mean())(
            weights
        )
        return weights - 2 * slope, loss

    weights, losses = jnp.zeros((4, 3)), []
    for key in jax.random.split(jax.random.key(0), 60):
        weights, loss = step(weights, key)
        losses.append(float(loss))
    assert losses[-1] < 0.3 * losses[0]
    assert ((x @ weights).argmax(-1) == labels).mean() > 0.95


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_dtypes(dtype):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(arrays("normal")[0]).astype(dtype)
        y = jax.jit(lambda x: LAYER(x, seed=1))(x)
        assert y.dtype == x.dtype
        equal(y, np.asarray(LAYER(x, seed=1)))
        loss = lambda x: LAYER.loss(x, jnp.eye(5)[:3], seed=1).sum()  # noqa: E731
        value, slope = jax.jit(jax.value_and_grad(loss))(x)
        assert value.dtype == slope.dtype == x.dtype
        closed_over = jax.jit(lambda s: s + LAYER(x, seed=1).sum())(jnp.zeros((), dtype))
        assert closed_over.dtype == x.dtype


@pytest.mark.parametrize("name", ["normal", "exact", "coordinates"])
def test_explicit_methods_are_traced_and_not_differentiable(name):
    layer, (theta, v, _) = LAYERS[name], arrays(name)
    x, u = jnp.asarray(theta), jnp.asarray(v)
    calls = {
        "vjp": lambda f, x, u: f(x, u, seed=SEED),
        "jvp": lambda f, x, u: f(x, t=u, seed=SEED),
        "vjp_epsilon": lambda f, x, u: f(x, u, seed=SEED),
        "jacobian": lambda f, x, u: f(x, seed=SEED),
        "estimate": lambda f, x, u: f(x, of="vjp", direction=u, seed=SEED),
    }
    for method, call in calls.items():
        f = getattr(layer, method)
        results = jax.tree.leaves(jax.jit(lambda x, u, f=f, call=call: call(f, x, u))(x, u))
        for actual, expected in zip(results, jax.tree.leaves(call(f, theta, v)), strict=True):
            np.testing.assert_array_equal(actual, expected)
        with pytest.raises(NotImplementedError, match="is not differentiable"):
            jax.grad(lambda x, f=f, call=call: jax.tree.leaves(call(f, x, u))[0].sum())(x)
        mapped = jax.vmap(lambda x, f=f, call=call: jax.tree.leaves(call(f, x, u[:1]))[0])
        if name == "normal":
            alone = [jax.tree.leaves(call(f, t[None], v[:1]))[0] for t in theta]
            equal(jax.jit(mapped)(x[:, None]), alone)


def test_adaptive_derivatives_are_of_the_samples_that_the_value_saw():
    layer = dpo.Perturbed(num_samples=dpo.Adaptive(0.02, max_samples=2**12))
    theta, v, _ = arrays("normal")
    x, u = jnp.asarray(theta), jnp.asarray(v)
    equal(jax.jit(lambda x: layer(x, seed=1))(x), layer(theta, seed=1))
    f = jax.jit(lambda x: jax.vjp(lambda x: layer(x, seed=1), x)[1](u)[0])
    pushed = jax.jit(lambda x: jax.jvp(lambda x: layer(x, seed=1), (x,), (u,))[1])
    np.testing.assert_allclose((f(x) * u).sum(), (pushed(x) * u).sum(), rtol=1e-4)
    number = jax.jit(lambda x: layer.estimate(x, seed=1).num_samples)(x)
    equal(number, layer.estimate(theta, seed=1).num_samples)


ON_ONE_CORE = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import dpo, jax
layer = dpo.Perturbed(num_samples=1)
f = jax.jit(lambda x: layer(layer(x * 2, seed=0) + x, seed=1).sum())
x = jax.numpy.zeros((64, 40_000))
for _ in range(10):
    x = x + 1e-6 * f(x)
print(float(x.sum()))
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_large_arrays_do_not_wait_for_their_own_thread():
    run = [sys.executable, "-c", ON_ONE_CORE]
    done = subprocess.run(run, check=True, capture_output=True, timeout=120, cwd=ROOT)
    assert float(done.stdout) > 0


def test_errors_are_raised_while_tracing():
    x = jnp.zeros((3, 5))

    def trace(layer, x=x, **parameters):
        jax.eval_shape(lambda x: layer(x, **{"seed": 0, **parameters}), x)

    with pytest.raises(ValueError, match=r"k must be in 1..5 for 5 coordinates, got 6"):
        trace(dpo.Perturbed(dpo.TopK(6)))
    with pytest.raises(ValueError, match="epsilon must be one number, or broadcast"):
        trace(dpo.Perturbed(epsilon=[0.1, 0.2]))
    with pytest.raises(TypeError, match="theta must be float16"):
        trace(LAYER, jnp.zeros((3, 5), int))
    with pytest.raises(ValueError, match="at least one coordinate"):
        trace(LAYER, jnp.zeros((3, 0)))
    with pytest.raises(TypeError, match=r"seed=jax.random.key\(0\)"):
        trace(LAYER, seed=None)
    with pytest.raises(TypeError, match="two uint32 words"):
        trace(LAYER, seed=jnp.zeros(3, jnp.uint32))
    with pytest.raises(TypeError, match="unexpected keyword argument 'sead'"):
        trace(LAYER, sead=1)
    with pytest.raises(ValueError, match="precision='fast'"):
        trace(dpo.Perturbed(precision="fast"))
    with pytest.raises(ValueError, match=r"one-hot rows, jax.nn.one_hot\(y_true, 5\)"):
        jax.eval_shape(lambda x: LAYER.loss(x, jnp.zeros(3, int), seed=0), x)
    with pytest.raises(TypeError, match="y_true is a numpy array"):
        jax.eval_shape(lambda x: LAYER.loss(x, np.eye(5)[:3], seed=0), x)
    with pytest.raises(TypeError, match="theta is a numpy array inside a JAX transformation"):
        jax.eval_shape(lambda s: LAYER(np.zeros(3), seed=s), 0)
    with pytest.raises(NotImplementedError, match="samples"):
        jax.eval_shape(lambda x: LAYER.samples(x, seed=0), x)
    with pytest.raises(ValueError, match="epsilon must be one number, or broadcast"):
        jax.eval_shape(lambda e: dpo.Perturbed(epsilon=e)(x, seed=0), np.ones(2))
    with pytest.raises(ValueError, match="epsilon must be positive"):
        trace(dpo.Perturbed(epsilon=jnp.array([1.0, -1.0, 1.0])))
    with pytest.raises(TypeError, match=r"y_true requires a gradient"):
        jax.grad(lambda y: LAYER.loss(x, y, seed=0).sum())(jnp.eye(5)[:3])


def test_programs_of_symbolic_shapes_are_refused():
    from jax import export

    (rows,) = export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((rows, 5), jnp.float32)
    f = jax.jit(lambda x: LAYER(x, seed=0))
    with pytest.raises(NotImplementedError, match="a program for each shape, given in numbers"):
        export.export(f)(shape)


def test_errors_in_values_are_readable_under_jit():
    f = jax.jit(lambda x: LAYER(x, seed=0))
    with pytest.raises(Exception, match=r"theta contains NaN, first at index \(1, 2\)"):
        f(jnp.zeros((3, 5)).at[1, 2].set(jnp.nan)).block_until_ready()
    with pytest.raises(ValueError, match="theta contains NaN"):
        jax.grad(lambda x: LAYER(x, seed=0).sum())(jnp.full((2, 5), jnp.nan))
    loss = jax.jit(lambda x, y: LAYER.loss(x, y, seed=0))
    with pytest.raises(Exception, match="y_true must be one-hot"):
        loss(jnp.zeros((3, 5)), jnp.ones((3, 5))).block_until_ready()
    equal(f(jnp.zeros((3, 5))), LAYER(np.zeros((3, 5), np.float32), seed=0))  # and life goes on


def test_masked_scores_have_derivative_zero():
    theta = np.array([[0.5, -np.inf, 1.0]], np.float32)
    slope = jax.jit(jax.grad(lambda x: LAYER.max(x, seed=0).sum()))(jnp.asarray(theta))
    equal(slope, LAYER(theta, seed=0))
    assert slope[0, 1] == 0
