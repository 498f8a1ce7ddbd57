"""The public API on arrays of a GPU: on the simulator with a strict stand-in for CuPy, and on a GPU
with CuPy itself where there is one.

Values and everything else must be the CPU's: bit for bit where launches promise it, else nearly.
"""

from __future__ import annotations

import gc
import itertools as it
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import simt.cupy
import user_oracles
from dpo.kernels.codes import INDEPENDENT, JACOBIAN, JVP, SOBOL, VJP, Problem
from dpo.kernels.cuda.exact_launch import launch as exact_launch
from dpo.kernels.cuda.launch import Plan, launch
from dpo.kernels.exact.codes import JACOBIAN as EXACT_JACOBIAN
from dpo.kernels.exact.codes import SECOND
from dpo.kernels.noise import NORMAL
from helpers import ON_GPU, draws, require_numba_cuda

import dpo
from dpo import _device, _shards
from dpo._arrays import as_scores
from dpo._seeds import as_place

SEED = np.array([0x12345678, 0x9ABCDEF0], np.uint32)

NOISES = ("normal", "gumbel", "logistic")
ORACLES = (dpo.Argmax(), dpo.TopK(2), dpo.Ranks(), dpo.ShortestPath(neighbors=8))
REDUCTIONS = {"loo": 24, "none": 24, "antithetic": 24, "qmc": 16}


def _real_cupy():
    cupy = pytest.importorskip("cupy")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        pytest.skip("no GPU")
    return cupy


@pytest.fixture(params=[pytest.param("simulator", marks=pytest.mark.simulator), "GPU"])
def cupy(request, monkeypatch):
    """CuPy, or ``sys.modules`` as if it were there and kernels that run on the simulator."""
    if request.param == "GPU":
        return _real_cupy()
    device = simt.cupy.Device()
    simt.cupy.stand_in(device, monkeypatch)
    return device.xp


def scores(oracle, rows=2, dtype=np.float32):
    shape = (rows, 3, 4) if isinstance(oracle, dpo.ShortestPath) else (rows, 6)
    rng = np.random.default_rng(0)
    theta = rng.uniform(0.5, 2.0, shape) if len(shape) == 3 else rng.normal(size=shape)
    return theta.astype(dtype), rng.normal(size=shape).astype(dtype)


def equal(actual, expected, exactly=False):
    assert not isinstance(actual, np.ndarray)
    actual = actual.get()
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    scale = 0 if exactly else 1e-5 if expected.dtype == np.float32 else 1e-12
    limit = scale * max(1.0, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=limit)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("oracle", ORACLES, ids=str)
def test_every_method_gives_the_cpus_results(cupy, oracle, noise):
    theta, v = scores(oracle)
    on_device, v_on_device = cupy.asarray(theta), cupy.asarray(v)
    for reduction, num_samples in REDUCTIONS.items():
        layer = dpo.Perturbed(oracle, noise, num_samples=num_samples, variance_reduction=reduction)
        equal(layer(on_device, seed=1), layer(theta, seed=1), exactly=True)
        equal(layer.max(on_device, seed=1), np.asarray(layer.max(theta, seed=1)))
        for method in ("vjp", "jvp", "vjp_epsilon"):
            expected = getattr(layer, method)(theta, v, seed=1)
            equal(getattr(layer, method)(on_device, v_on_device, seed=1), np.asarray(expected))
        equal(layer.jacobian(on_device, seed=1), layer.jacobian(theta, seed=1))
        equal(layer.samples(on_device, seed=1), layer.samples(theta, seed=1), exactly=True)
        target = dpo.Perturbed(oracle, epsilon=1e-6, num_samples=1)(theta, seed=0)
        loss = layer.loss(on_device, cupy.asarray(target), seed=1)
        equal(loss, np.asarray(layer.loss(theta, target, seed=1)))


VIEWS = {"__getitem__", "reshape", "broadcast_to", "ascontiguousarray", "zeros", "full"}
"""Functions of CuPy's that launch nothing, clear memory, or make what is kept for later calls."""


@pytest.mark.simulator
def test_a_call_launches_kernels_of_ours_only(monkeypatch):
    """CuPy's own would take longer, each, than those of a small problem."""
    device = simt.cupy.Device()
    simt.cupy.stand_in(device, monkeypatch)
    theta, v = (device.xp.asarray(x) for x in scores(dpo.Argmax()))
    layer, launches = dpo.Perturbed(num_samples=300), device.simulator.launches
    value = ["find_outside", "prepare", "decide", "divide", "divide"]
    rest = ["find_outside", "weigh", "vjp", "add_strands", "apply_slope", "divide"]
    each = dpo.Perturbed(epsilon=device.xp.asarray(np.full(2, 0.5)), num_samples=300)
    for call, expected in [
        (lambda: layer(theta, seed=1), value),
        (lambda: each(theta, seed=1), [*value[:1], *value]),
        (lambda: layer.vjp(theta, v, seed=1), [*value[:1], *rest[:1], *value[1:-1], *rest[1:]]),
    ]:
        launches.clear(), simt.cupy.CALLS.clear()
        call()
        assert [kernel.partition("<")[0] for kernel in launches] == expected
        assert set(simt.cupy.CALLS) <= VIEWS


@pytest.mark.parametrize("oracle", ORACLES, ids=str)
def test_estimates_carry_the_same_errors(cupy, oracle):
    theta, v = scores(oracle)
    for reduction, of in it.product(REDUCTIONS, ("value", "max", "vjp", "jvp", "jacobian")):
        layer = dpo.Perturbed(
            oracle, num_samples=REDUCTIONS[reduction], variance_reduction=reduction
        )
        direction = v if of in ("vjp", "jvp") else None
        moved = None if direction is None else cupy.asarray(direction)
        expected = layer.estimate(theta, of=of, direction=direction, seed=2)
        actual = layer.estimate(cupy.asarray(theta), of=of, direction=moved, seed=2)
        equal(actual.mean, np.asarray(expected.mean))
        equal(actual.standard_error, np.asarray(expected.standard_error))
        assert actual.num_samples == expected.num_samples


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("oracle", ORACLES[:3], ids=str)
def test_exact_expectations(cupy, oracle, noise):
    theta, v = scores(oracle)
    on_device, v_on_device = cupy.asarray(theta), cupy.asarray(v)
    layer = dpo.Perturbed(oracle, noise, method="exact")
    for of in ("value", "max", "jacobian"):
        actual, expected = (layer.estimate(x, of=of) for x in (on_device, theta))
        equal(actual.mean, np.asarray(expected.mean))
        assert (actual.standard_error.get() < 1e-4).all() and actual.num_samples == 0
    for method in ("vjp", "jvp", "vjp_epsilon"):
        expected = np.asarray(getattr(layer, method)(theta, v))
        equal(getattr(layer, method)(on_device, v_on_device), expected)
    second = layer.second_order_product(on_device, v_on_device, on_device)
    equal(second, layer.second_order_product(theta, v, theta))
    target = layer(theta[::-1].copy())
    equal(layer.loss(on_device, cupy.asarray(target)), np.asarray(layer.loss(theta, target)))


def test_an_oracle_of_ones_own(cupy):
    if hasattr(cupy, "get_default_memory_pool"):
        require_numba_cuda()
    theta, v = scores(dpo.Argmax())
    layer = dpo.Perturbed(user_oracles.fitting_interval(6, 2), num_samples=24)
    on_device = cupy.asarray(theta)
    equal(layer(on_device, seed=3), layer(theta, seed=3), exactly=True)
    equal(layer.vjp(on_device, cupy.asarray(v), seed=3), layer.vjp(theta, v, seed=3))
    failing, errors = dpo.Perturbed(user_oracles.refuses_the_third, num_samples=24), []
    for x in (theta, on_device):
        with pytest.raises(RuntimeError, match="third is best") as caught:
            failing(x, seed=3)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


def test_temperatures_multiplicative_noise_and_doubles(cupy):
    theta, v = scores(dpo.Argmax(), dtype=np.float64)
    for epsilon in (np.array([0.5, 2.0]), np.full((2, 6), 0.7), np.float64(0.4)):
        for perturbation in ("additive", "multiplicative"):
            layer = dpo.Perturbed(epsilon=epsilon, num_samples=20, perturbation=perturbation)
            moved = cupy.asarray(theta), cupy.asarray(v)
            equal(layer(moved[0], seed=3), layer(theta, seed=3), exactly=True)
            equal(layer.vjp(*moved, seed=3), layer.vjp(theta, v, seed=3))
            equal(layer.vjp_epsilon(*moved, seed=3), layer.vjp_epsilon(theta, v, seed=3))


@pytest.mark.parametrize("perturbation", ["additive", "multiplicative"])
def test_gradients_of_costs(cupy, perturbation):
    """Costs take noise with its sign turned, unless it multiplies them."""
    theta, v = scores(dpo.ShortestPath())
    layer = dpo.Perturbed(dpo.ShortestPath(), num_samples=20, perturbation=perturbation)
    moved = cupy.asarray(theta), cupy.asarray(v)
    equal(layer.vjp(*moved, seed=3), layer.vjp(theta, v, seed=3))
    ours, theirs = (
        layer.estimate(x, of="vjp", direction=u, seed=3) for x, u in (moved, (theta, v))
    )
    equal(ours.mean, theirs.mean)
    equal(ours.standard_error, theirs.standard_error)


def test_adaptive_sampling(cupy):
    theta, v = scores(dpo.Argmax())
    layer = dpo.Perturbed(num_samples=dpo.Adaptive(0.05, max_samples=512))
    moved = cupy.asarray(theta), cupy.asarray(v)
    expected, actual = layer.estimate(theta, seed=4), layer.estimate(moved[0], seed=4)
    np.testing.assert_array_equal(actual.num_samples, expected.num_samples)
    equal(actual.mean, expected.mean, exactly=True)
    equal(layer.vjp(*moved, seed=4), layer.vjp(theta, v, seed=4))


@pytest.mark.parametrize("precision", ["portable", "fast"])
@pytest.mark.parametrize("oracle, noise", [(ORACLES[0], "gumbel"), (ORACLES[1], "normal")])
def test_shards_of_the_coordinates_decide_what_the_whole_does(cupy, oracle, noise, precision):
    """By hand what collectives of ``torch.distributed`` do between processes."""
    layer = dpo.Perturbed(oracle, noise, num_samples=40, precision=precision)
    theta = cupy.asarray(np.random.default_rng(0).normal(size=(3, 22)).astype(np.float32))
    v = cupy.asarray(np.random.default_rng(1).normal(size=(3, 22)).astype(np.float32))
    parts = slice(0, 8), slice(8, 20), slice(20, 22)
    shards = [
        _shards.Shard.of(layer, as_scores(theta[:, part], "theta"), as_place(7, 0, 0), part.start)
        for part in parts
    ]
    largest = None
    if shards[0].is_race:
        largest = np.stack([shard.largest() for shard in shards]).max(axis=0)
    lists = [s.best(largest) for s in shards]
    best = (np.concatenate([of[k] for of in lists], -1) for k in (0, 1))
    _, winners = _shards.kernels_for(theta).merged(*best, shards[0].k)
    mean = np.concatenate([s.mean(winners) for s in shards], -1)
    equal(mean, layer(theta, seed=7).get(), exactly=True)
    own = [s.projections(v[:, part], winners) for s, part in zip(shards, parts, strict=True)]
    product = np.concatenate([s.vjp(np.stack(own).sum(axis=0)) for s in shards], -1)
    equal(product.astype(np.float32), layer.vjp(theta, v, seed=7).get())


def test_half_precision_comes_back_as_it_came(cupy):
    theta = scores(dpo.Argmax())[0].astype(np.float16)
    layer = dpo.Perturbed(num_samples=20)
    equal(layer(cupy.asarray(theta), seed=5), layer(theta, seed=5), exactly=True)


def test_the_fast_stream_is_for_the_device(cupy):
    theta = scores(dpo.Argmax())[0]
    layer = dpo.Perturbed(num_samples=400, precision="fast")
    value = layer(cupy.asarray(theta), seed=6)
    np.testing.assert_allclose(value.get().sum(1), 1, rtol=1e-6)
    exact = dpo.Perturbed(method="exact")(theta)
    assert np.abs(value.get() - exact).max() < 0.15
    with pytest.raises(ValueError, match="precision='fast' is for arrays on a GPU"):
        layer(theta, seed=6)


def test_bad_input_gets_the_cpus_errors(cupy):
    layer = dpo.Perturbed(num_samples=4)
    bad = np.zeros((2, 3), np.float32)
    bad[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"contains NaN, first at index \(1, 2\)"):
        layer(cupy.asarray(bad), seed=0)
    with pytest.raises(TypeError, match="theta must be float16"):
        layer(cupy.asarray(np.zeros((2, 3), np.int32)), seed=0)
    with pytest.raises(TypeError, match="v is a numpy array but theta is a cupy array"):
        layer.vjp(cupy.asarray(np.zeros((2, 3))), np.zeros((2, 3)), seed=0)
    with pytest.raises(ValueError, match="y_true must be one-hot"):
        layer.loss(cupy.asarray(np.zeros((2, 3))), cupy.asarray(np.ones((2, 3))), seed=0)
    assert layer(cupy.asarray(np.empty((0, 3))), seed=0).shape == (0, 3)


def test_without_checks_nothing_waits_for_the_device(cupy):
    """And what is right stays right."""
    theta, v = scores(dpo.Argmax())
    layer, bad = dpo.Perturbed(num_samples=40), np.full((2, 3), np.nan, np.float32)
    assert dpo.get_device_checks()
    with pytest.raises(TypeError, match="enabled must be True or False, got 0"):
        dpo.set_device_checks(0)
    moved = cupy.asarray(theta), cupy.asarray(v)
    dpo.set_device_checks(False)
    try:
        simt.cupy.COPIES.clear()
        value, product = layer(moved[0], seed=0), layer.vjp(*moved, seed=0)
        assert "from the device" not in simt.cupy.COPIES
        assert layer(cupy.asarray(bad), seed=0).shape == (2, 3)
        with pytest.raises(ValueError, match="NaN"):
            layer(bad, seed=0)
    finally:
        dpo.set_device_checks(True)
    equal(value, layer(theta, seed=0), exactly=True)
    equal(product, layer.vjp(theta, v, seed=0))


@contextmanager
def room_for(cupy, arrays):
    """In which the device has memory for so many more small arrays only."""
    if hasattr(cupy, "get_default_memory_pool"):
        pool = cupy.get_default_memory_pool()
        gc.collect()  # what an error before has kept
        pool.free_all_blocks()
        pool.set_limit(size=pool.total_bytes() + 512 * arrays)
        try:
            yield
        finally:
            pool.set_limit(size=0)
        return
    room = it.count(arrays, -1)

    def counted(make):
        def allocate(*args, **parameters):
            if next(room) <= 0:
                raise MemoryError("out of memory")
            return make(*args, **parameters)

        return allocate

    with pytest.MonkeyPatch.context() as patch:
        for name in ("empty", "zeros"):
            patch.setattr(cupy, name, counted(getattr(cupy, name)), raising=False)
        yield


@pytest.mark.parametrize("oracle", ORACLES, ids=str)
def test_a_call_that_fails_does_not_fail_the_next(cupy, oracle):
    """Wherever memory runs out."""
    theta, v = map(cupy.asarray, scores(oracle))
    layer = dpo.Perturbed(oracle, num_samples=24)
    expected = layer.vjp(theta, v, seed=1).get()
    for left in range(3):
        with pytest.raises(MemoryError), room_for(cupy, left):
            layer.vjp(theta, v, seed=1)
    np.testing.assert_array_equal(layer.vjp(theta, v, seed=1).get(), expected)


LAUNCHES = {
    "argmax": (Problem(), VJP),
    "top-k": (Problem("topk", (2,)), JVP),
    "ranks": (Problem("ranks"), JACOBIAN),
}


@pytest.mark.parametrize("name", LAUNCHES)
@pytest.mark.parametrize(
    "noise, design", [("normal", INDEPENDENT), ("normal", SOBOL), ("student", SOBOL)]
)
def test_a_second_launch_copies_nothing_and_waits_for_nothing(name, noise, design):
    """So that a graph can capture it; the seed is on the device."""
    device = simt.cupy.Device()
    theta, v = map(device.xp.asarray, scores(dpo.Argmax()))
    epsilon, seed = device.xp.full((2, 1), 0.5, np.float32), device.xp.asarray(SEED)
    drawn = draws(noise, 16, 6, design)
    problem, operation = LAUNCHES[name]
    given = problem, theta, epsilon, drawn._replace(seed=seed), operation
    first = launch(*given, direction=v, mean=v, device=device)
    simt.cupy.COPIES.clear()
    second = launch(*given, direction=v, mean=v, device=device)
    assert not simt.cupy.COPIES
    np.testing.assert_array_equal(second.totals.get(), first.totals.get())
    given = problem, theta, epsilon, drawn, operation
    from_host = launch(*given, direction=v, mean=v, device=device)
    np.testing.assert_array_equal(from_host.totals.get(), first.totals.get())


@pytest.mark.parametrize("name", LAUNCHES)
def test_a_second_exact_launch_copies_nothing_and_waits_for_nothing(name):
    device = simt.cupy.Device()
    theta, v = map(device.xp.asarray, scores(dpo.Argmax()))
    epsilon = device.xp.full((2, 1), 0.5, np.float32)
    given = LAUNCHES[name][0], theta, epsilon, NORMAL, SECOND
    exact_launch(*given, v=v, w=theta, device=device)
    simt.cupy.COPIES.clear()
    exact_launch(*given, v=v, w=theta, device=device)
    assert not simt.cupy.COPIES


def path_launch(device, costs):
    """Paths from corner to corner of 3 x 4 cells, all that they need on the device."""
    xp = device.xp
    bits = int(np.float64(0).view(np.int64))
    places = xp.asarray(np.array([[0, 11]] * len(costs)))
    problem = Problem("grid_path", (3, 4, 8, bits), places, minimises=True)
    drawn = draws("normal", 16)._replace(seed=xp.asarray(SEED))
    epsilon = xp.full((len(costs), 1), 0.1, np.float32)
    return problem, xp.asarray(costs.reshape(len(costs), -1)), epsilon, drawn


def user_launch(device, scores_, oracle=user_oracles.argmax):
    """A user's oracle, likewise."""
    if ON_GPU:
        require_numba_cuda()
    xp = device.xp
    problem = oracle.problem(scores_.shape)
    bound = problem.solver._replace(shared=xp.asarray(problem.solver.shared))
    drawn = draws("normal", 16)._replace(seed=xp.asarray(SEED))
    epsilon = xp.full((len(scores_), 1), 0.5, np.float32)
    return problem._replace(solver=bound), xp.asarray(scores_), epsilon, drawn


@pytest.mark.parametrize("operation", [VJP, JVP, JACOBIAN])
@pytest.mark.parametrize("name", ["paths", "paths from trees", "a user's oracle"])
def test_what_may_fail_can_be_captured_with_an_array_to_note_it_in(name, operation):
    device = simt.cupy.Device()
    if name.startswith("paths"):
        given = path_launch(device, np.random.default_rng(0).uniform(1, 2, (2, 12)).astype("f4"))
    else:
        given = user_launch(device, scores(dpo.Argmax())[0])
    plan = Plan(64, 1, warm_start=name == "paths from trees")
    direction = dict(direction=given[1], mean=given[1], plan=plan)
    expected = launch(*given, operation, **direction, device=device)
    failed = device.xp.zeros(1, np.int32)
    device.capturing = True
    simt.cupy.COPIES.clear()
    ours = launch(*given, operation, **direction, device=device, failed=failed)
    assert not simt.cupy.COPIES
    np.testing.assert_array_equal(ours.counts.get(), expected.counts.get())
    np.testing.assert_array_equal(ours.totals.get(), expected.totals.get())
    assert failed.get() == 0
    with pytest.raises(RuntimeError, match=r"being captured.*pass failed="):
        launch(*given, operation, **direction, device=device)


def test_what_failed_is_noted_and_stays_noted():
    device = simt.cupy.Device()
    failed = device.xp.zeros(1, np.int32)
    costs = np.ones((2, 3, 4), np.float32)
    walled = costs.copy()
    walled[1, 1] = np.inf

    @dpo.oracle
    def fails(scores, solution):
        solution[0] = 1
        if np.argmax(scores) == 2:
            raise ZeroDivisionError("third is best")

    launch(*path_launch(device, costs), device=device, failed=failed)
    assert failed.get() == 0
    launch(*path_launch(device, walled), device=device, failed=failed)
    assert failed.get() == 1
    launch(*path_launch(device, costs), device=device, failed=failed)
    assert failed.get() == 1
    failed = device.xp.zeros(1, np.int32)
    given = user_launch(device, np.zeros((2, 6), np.float32), fails)
    launch(*given, device=device, failed=failed)
    assert failed.get() == 1
    with pytest.raises(RuntimeError, match=r"raised ZeroDiv.* on row \d, sample"):
        launch(*given, device=device)


@pytest.mark.parametrize("name", LAUNCHES)
@pytest.mark.parametrize("operation", [SECOND, EXACT_JACOBIAN])
def test_exact_launches_with_a_temperature_each_can_be_captured(name, operation):
    device = simt.cupy.Device()
    theta, v = map(device.xp.asarray, scores(dpo.Argmax()))
    epsilon = device.xp.asarray(np.geomspace(0.3, 2, 12).reshape(2, 6).astype(np.float32))
    given = LAUNCHES[name][0], theta, epsilon, NORMAL, operation
    expected = exact_launch(*given, v=v, w=theta, device=device)
    failed = device.xp.zeros(1, np.int32)
    device.capturing = True
    simt.cupy.COPIES.clear()
    ours = exact_launch(*given, v=v, w=theta, device=device, failed=failed)
    assert not simt.cupy.COPIES
    np.testing.assert_array_equal(ours.get(), expected.get())
    assert failed.get() == 0
    with pytest.raises(RuntimeError, match=r"being captured.*pass failed="):
        exact_launch(*given, v=v, w=theta, device=device)
    far_apart = device.xp.asarray(np.geomspace([1, 1e-5], [1, 1e3], 6, axis=1).astype(np.float32))
    exact_launch(*given[:2], far_apart, *given[3:], v=v, w=theta, device=device, failed=failed)
    assert failed.get() == 1


def test_no_path_is_an_error_and_the_next_call_is_well(cupy):
    costs = np.ones((2, 3, 3), np.float32)
    walled = costs.copy()
    walled[1, 1] = np.inf
    layer = dpo.Perturbed(dpo.ShortestPath(), num_samples=8)
    with pytest.raises(ValueError, match="without a path of finite cost"):
        layer(cupy.asarray(walled), seed=0)
    equal(layer(cupy.asarray(costs), seed=0), layer(costs, seed=0), exactly=True)


def test_without_cupy_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r"perturbed-optimizers\[cuda13\].*cuda12"):
        _device.require_cupy("theta", "cuda:0")


class _OnGpu:
    """An array that says it is on a GPU, by DLPack."""

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, **parameters):
        return np.zeros((2, 3)).__dlpack__()


def test_any_array_by_dlpack(cupy, monkeypatch):
    monkeypatch.setattr(cupy, "from_dlpack", lambda x: cupy.asarray(np.zeros((2, 3))))
    result = dpo.Perturbed(num_samples=10)(_OnGpu(), seed=0)
    assert result.shape == (2, 3)
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match="theta is on a GPU"):
        dpo.Perturbed(num_samples=10)(_OnGpu(), seed=0)
