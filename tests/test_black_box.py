"""Any function: the samples and formulas of the fused solvers, whatever it takes or returns."""

from __future__ import annotations

import dataclasses
import pickle
from collections import namedtuple
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

import dpo

THETA = np.random.default_rng(0).standard_normal((3, 5))
V = np.random.default_rng(1).standard_normal((3, 5))
REDUCTIONS = ("loo", "none", "antithetic", "qmc")


def argmax(scores):
    """One-hot, any leading axes."""
    return (np.arange(scores.shape[-1]) == scores.argmax(-1)[..., None]).astype(int)


def pair(noise="normal", batched=True, **settings):
    """The argmax as any function, and fused."""
    settings = {"noise": noise, "num_samples": 320, **settings}
    return (
        dpo.perturbed(argmax, batched=batched, maximizer=True, **settings),
        dpo.Perturbed(dpo.Argmax(), **settings),
    )


@pytest.fixture(params=REDUCTIONS)
def reduction(request):
    return request.param


@pytest.fixture(params=[True, False], ids=["batched", "singly"])
def batched(request):
    return request.param


def assert_close(actual, expected, scale=None):
    """Equal but for the order of float64 sums."""
    scale = np.abs(expected).max() if scale is None else scale
    np.testing.assert_allclose(actual, expected, rtol=0, atol=64 * np.finfo(float).eps * scale)


# ------------------------------------------------------------------- beside the fused argmax


def test_the_samples_are_those_of_the_fused_solver(dtype, reduction, batched):
    function, fused = pair(variance_reduction=reduction, batched=batched)
    theta = THETA.astype(dtype)
    samples = function.samples(theta, seed=7)
    assert samples.dtype == dtype
    np.testing.assert_array_equal(samples, fused.samples(theta, seed=7))
    np.testing.assert_array_equal(function(theta, seed=7), fused(theta, seed=7))


@pytest.mark.parametrize("epsilon", [0.5, np.linspace(0.3, 1, 15).reshape(3, 5)], ids=["1", "each"])
def test_every_estimate_is_that_of_the_fused_solver(family, reduction, epsilon):
    function, fused = pair(family, variance_reduction=reduction, epsilon=epsilon)
    calls = {
        "value": {},
        "max": {},
        "vjp": {"direction": V},
        "jvp": {"direction": V},
        "jacobian": {},
    }
    for of, options in calls.items():
        ours, theirs = (f.estimate(THETA, of=of, seed=7, **options) for f in (function, fused))
        # Decisions of Gumbel noise are the same but for rounding: none is that close here.
        assert_close(ours.mean, theirs.mean)
        # Differences of sums of squares, some of which nearly cancel.
        np.testing.assert_allclose(ours.standard_error, theirs.standard_error, rtol=1e-7, atol=1e-7)
        method = {"value": function}.get(of) or getattr(function, of)
        assert_close(method(THETA, *options.values(), seed=7), ours.mean)
    # One temperature a row has another estimator in fused solvers; one a coordinate the same.
    wide = dataclasses.replace(fused, epsilon=np.broadcast_to(epsilon, THETA.shape).copy())
    ours, theirs = (f.vjp_epsilon(THETA, V, seed=7) for f in (function, wide))
    assert_close(ours, theirs if ours.ndim == 2 else theirs.sum(1))


def test_multiplicative_noise_is_that_of_the_fused_solver(reduction):
    settings = {"perturbation": "multiplicative", "variance_reduction": reduction}
    function, fused = pair(**settings)
    for name, args in {"max": (), "vjp": (V,), "jvp": (V,), "vjp_epsilon": (V,)}.items():
        ours, theirs = (getattr(f, name)(THETA, *args, seed=7) for f in (function, fused))
        assert_close(ours, theirs)


def test_masked_scores_count_for_nothing():
    theta = np.where(np.arange(5) == 2, -np.inf, THETA)
    function, fused = pair()
    assert_close(function.max(theta, seed=7), fused.max(theta, seed=7))
    assert_close(function.vjp(theta, V, seed=7), fused.vjp(theta, V, seed=7))


@pytest.mark.parametrize("m", [1, 2])
def test_few_samples(m):
    function, fused = pair(num_samples=m)
    assert_close(function.jacobian(THETA, seed=7), fused.jacobian(THETA, seed=7))
    assert_close(function.vjp(THETA, V, seed=7), fused.vjp(THETA, V, seed=7))


@pytest.mark.parametrize("noise", ["normal", "gumbel"])
def test_the_loss_is_that_of_the_fused_solver(noise):
    function, fused = pair(noise)
    targets = np.eye(5)[[0, 3, 1]]
    for normalize in (True, False):
        ours, theirs = (
            f.loss(THETA, targets, seed=7, normalize=normalize) for f in (function, fused)
        )
        assert_close(ours, theirs)


def two_paths(costs):
    """4-neighbour paths through a grid of 2 x 2 costs, ties to the upper one."""
    upper, lower = np.array([[1, 1], [0, 1]]), np.array([[1, 0], [1, 1]])
    return np.where((costs[..., 0, 1] <= costs[..., 1, 0])[..., None, None], upper, lower)


def test_costs_are_minimised_on_grids():
    costs = 5 + np.random.default_rng(2).random((3, 2, 2))
    v = np.random.default_rng(3).standard_normal((3, 2, 2))
    settings = {"epsilon": 0.5, "num_samples": 320, "noise": "gumbel"}
    function = dpo.perturbed(two_paths, event_ndim=2, minimizes=True, **settings)
    fused = dpo.Perturbed(dpo.ShortestPath(neighbors=4), **settings)
    np.testing.assert_array_equal(function.samples(costs, seed=7), fused.samples(costs, seed=7))
    for name, args in {"max": (), "vjp": (v,), "jvp": (v,), "jacobian": ()}.items():
        ours, theirs = (getattr(f, name)(costs, *args, seed=7) for f in (function, fused))
        assert ours.shape == theirs.shape
        assert_close(ours, theirs)


def test_adaptive_samples_are_those_of_the_fused_solver(batched):
    settings = {"num_samples": dpo.Adaptive(0.02), "epsilon": 0.7}
    function, fused = pair(batched=batched, **settings)
    ours, theirs = (f.estimate(THETA, seed=7) for f in (function, fused))
    np.testing.assert_array_equal(ours.num_samples, theirs.num_samples)
    assert_close(ours.mean, theirs.mean)
    ours, theirs = (f.vjp(THETA, V, seed=7) for f in (function, fused))
    assert_close(ours, theirs)


# ---------------------------------------------------------------------- functions of other kinds


def test_relu_has_its_known_derivative():
    """``E relu(eps G)``, standard Gumbel: 1 - 1/e at 0, for values and VJPs alike."""
    m, z = 400_000, 5.0
    relu = dpo.perturbed(lambda x: np.maximum(x, 0), noise="gumbel", epsilon=0.7, num_samples=m)
    mean, error, _ = relu.estimate(np.zeros((2, 1)), of="jacobian", seed=3)
    assert (abs(mean - (1 - np.exp(-1))) < z * error).all()
    assert (error < 0.01).all()


def test_a_general_function_has_its_derivative_in_epsilon():
    """``E |theta + eps Z|^2 = |theta|^2 + eps^2 d``: 2 theta in theta and 2 eps d in eps."""
    square = dpo.perturbed(lambda x: (x**2).sum(-1), epsilon=0.7, num_samples=200_000)
    gradient, error, _ = square.estimate(THETA, of="vjp", direction=np.ones(3), seed=3)
    assert (abs(gradient - 2 * THETA) < 5 * error).all()
    slopes = np.stack([square.vjp_epsilon(THETA, np.ones(3), seed=s) for s in range(8)])
    spread = slopes.std(0, ddof=1) / np.sqrt(8)
    assert (abs(slopes.mean(0) - 2 * 0.7 * 5) < 8 * spread).all()  # t of 7 degrees: p = 1e-4 / 2


def test_vector_results_have_leave_one_out_gradients(reduction):
    """Results of another shape than the scores; a constant result has no derivative at all."""

    def fun(x):
        return np.stack([x.sum(-1), np.full(x.shape[:-1], 3.0)], axis=-1)

    f = dpo.perturbed(fun, num_samples=16_000, variance_reduction=reduction)
    mean, error, _ = f.estimate(THETA, of="jacobian", seed=3)
    assert mean.shape == (3, 2, 5)
    assert (abs(mean[:, 0] - 1) < 5 * error[:, 0]).all()
    if reduction != "none":
        assert_close(mean[:, 1], np.zeros((3, 5)), scale=3 / 0.5)
    v = np.array([2.0, -1.0])
    expected = np.einsum("i,bik->bk", v, mean)
    assert_close(f.vjp(THETA, np.broadcast_to(v, (3, 2)), seed=3), expected)
    assert_close(f.jvp(THETA, V, seed=3), np.einsum("bik,bk->bi", mean, V))


Result = namedtuple("Result", "best where")


def test_results_may_be_trees(batched):
    def fun(x):
        best = Result(x.max(-1), [argmax(x), x[..., :2, None] * np.ones(3)])
        return {"result": best, "a": (x > 0), "none": None}

    f = dpo.perturbed(fun, batched=batched, num_samples=50)
    y = f(THETA, seed=1)
    assert list(y) == ["result", "a", "none"] and y["none"] is None
    assert isinstance(y["result"], Result)
    assert y["result"].best.shape == (3,) and y["result"].where[1].shape == (3, 2, 3)
    samples = f.samples(THETA, seed=1)
    p = f.perturbed_scores(THETA, seed=1)
    np.testing.assert_array_equal(samples["result"].best, p.max(-1))
    np.testing.assert_array_equal(samples["a"], p > 0)
    np.testing.assert_allclose(y["result"].where[1], samples["result"].where[1].mean(0))
    tangent = f.jvp(THETA, V, seed=1)
    dual = f.vjp(THETA, y, seed=1)
    one, two = (x["result"] for x in (tangent, y))
    pairing = (one.best * two.best).sum() + (tangent["a"] * y["a"]).sum()
    pairing += sum((a * b).sum() for a, b in zip(one.where, two.where, strict=True))
    np.testing.assert_allclose((dual * V).sum(), pairing, rtol=1e-10)
    assert f.jacobian(THETA, seed=1)["result"].where[1].shape == (3, 2, 3, 5)


def test_scalars_and_no_batch():
    f = dpo.perturbed(lambda x: float(x.max()), batched=False, num_samples=100)
    assert np.ndim(f(THETA[0], seed=1)) == 0
    assert f.jacobian(THETA[0], seed=1).shape == (5,)
    assert f.vjp(THETA[0], 1.0, seed=1).shape == (5,)
    assert f.estimate(THETA, seed=1).standard_error.shape == (3,)


def test_empty_batches(batched):
    f, _ = pair(batched=batched)
    none = THETA[:0]
    assert f(none, seed=1).shape == (0, 5) and f.max(none, seed=1).shape == (0,)
    assert f.vjp(none, V[:0], seed=1).shape == (0, 5)
    assert f.jvp(none, V[:0], seed=1).shape == (0, 5)
    assert f.jacobian(none, seed=1).shape == (0, 5, 5)
    assert f.samples(none, seed=1).shape == (320, 0, 5)
    assert f.estimate(none, of="vjp", direction=V[:0], seed=1).mean.shape == (0, 5)


def test_further_arguments_reach_the_function(batched):
    def fun(x, scale, *, shift, limit):
        return (
            np.minimum(scale * x, np.asarray(limit)[..., None] if np.ndim(limit) else limit)[
                ..., :2
            ]
            + shift
        )

    f = dpo.perturbed(fun, batched=batched, num_samples=40)
    limits = np.array([0.1, 0.2, 0.3])
    options = {"shift": 1.0, "limit": dpo.PerInstance(limits), "seed": 1}
    p = f.perturbed_scores(THETA, seed=1)
    expected = np.minimum(2 * p, limits[:, None])[..., :2] + 1
    np.testing.assert_array_equal(f.samples(THETA, 2.0, **options), expected)
    v = V[:, :2]
    whole = f.vjp(THETA, v, 2.0, **options)
    for b in range(3):
        one = dpo.perturbed(fun, batched=batched, num_samples=40)
        mine = {**options, "limit": limits[b]}
        if b == 0:  # noise is numbered by row
            assert_close(one.vjp(THETA[b], v[b], 2.0, **mine), whole[b])
    jacobian = f.jacobian(THETA, 2.0, **options)
    assert_close(whole, np.einsum("bi,bik->bk", v, jacobian))


def test_arguments_of_instances_under_adaptive_and_qmc(batched):
    """Only some rows go on, or rows stand there several times: arguments follow."""
    offset = np.array([10.0, 20.0, 30.0])
    fun = lambda x, a: np.maximum(x[..., 0], 0) + a  # noqa: E731
    for settings in ({"num_samples": dpo.Adaptive(0.05)}, {"variance_reduction": "qmc"}):
        settings = {"num_samples": 320, **settings}
        f = dpo.perturbed(fun, batched=batched, epsilon=np.array([0.1, 1.0, 3.0]), **settings)
        mean, _, m = f.estimate(THETA, dpo.PerInstance(offset), seed=1)
        plain = f.estimate(THETA, 0.0, seed=1)
        np.testing.assert_array_equal(m, plain.num_samples)
        np.testing.assert_allclose(mean - offset, plain.mean, rtol=1e-9)
    assert len(set(np.ravel(f.estimate(THETA, 0.0, seed=1).num_samples))) == 1


def test_half_precision():
    theta = THETA.astype(np.float16)
    function, fused = pair()
    value = function(theta, seed=7)
    assert value.dtype == np.float16
    np.testing.assert_array_equal(value, fused(theta, seed=7))
    assert function.jacobian(theta, seed=7).dtype == np.float16


# -------------------------------------------------------------------- memory, solves, parallelism


class Counting:
    """A function that counts the problems it solves."""

    def __init__(self):
        self.solved = 0

    def __call__(self, scores):
        self.solved += scores[..., 0].size
        return argmax(scores)


def test_solutions_are_found_once(reduction):
    """A VJP keeps the solutions of its forward pass where they fit, and solves again otherwise."""
    fun = Counting()
    f = dpo.perturbed(fun, num_samples=320, variance_reduction=reduction)
    kept = f.vjp(THETA, V, seed=7)
    assert fun.solved == 320 * 3
    small = dpo.perturbed(fun, num_samples=320, variance_reduction=reduction, memory=4000)
    again = small.vjp(THETA, V, seed=7)
    assert fun.solved == 3 * 320 * 3
    assert_close(again, kept)
    np.testing.assert_array_equal(small(THETA, seed=7), f(THETA, seed=7))
    np.testing.assert_array_equal(small.samples(THETA, seed=7), f.samples(THETA, seed=7))
    for name, args in {"jacobian": (), "jvp": (V,), "vjp_epsilon": (V,)}.items():
        assert_close(*(getattr(g, name)(THETA, *args, seed=7) for g in (small, f)))


@pytest.mark.parametrize("memory", [2**26, 4000])
def test_a_pullback_is_the_value_and_its_vjp(reduction, memory):
    """From one solution a sample, where they fit."""
    fun, theta, epsilon = Counting(), THETA.copy(), np.full(3, 0.5)
    settings = dict(num_samples=320, variance_reduction=reduction, epsilon=epsilon, memory=memory)
    f = dpo.perturbed(fun, **settings)
    expected = f(theta, seed=7), f.vjp(theta, V, seed=7)
    fun.solved = 0
    y, pull = f.pullback(theta, seed=7)
    theta[:], epsilon[:] = 0.0, 1.0  # what was given may change afterwards
    np.testing.assert_array_equal(y, expected[0])
    np.testing.assert_array_equal(pull(V), expected[1])
    assert fun.solved == 320 * 3 * (1 if memory > 4000 else 2)


def test_a_pullback_of_a_tree_of_results():
    f = dpo.perturbed(
        lambda x, power: {"top": x.max(-1) ** power, "sorted": [np.sort(x)]}, num_samples=64
    )
    y, pull = f.pullback(THETA, 2, seed=7)
    v = {"top": np.arange(3.0), "sorted": [V]}
    np.testing.assert_array_equal(y["top"], f(THETA, 2, seed=7)["top"])
    np.testing.assert_array_equal(pull(v), f.vjp(THETA, v, 2, seed=7))
    with pytest.raises(ValueError, match="v must have the structure"):
        pull(V)


def test_a_window_of_samples_is_bounded():
    """The function never sees more than a fraction of ``memory``, however many samples."""
    sizes = []

    def fun(x):
        sizes.append(x.nbytes)
        return x.max(-1)

    f = dpo.perturbed(fun, num_samples=20_000, memory=2**20)
    f.jacobian(THETA, seed=7)
    assert max(sizes) <= 2**20 / 8 and sum(sizes) == 20_000 * THETA.nbytes


def shifted(scores, shift=0.0):
    return scores.max() + shift


@pytest.mark.parametrize("workers", [3, "processes"])
def test_results_do_not_depend_on_workers(workers):
    settings = {"batched": False, "num_samples": 64}
    expected = dpo.perturbed(shifted, **settings).samples(THETA, shift=1.0, seed=7)
    if workers == "processes":
        with ProcessPoolExecutor(2) as pool:
            f = dpo.perturbed(shifted, workers=pool, **settings)
            actual = f.samples(THETA, shift=1.0, seed=7)
    else:
        actual = dpo.perturbed(shifted, workers=workers, **settings).samples(
            THETA, shift=1.0, seed=7
        )
        one = dpo.perturbed(argmax, workers=workers, num_samples=64).samples(THETA, seed=7)
        np.testing.assert_array_equal(one, pair(num_samples=64)[1].samples(THETA, seed=7))
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("workers", [None, 2])
def test_warm_starts_are_the_sample_before(workers):
    def fun(x, warm_start=None):
        count = 0 if warm_start is None else warm_start["count"] + 1
        last = 0.0 if warm_start is None else warm_start["x"]
        return {"x": x[0], "count": count, "last": last}

    f = dpo.perturbed(fun, batched=False, num_samples=40, workers=workers, memory=8000)
    for _ in range(2):
        y = f.samples(THETA, seed=7)
        np.testing.assert_array_equal(y["count"], np.arange(40)[:, None] * np.ones(3))
        np.testing.assert_array_equal(y["last"][1:], y["x"][:-1])


@pytest.mark.parametrize("workers", [None, 2])
def test_a_function_may_use_its_array_again(workers):
    def in_place(scores, warm_start=None):
        y = np.zeros(5) if warm_start is None else warm_start
        y[:] = argmax(scores)
        return y

    settings = dict(num_samples=64, maximizer=True, batched=False)
    ours = dpo.perturbed(in_place, workers=workers, **settings)
    theirs = dpo.perturbed(argmax, **settings)
    np.testing.assert_array_equal(ours.samples(THETA, seed=1), theirs.samples(THETA, seed=1))
    np.testing.assert_array_equal(ours.vjp(THETA, V, seed=1), theirs.vjp(THETA, V, seed=1))


def test_warm_starts_of_batched_functions():
    starts = []

    def fun(x, warm_start):
        starts.append(warm_start)
        return x.max(-1)

    f = dpo.perturbed(fun, num_samples=40, memory=8000)
    y = f.samples(THETA, seed=7)
    assert starts[0] is None and len(starts) > 2
    assert all((start == y).all(-1).any() for start in starts[1:])


def test_a_spread_much_smaller_than_the_values_is_seen():
    f = dpo.perturbed(lambda x: 1e9 + 0.1 * x, num_samples=1000, epsilon=1.0)
    error = f.estimate(THETA, seed=7).standard_error
    np.testing.assert_allclose(
        error, 0.1 * f.perturbed_scores(THETA, seed=7).std(0, ddof=1) / 1000**0.5, rtol=1e-5
    )


def test_progress_is_told():
    told = []
    settings = {"num_samples": 40, "progress": lambda done, total: told.append((done, total))}
    dpo.perturbed(argmax, batched=False, **settings)(THETA, seed=7)
    assert told == sorted(told) and told[-1] == (120, 120)
    told.clear()
    dpo.perturbed(argmax, **settings)(THETA, seed=7)
    assert told == [(120, 120)]


# --------------------------------------------------------------------------------------- errors


def failing(scores):
    if np.max(scores) > 2.5:
        raise ArithmeticError("too large")
    return scores.max(-1)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("workers", [None, 2])
def test_an_error_says_where(batched, reduction, workers):
    theta = np.zeros((3, 5))
    settings = {"num_samples": 320, "epsilon": 1.0, "variance_reduction": reduction}
    f = dpo.perturbed(failing, batched=batched, workers=workers, **settings)
    with pytest.raises(dpo.SolverError, match=r"ArithmeticError: too large on .*sample") as info:
        f(theta)  # a seed that nobody chose
    error = info.value
    assert isinstance(error.__cause__, ArithmeticError)
    assert pickle.loads(pickle.dumps(error)).sample == error.sample
    again = f.perturbed_scores(theta, seed=error.seed, sample=error.sample, row=error.row)
    with pytest.raises(ArithmeticError):
        failing(again)
    if not batched:
        everything = f.perturbed_scores(theta, seed=error.seed)
        np.testing.assert_array_equal(everything[error.sample, error.row], again)
    command = str(error).split("scores are ")[1]
    np.testing.assert_array_equal(eval(command), again)  # what it says to do is to be done


def test_a_wrong_result_is_found_where_it_is():
    f = dpo.perturbed(lambda x: x[: 1 + (x[0] > 2.5)], batched=False, num_samples=320, epsilon=1.0)
    p = f.perturbed_scores(np.zeros(5), seed=3)
    with pytest.raises(dpo.SolverError, match="same structure and shapes") as info:
        f(np.zeros(5), seed=3)
    assert info.value.sample == int(np.argmax(p[:, 0] > 2.5)) > 0


@pytest.mark.parametrize("workers", [None, 2])
def test_the_first_failure_is_reported(workers):
    f = dpo.perturbed(failing, batched=False, workers=workers, num_samples=320, epsilon=1.0)
    p = f.perturbed_scores(np.zeros(5), seed=3)
    first = int(np.argmax(p.max(-1) > 2.5))
    with pytest.raises(dpo.SolverError) as info:
        f(np.zeros(5), seed=3)
    assert (info.value.row, info.value.sample) == (0, first)


@pytest.mark.parametrize(
    ("fun", "settings", "match"),
    [
        (lambda x: x.max(), {}, "batched=False"),
        (lambda x: x.max(-1), {"maximizer": True}, "a solver must return one array"),
        (lambda x: x + 1j, {}, "real numbers, got complex128"),
        (lambda x: None, {}, "got none"),
        (lambda x: x[x > 0], {"batched": False}, "same structure and shapes"),
    ],
)
def test_wrong_results_are_refused(fun, settings, match):
    with pytest.raises(dpo.SolverError, match=match):
        dpo.perturbed(fun, num_samples=50, **settings)(THETA, seed=1)


def test_a_wrong_result_is_no_exception_of_the_function():
    with pytest.raises(dpo.SolverError) as info:
        dpo.perturbed(lambda x: x.max(), num_samples=50)(THETA, seed=1)
    assert "raised" not in str(info.value) and "seen on sample 0 of 50 (seed 1)" in str(info.value)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"fun": 3}, "fun must be a function"),
        ({"epsilon": 0}, "epsilon must be positive"),
        ({"num_samples": 0}, "num_samples must be between"),
        ({"event_ndim": 0}, "event_ndim must be a positive integer, got 0"),
        ({"workers": 0}, "workers must be a positive integer or an Executor, got 0"),
        ({"batched": 1}, "batched must be True or False"),
        ({"maximizer": True, "minimizes": True}, "pass one of the two"),
        ({"progress": 1}, "progress must be a function"),
        ({"variance_reduction": "antithetic", "num_samples": 3}, "must be even"),
    ],
)
def test_wrong_settings_are_refused(settings, match):
    with pytest.raises((TypeError, ValueError), match=match):
        dpo.perturbed(**{"fun": argmax, **settings})


def test_wrong_calls_are_refused():
    f = dpo.perturbed(argmax, num_samples=50)
    with pytest.raises(ValueError, match="pass maximizer=True"):
        f.max(THETA, seed=1)
    with pytest.raises(ValueError, match="v must broadcast to the function's result's shape"):
        f.vjp(THETA, V[:, :3], seed=1)
    with pytest.raises(ValueError, match="v must have the structure of the function's results"):
        f.vjp(THETA, {"a": V}, seed=1)
    with pytest.raises(ValueError, match=r"whose leading axes are theta's batch \(3,\)"):
        f(THETA, dpo.PerInstance(np.zeros(4)), seed=1)
    with pytest.raises(TypeError, match="forget the parentheses"):
        dpo.perturbed(dpo.TopK)


def test_perturbed_functions_are_values():
    @dpo.perturbed(num_samples=10)
    def f(x):
        return x

    assert isinstance(f, dpo.PerturbedFunction) and f.num_samples == 10
    assert dpo.perturbed(dpo.TopK(2), epsilon=0.3) == dpo.Perturbed(dpo.TopK(2), epsilon=0.3)
    one, two = (dpo.perturbed(argmax, epsilon=0.3) for _ in range(2))
    assert one == two and hash(one) == hash(two) and one != dpo.perturbed(argmax)
    tree = {"y": np.zeros(3)}
    hash(dpo.perturbed(argmax, result_shape=tree))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(one))(V, seed=1), one(V, seed=1))
