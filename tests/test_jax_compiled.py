"""What is compiled into JAX programs: the bits of NumPy, its errors, and no Python on the way."""

from __future__ import annotations

import ctypes
import re
import threading
from pathlib import Path

import numpy as np
import pytest

import dpo
from dpo._seeds import Place

jax = pytest.importorskip("jax")
jnp = jax.numpy

import jaxlib  # noqa: E402

from dpo import _jax_cpu, _jax_ffi  # noqa: E402

WORDS = np.array([9, 3], np.uint32)
SEED = (3 << 32) | 9
# (rows, coordinates, samples): each kernel, and where NumPy and handlers choose between them.
SMALL = [(1, 2, 1), (3, 5, 64), (2, 40, 300), (70, 9, 2), (2, 16, 9), (2, 17, 8), (4, 150, 33)]
# Beyond what one thread does: few samples, strands of a row, and both kinds of what a value keeps.
LARGE = [(900, 30, 8), (1, 40, 6000), (3, 16, 5000), (50, 10, 700), (40, 17, 400), (80, 200, 20)]


def arrays(rows, d, dtype):
    """Scores (one masked), a direction, and targets that put no weight on what is masked."""
    rng = np.random.default_rng(0)
    theta, v = rng.standard_normal((2, rows, d))
    target = rng.dirichlet(np.ones(d), rows)
    target[0] = np.eye(d)[0]
    theta[-1, -1], target[-1, -1] = -np.inf, 0
    target /= target.sum(1, keepdims=True)
    return theta.astype(dtype), v.astype(dtype), target.astype(dtype)


def handlers(f, *args):
    """Names of the handlers in a compiled function."""
    text = jax.jit(f).lower(*args).as_text()
    return set(re.findall(r"@dpo_(\w+)_(?:value|maximum|adjoint|product)_float", text)), text


IN_PAIRS = SMALL[-3:] + LARGE[:2]
EVERY = [(shape, kind) for kind in ("loo", "none") for shape in SMALL + LARGE]


@pytest.mark.parametrize("shape, reduction", EVERY + [(s, "antithetic") for s in IN_PAIRS], ids=str)
def test_the_bits_of_numpy(shape, reduction, family, dtype):
    rows, d, m = shape
    m += reduction == "antithetic" and m > 1 and m % 2
    theta, v, target = arrays(rows, d, dtype)
    epsilon = np.linspace(0.3, 0.9, rows, dtype=dtype)
    shared = dict(noise=family, num_samples=m, variance_reduction=reduction)
    layer = dpo.Perturbed(epsilon=epsilon, **shared)
    with jax.enable_x64(dtype == np.float64):
        x, u, y, e = map(jnp.asarray, (theta, v, target, epsilon))
        assert x.dtype == dtype

        def at(e):
            return dpo.Perturbed(epsilon=e, **shared)

        def program(x, e, words):
            value, pullback = jax.vjp(lambda x, e: at(e)(x, seed=words), x, e)
            maximum = jax.value_and_grad(lambda x, e: at(e).max(x, seed=words).sum(), (0, 1))
            loss = jax.value_and_grad(lambda x: at(e).loss(x, y, seed=words).sum())
            push = jax.jvp(lambda x: at(e)(x, seed=words), (x,), (u,))[1]
            return (
                value, pullback(u), push, at(e).max(x, seed=words), at(e).loss(x, y, seed=words),
                maximum(x, e)[1], loss(x)[1],
            )  # fmt: skip

        names, text = handlers(program, x, e, WORDS)
        assert names and "callback" not in text
        value, (by_theta, by_epsilon), pushed, maximum, loss, slopes, residual = jax.jit(program)(
            x, e, WORDS
        )
    equal = np.testing.assert_array_equal
    equal(value, layer(theta, seed=SEED))
    equal(by_theta, layer.vjp(theta, v, seed=SEED))
    equal(by_epsilon, layer.vjp_epsilon(theta, v, seed=SEED))
    equal(pushed, layer.jvp(theta, v, seed=SEED))
    equal(maximum, layer.max(theta, seed=SEED))
    equal(loss, layer.loss(theta, target, seed=SEED))
    equal(slopes[0], value)
    equal(residual, np.asarray(value) - target)
    call = layer._prepare(theta, Place(SEED), "max")[0]
    top, _, mean = call.sampler.maximum()
    equal(slopes[1], call.sampler.epsilon_slope_of_maximum(top, mean)[:, 0].astype(dtype))


def test_temperatures_forward_and_mapped_calls(dtype):
    """Forward mode in epsilon, calls with seeds of their own, and every kind of seed."""
    theta, v, _ = arrays(3, 5, dtype)
    layer = dpo.Perturbed(epsilon=0.7, num_samples=64)
    words = np.random.default_rng(1).integers(0, 2**32, (4, 2), dtype=np.uint32)
    many = np.stack([theta, v, theta[::-1], v[::-1]])
    push = lambda e: dpo.Perturbed(epsilon=e, num_samples=64)(jnp.asarray(theta), seed=WORDS)  # noqa: E731
    with jax.enable_x64(dtype == np.float64):
        f = lambda e: jax.jvp(push, (e,), (jnp.ones_like(e),))  # noqa: E731
        y, change = jax.jit(f)(jnp.asarray(0.7, dtype))
        call = layer._prepare(theta, Place(SEED), "value")[0]
        np.testing.assert_array_equal(y, layer(theta, seed=SEED))
        expected = call.sampler.epsilon_jvp(np.ones((3, 1), dtype)).astype(dtype)
        np.testing.assert_array_equal(change, expected)
        mapped = jax.vmap(lambda x, w: layer(x, seed=w))
        names, _ = handlers(mapped, jnp.asarray(many), words)
        assert names == {"argmax"}
        expected = [layer(t, seed=w) for t, w in zip(many, words, strict=True)]
        np.testing.assert_array_equal(jax.jit(mapped)(jnp.asarray(many), words), expected)
        for kind in (np.uint32, np.int32, *((np.int64, np.uint64) if dtype == np.float64 else ())):
            y = jax.jit(lambda x, s: layer(x, seed=s))(jnp.asarray(theta), kind(2**31 - 1))
            np.testing.assert_array_equal(y, layer(theta, seed=2**31 - 1))
        if dtype == np.float64:
            y = jax.jit(lambda x, s: layer(x, seed=s))(jnp.asarray(theta), np.uint64(2**64 - 5))
            np.testing.assert_array_equal(y, layer(theta, seed=2**64 - 5))


ORACLES = (dpo.TopK(2), dpo.Ranks(), dpo.ShortestPath(4, (1, 1)), dpo.Argmax())


@pytest.mark.parametrize("oracle", ORACLES, ids=lambda o: type(o).__name__)
def test_the_loss_of_every_oracle(oracle, family, dtype):
    shape = (5, 3, 4) if isinstance(oracle, dpo.ShortestPath) else (5, 7)
    theta, other = np.random.default_rng(0).gamma(2, 1, (2, *shape)).astype(dtype)
    y = dpo.Perturbed(oracle, epsilon=1e-20, num_samples=1)(other, seed=0)
    for normalize in (True, False):

        def loss(x, e, normalize=normalize):
            layer = dpo.Perturbed(oracle, noise=family, epsilon=e, num_samples=40)
            return layer.loss(x, jnp.asarray(y), seed=SEED, normalize=normalize)

        with jax.enable_x64(dtype == np.float64):
            x, e = jnp.asarray(theta), jnp.asarray(0.5, dtype)
            slopes = jax.grad(lambda x, e: loss(x, e).sum(), (0, 1))
            for f in (loss, slopes):
                names, text = handlers(f, x, e)
                assert names and "callback" not in text
            value, (by_theta, by_epsilon) = jax.jit(loss)(x, e), jax.jit(slopes)(x, e)
            eager = slopes(x, e)
        layer = dpo.Perturbed(oracle, noise=family, epsilon=0.5, num_samples=40)
        np.testing.assert_array_equal(value, layer.loss(theta, y, seed=SEED, normalize=normalize))
        np.testing.assert_array_equal(by_theta, eager[0])
        np.testing.assert_allclose(by_epsilon, eager[1], rtol=1e-5)


@pytest.mark.parametrize(
    ("oracle", "y", "message"),
    [
        (dpo.TopK(2), [[1, 1, 1, 0]], "0/1 with 2 ones"),
        (dpo.TopK(2), [[1.5, 0.5, 0, 0]], "0/1 with 2 ones"),
        (dpo.Ranks(), [[1, 2, 3, 3]], "a permutation of 1..4"),
        (dpo.Ranks(), [[0, 2, 3, 5]], "a permutation of 1..4"),
        (dpo.ShortestPath(), [[[1, 0], [1, 0]]], "contains source and target"),
        (dpo.ShortestPath(), [[[1, 2], [0, 1]]], "contains source and target"),
    ],
)
def test_targets_that_are_none_are_refused_inside_programs(oracle, y, message):
    y = jnp.asarray(y, jnp.float32)
    layer = dpo.Perturbed(oracle, num_samples=4)
    loss = jax.jit(lambda x, y: layer.loss(x, y, seed=0))
    assert handlers(loss, y, y)[0]
    with pytest.raises(Exception, match=message):
        jax.block_until_ready(loss(jnp.ones_like(y), y))


def test_targets_that_are_means_of_solutions_are_taken():
    theta, layer = jnp.ones((1, 4)), dpo.Perturbed(dpo.Ranks(), num_samples=4)
    loss = jax.jit(lambda x, y: layer.loss(x, y, seed=0))
    mean = jnp.full((1, 4), 2.5)
    assert handlers(loss, theta, mean)[0]
    np.testing.assert_array_equal(loss(theta, mean), layer.loss(theta, mean, seed=0))
    with pytest.raises(Exception, match="its smallest entries are too small"):
        jax.block_until_ready(loss(theta, jnp.array([[1.0, 1, 4, 4]])))
    with pytest.raises(Exception, match="theta has infinite scores"):
        jax.block_until_ready(loss(theta.at[0, 0].set(-jnp.inf), mean))


@pytest.mark.parametrize("shape", [(3, 4, 1), (3, 4, 5), (3, 4, 40), (6, 6, 40)], ids=str)
@pytest.mark.parametrize("reduction", ["loo", "none", "antithetic"])
def test_a_path_in_its_temperature(shape, reduction, family, dtype):
    """By the scores of the scale."""
    (*grid, m), rng = shape, np.random.default_rng(0)
    m += reduction == "antithetic" and m > 1 and m % 2
    theta, v = rng.gamma(2, 1, (2, 5, *grid)).astype(dtype)
    theta[1, 1, 1] = np.inf
    epsilon = np.linspace(0.3, 0.8, 5, dtype=dtype)

    def at(e):
        return dpo.Perturbed(
            dpo.ShortestPath(), family, e, num_samples=m, variance_reduction=reduction
        )

    with jax.enable_x64(dtype == np.float64):
        x, u, e = map(jnp.asarray, (theta, v, epsilon))

        def pushed(e):
            return jax.jvp(lambda e: at(e)(x, seed=SEED), (e,), (jnp.ones_like(e),))[1]

        def pulled(x, e):
            return jax.vjp(lambda x, e: at(e)(x, seed=SEED), x, e)[1](u)

        names, text = handlers(lambda x, e: (pushed(e), pulled(x, e)), x, e)
        assert names and "callback" not in text
        by_theta, by_epsilon = jax.jit(pulled)(x, e)
        for got, expected in zip((by_theta, by_epsilon), pulled(x, e), strict=True):
            np.testing.assert_array_equal(got, expected)
        change, eager = jax.jit(pushed)(e), pushed(e)
    np.testing.assert_array_equal(by_theta, at(epsilon).vjp(theta, v, seed=SEED))
    np.testing.assert_array_equal(by_epsilon, at(epsilon).vjp_epsilon(theta, v, seed=SEED))
    np.testing.assert_array_equal(change, eager)


PRODUCTS = [
    *((how, m, "loo", "normal", np.float32) for how in ("times", "own", "both") for m in (6, 40)),
    ("own", 6, "loo", "gumbel", np.float32),
    ("own", 40, "loo", "gumbel", np.float32),
    ("own", 40, "none", "logistic", np.float32),
    ("both", 6, "loo", "normal", np.float64),
    ("both", 6, "antithetic", "normal", np.float32),
    ("both", 1, "loo", "normal", np.float32),
    ("both", 6000, "loo", "normal", np.float32),  # strands of a row
]


@pytest.mark.parametrize("how, m, reduction, family, dtype", PRODUCTS)
@pytest.mark.parametrize("oracle", ORACLES, ids=lambda o: type(o).__name__)
def test_products_and_temperatures_of_coordinates(oracle, how, m, reduction, family, dtype):
    """Noise that multiplies scores, and a temperature a coordinate, with every derivative."""
    shape = (5, 3, 6) if isinstance(oracle, dpo.ShortestPath) else (5, 18)
    if isinstance(oracle, dpo.Argmax) and m == 40:
        shape = (5, 8)  # by the whole Jacobian
    if m > 1000:
        shape = 1, *shape[1:]
    rng = np.random.default_rng(0)
    theta, other, v, own = rng.gamma(2, 1, (4, *shape)).astype(dtype)
    theta[0, 1] = 0  # never perturbed by a product
    if isinstance(oracle, dpo.Argmax | dpo.TopK) and m != 40:  # of infinite scores is no loss
        theta[-1, 2] = -np.inf
    y = dpo.Perturbed(oracle, epsilon=1e-20, num_samples=1)(other, seed=0)
    epsilon = np.linspace(0.3, 0.8, len(theta)) if how == "times" else 0.2 + own / 10
    perturbation = "additive" if how == "own" else "multiplicative"

    def at(e):
        return dpo.Perturbed(
            oracle, family, e, m, variance_reduction=reduction, perturbation=perturbation
        )

    def program(x, e, u, f):
        value, pullback = jax.vjp(lambda x, e: at(e)(x, seed=SEED), x, e)
        pushed = [
            jax.jvp(lambda x: at(e)(x, seed=SEED), (x,), (u,))[1],
            jax.jvp(lambda e: at(e)(x, seed=SEED), (e,), (f,))[1],
        ]
        maximum = lambda x, e: at(e).max(x, seed=SEED)  # noqa: E731
        loss = lambda x, e: at(e).loss(x, jnp.asarray(y), seed=SEED)  # noqa: E731
        of = [maximum, loss] if np.isfinite(theta).all() else [maximum]
        slopes = [jax.grad(lambda x, e, f=f: f(x, e).sum(), (0, 1))(x, e) for f in of]
        return value, pullback(u), pushed, [f(x, e) for f in of], slopes

    with jax.enable_x64(dtype == np.float64):
        x, u = jnp.asarray(theta), jnp.asarray(v)
        e = jnp.asarray(epsilon, dtype)
        f = jnp.asarray(rng.standard_normal(e.shape), dtype)
        names, text = handlers(program, x, e, u, f)
        assert names and "callback" not in text
        got, expected = jax.jit(program)(x, e, u, f), program(x, e, u, f)
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    layer = at(np.asarray(epsilon, dtype))
    np.testing.assert_array_equal(got[1][1], layer.vjp_epsilon(theta, v, seed=SEED))


@pytest.mark.parametrize("m", [3, 40])
def test_ends_of_paths_by_row(m):
    source, target = ((0, 0), (1, 1), (2, 0)), ((2, 3), (0, 3), (1, 1))
    rng, oracle = np.random.default_rng(0), dpo.ShortestPath(8, source, target)
    theta, other, v = rng.gamma(2, 1, (3, 2, 3, 3, 4)).astype(np.float32)
    layer = dpo.Perturbed(oracle, num_samples=m)
    y = np.array(dpo.Perturbed(oracle, epsilon=1e-20, num_samples=1)(other, seed=0))

    def program(x, y, u, key):
        value, pullback = jax.vjp(lambda x: layer(x, seed=key), x)
        return value, pullback(u)[0], layer.loss(x, y, seed=key)

    keys = np.array([[3, 4], [5, 6]], np.uint32)
    mapped = jax.jit(jax.vmap(program))
    names, text = handlers(jax.vmap(program), theta, y, v, keys)
    assert names and "callback" not in text
    whole = dpo.Perturbed(oracle, num_samples=m)  # both calls as one batch, (2, 3)
    together = jax.jit(lambda x: whole(x, seed=keys[0]))(theta)
    np.testing.assert_array_equal(together, whole(theta, seed=keys[0]))
    for i, (value, by_theta, loss) in enumerate(zip(*mapped(theta, y, v, keys), strict=True)):
        np.testing.assert_array_equal(value, layer(theta[i], seed=keys[i]))
        np.testing.assert_array_equal(by_theta, layer.vjp(theta[i], v[i], seed=keys[i]))
        np.testing.assert_array_equal(loss, layer.loss(theta[i], y[i], seed=keys[i]))
    y[1, 2, 1, 1] = 0  # a target
    with pytest.raises(Exception, match="but row 5 is not"):
        jax.block_until_ready(mapped(theta, y, v, keys))
    walls = theta[0].copy()
    walls[1, :, 2] = np.inf
    with pytest.raises(Exception, match="without a path of finite cost"):
        jax.block_until_ready(jax.jit(lambda x: layer(x, seed=0))(walls))


def test_an_infinite_maximum_has_a_slope_in_the_temperature():
    theta = jnp.array([[[0.0, jnp.inf, 1.0], [0, 1, 2]], [[3.0, 2, 1], [0, 1, 2]]])
    y = jnp.eye(3)[1:]

    def maximum(x, e, seed):
        return dpo.Perturbed(epsilon=e, num_samples=40).max(x, seed=seed)

    def loss(x, e, seed):
        return dpo.Perturbed(epsilon=e, num_samples=40, noise="gumbel").loss(x, y, seed=seed)

    for f in (maximum, loss):
        each = lambda *x, f=f: (f(*x), *jax.grad(lambda *x: f(*x).sum(), (0, 1))(*x))  # noqa: E731
        operands = theta[0], jnp.array([0.5, 0.7]), 3
        assert handlers(each, *operands)[0]
        got, expected = jax.jit(each)(*operands), each(*operands)
        jax.tree.map(np.testing.assert_array_equal, got, expected)
        assert np.isfinite(got[2]).all()
        mapped = theta, jnp.array([[0.5, 0.7], [0.6, 0.4]]), jnp.array([3, 4])
        got, expected = jax.jit(jax.vmap(each))(*mapped), jax.vmap(each)(*mapped)
        jax.tree.map(np.testing.assert_array_equal, got, expected)
        assert np.isfinite(got[2]).all()


@pytest.mark.parametrize("half", [jnp.float16, jnp.bfloat16], ids=str)
@pytest.mark.parametrize("oracle", ORACLES, ids=lambda o: type(o).__name__)
def test_half_precision_has_the_bits_of_numpy(oracle, half):
    """Computed in float32, and rounded: inside a program as outside."""
    shape = (5, 3, 4) if isinstance(oracle, dpo.ShortestPath) else (5, 7)
    theta, v = (np.asarray(x, half) for x in np.random.default_rng(0).gamma(2, 1, (2, *shape)))
    layer = dpo.Perturbed(oracle, epsilon=0.3, num_samples=40)
    y = dpo.Perturbed(oracle, epsilon=1e-20, num_samples=1)(v, seed=0)

    def at(e):
        return dpo.Perturbed(oracle, epsilon=e, num_samples=40)

    def program(x, e):
        value, pullback = jax.vjp(lambda x: at(e)(x, seed=WORDS), x)
        loss = lambda x, e: at(e).loss(x, jnp.asarray(y), seed=WORDS).sum()  # noqa: E731
        slopes = jax.grad(loss, (0, 1))(x, e)
        return value, pullback(jnp.asarray(v))[0], at(e).max(x, seed=WORDS), slopes

    x, e = jnp.asarray(theta), jnp.float32(0.3)
    names, text = handlers(program, x, e)
    assert names and "callback" not in text
    value, product, maximum, (by_theta, by_epsilon) = jax.jit(program)(x, e)
    assert value.dtype == product.dtype == maximum.dtype == by_theta.dtype == half
    assert by_epsilon.dtype == np.float32
    np.testing.assert_array_equal(value, layer(theta, seed=SEED))
    np.testing.assert_array_equal(product, layer.vjp(theta, v, seed=SEED))
    np.testing.assert_array_equal(maximum, layer.max(theta, seed=SEED))
    sign = -1 if isinstance(oracle, dpo.ShortestPath) else 1
    np.testing.assert_array_equal(by_theta, sign * (value - jnp.asarray(y)))


@pytest.mark.parametrize("m", [1, 2, 6, 40])
@pytest.mark.parametrize("family", ["normal", "gumbel"])
@pytest.mark.parametrize("oracle", ORACLES, ids=lambda o: type(o).__name__)
def test_pairs_of_samples(oracle, family, m, dtype):
    """Centred by the other pairs, with few samples and many."""
    shape = (5, 3, 4) if isinstance(oracle, dpo.ShortestPath) else (5, 21)
    theta, v = np.random.default_rng(0).gamma(2, 1, (2, *shape)).astype(dtype)
    layer = dpo.Perturbed(
        oracle, family, epsilon=0.3, num_samples=m, variance_reduction="antithetic"
    )

    def program(x, u, first):
        value, pullback = jax.vjp(lambda x: layer(x, seed=WORDS, sample_offset=first), x)
        pushed = jax.jvp(lambda x: layer(x, seed=WORDS, sample_offset=first), (x,), (u,))[1]
        return value, pullback(u)[0], pushed, layer.max(x, seed=WORDS, sample_offset=first)

    with jax.enable_x64(dtype == np.float64):
        operands = jnp.asarray(theta), jnp.asarray(v), np.uint32(4)
        names, text = handlers(program, *operands)
        assert names and "callback" not in text
        got = jax.jit(program)(*operands)
    place = {"seed": SEED, "sample_offset": 4}
    np.testing.assert_array_equal(got[0], layer(theta, **place))
    np.testing.assert_array_equal(got[1], layer.vjp(theta, v, **place))
    np.testing.assert_array_equal(got[2], layer.jvp(theta, v, **place))
    np.testing.assert_array_equal(got[3], layer.max(theta, **place))


def test_what_is_not_compiled():
    """Anything else is a callback."""
    for layer, compiled in (
        (dpo.Perturbed(num_samples=64), True),
        (dpo.Perturbed(dpo.TopK(2), num_samples=64), True),
        (dpo.Perturbed(num_samples=64, variance_reduction="antithetic"), True),
        (dpo.Perturbed(num_samples=64, variance_reduction="qmc"), False),
        (dpo.Perturbed(num_samples=64, epsilon=np.ones((1, 5))), True),
        (dpo.Perturbed(num_samples=64, noise="laplace"), False),
        (dpo.Perturbed(num_samples=dpo.Adaptive(0.1)), False),
        (dpo.Perturbed(method="exact"), False),
    ):
        names, text = handlers(lambda x, layer=layer: layer(x, seed=0), jnp.zeros((3, 5)))
        assert bool(names) == compiled and ("callback" in text) != compiled
    layer, rows = dpo.Perturbed(num_samples=9), np.linspace(0, 1, 8000 * 16, dtype=np.float32)
    gradient = jax.vjp(lambda x: layer(x, seed=0), rows.reshape(8000, 16))[1]
    assert "callback" in handlers(gradient, rows.reshape(8000, 16))[1]  # of 16 MB of Jacobians
    ends = tuple((0, j % 3) for j in range(5000))
    paths = dpo.Perturbed(dpo.ShortestPath(source=ends), num_samples=1)
    assert not handlers(lambda x: paths(x, seed=0), jnp.ones((5000, 3, 3)))[0]


def test_bad_operands_raise_what_the_layer_raises():
    layer, x, y = dpo.Perturbed(num_samples=4), jnp.zeros((3, 5)), jnp.eye(5)[:3]

    def at(e):
        return dpo.Perturbed(num_samples=4, epsilon=e)

    nan = x.at[1, 2].set(jnp.nan)
    for f, args, message in (
        (lambda x: layer(x, seed=0), (nan,), r"theta contains NaN, first at index \(1, 2\)"),
        (lambda x, s: layer(x, seed=s), (x, -1), r"seed must be in 0 .. 2\*\*64 - 1, got -1"),
        (
            lambda x, s: layer(x, seed=s),
            (x, jnp.array([1, -2])),
            r"two words of seed must be in 0 .. 2\*\*32 - 1",
        ),
        (lambda x, e: at(e)(x, seed=0), (x, 0.0), "epsilon must be positive and finite, got 0.0"),
        (lambda x, e: at(e)(x, seed=0), (x, 1e-35), r"epsilon must lie in \[1e-30, 1e30\]"),
        (lambda x, y: layer.loss(x, y, seed=0), (x, 2 * y), "y_true must be one-hot"),
        (lambda x, y: layer.loss(x, y, seed=0), (x, y.at[0].set(jnp.nan)), "y_true must be"),
        (lambda x, y: layer.loss(x, y, seed=0), (x, y * 1.0015 - 3e-4), "y_true must be one-hot"),
        (
            lambda x, v: jax.vjp(lambda x: layer(x, seed=0), x)[1](v)[0],
            (x, nan),
            "a tangent must be finite",
        ),
        (
            lambda x, k: layer(x, seed=0, sample_offset=k),
            (x, jnp.uint32(2**32 - 2)),
            r"sample_offset \+ num_samples must be at most",
        ),
    ):
        names, _ = handlers(f, *args)
        assert names
        with pytest.raises(Exception, match=message):
            jax.block_until_ready(jax.jit(f)(*args))
    np.testing.assert_array_equal(  # tolerated, as outside
        jax.jit(lambda y: layer.loss(x, y, seed=0))(y * 1.00095),
        layer.loss(np.zeros((3, 5), np.float32), np.asarray(y * 1.00095), seed=0),
    )


def test_threads_call_one_program_at_once():
    layer = dpo.Perturbed(num_samples=300)
    f = jax.jit(jax.value_and_grad(lambda x, s: (layer(x, seed=s) ** 2).sum()))
    many = np.random.default_rng(2).standard_normal((8, 4, 20)).astype(np.float32)
    alone = [jax.device_get(f(x, k)) for k, x in enumerate(many)]
    together: list = [None] * len(many)

    def work(k):
        for _ in range(20):
            together[k] = jax.device_get(f(many[k], k))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(many))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for a, b in zip(alone, together, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_an_unknown_version_is_refused_and_calls_go_on(monkeypatch):
    @ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
    def silent(frame):
        """A handler that does not know the version it is asked for."""

    address = ctypes.cast(silent, ctypes.c_void_p).value
    assert not _jax_ffi.register("dpo_test_silent", address)
    monkeypatch.setattr(_jax_cpu, "registered", lambda *_: None)
    layer, x = dpo.Perturbed(num_samples=8), jnp.arange(6.0).reshape(2, 3)
    names, text = handlers(lambda x: layer(x, seed=0), x)
    assert not names and "callback" in text
    y = jax.jit(lambda x: layer(x, seed=0))(x)
    np.testing.assert_array_equal(y, layer(np.asarray(x), seed=0))


def test_records_are_those_of_xla():
    """Sizes and places of the fields, as in the header that comes with JAX's library."""
    sizes = {
        "CallFrame": (_jax_ffi.CallFrame, 168),
        "Buffer": (_jax_ffi.Buffer, 48),
        "Args": (_jax_ffi.Values, 40),
        "Attrs": (_jax_ffi.Attributes, 48),
    }
    for record, size in sizes.values():
        assert ctypes.sizeof(record) == size
    assert _jax_ffi.at(_jax_ffi.CallFrame, "operands", "values") == 9
    assert _jax_ffi.at(_jax_ffi.Metadata, "version", "major") == 3
    header = Path(jaxlib.__file__).parent / "include/xla/ffi/api/c_api.h"
    functions = re.findall(r"_XLA_FFI_API_STRUCT_FIELD\(XLA_FFI_(\w+)\);", header.read_text())
    first = _jax_ffi.at(_jax_ffi.Api, "create_error")
    for name, function in (
        ("create_error", "Error_Create"),
        ("destroy_error", "Error_Destroy"),
        ("schedule", "ThreadPool_Schedule"),
        ("num_threads", "ThreadPool_NumThreads"),
    ):
        assert functions[_jax_ffi.at(_jax_ffi.Api, name) - first] == function


def test_machine_code_on_disk_is_stamped_with_every_source(monkeypatch):
    _jax_cpu.registered("argmax", "value", "float32")
    stamp = _jax_cpu._stamp.__wrapped__
    now, original = stamp(), _jax_cpu.Path.read_bytes

    def edited(path):
        return original(path) + (b"# edited" if path.name == "_jax_ffi.py" else b"")

    monkeypatch.setattr(_jax_cpu.Path, "read_bytes", edited)
    assert stamp() != now
    assert any(h._cache._cache_file._source_stamp == now for h in _jax_cpu._kept)
