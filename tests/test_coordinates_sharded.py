"""Holders of some of the coordinates each reproduce what one that holds all of them does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simt.cupy
from dpo.kernels.codes import NO_COORDINATE
from dpo.kernels.cpu import shard as cpu
from dpo.kernels.cuda import shard as cuda
from helpers import adversarial_scores

import dpo
from dpo import _arrays, _shards

ROOT = Path(__file__).parent.parent
SEED, WORLD, D = 7, 2, 23
BORDER = 12
"""Coordinates of the first of two processes: the second has a number that four does not divide."""
ORACLES = {"argmax": dpo.Argmax(), "topk": dpo.TopK(3), "most": dpo.TopK(20)}
SAMPLES = (5, "loo"), (1, "loo"), (64, "loo"), (300, "loo"), (300, "none")


def problem(dtype):
    """Ties on both sides of the border, masks and shards that are masked wholly; directions."""
    theta = adversarial_scores(13, D, dtype)
    theta[9, :BORDER] = theta[10, BORDER:] = -np.inf
    theta[11, :BORDER] = -1e4  # no weight of a race is left of it
    theta[12] = 1e9
    return theta, np.random.default_rng(1).standard_normal(theta.shape).astype(dtype)


def cases():
    for name, oracle in ORACLES.items():
        for noise in ("normal", "gumbel", "logistic"):
            for dtype in ("float32", "float64"):
                for samples, centring in SAMPLES:
                    layer = dpo.Perturbed(
                        oracle, noise, num_samples=samples, variance_reduction=centring
                    )
                    yield (name, noise, dtype, samples, centring), layer


def part_of(x, rank):
    return x[..., :BORDER] if rank == 0 else x[..., BORDER:]


# -------------------------------------------------------------------------------- two processes


def results_of(layer, dtype, rank):
    """Value, gradient, maximum, its gradient, and slopes of both in the temperature."""
    import torch

    from dpo.distributed import coordinates_sharded

    theta, v = (torch.from_numpy(part_of(x, rank).copy()) for x in problem(dtype))
    theta.requires_grad_()
    y = coordinates_sharded(layer, theta, seed=SEED)
    (slope,) = torch.autograd.grad(y, theta, v)
    most = coordinates_sharded(layer, theta, seed=SEED, of="max")
    (of_most,) = torch.autograd.grad(most[:7].sum(), theta)
    learned = torch.full((len(theta), 1), 0.5, dtype=theta.dtype, requires_grad=True)
    warm = layer._at(learned)
    slopes = []
    for of, upstream in ("value", v), ("max", v[:, 0] * 0 + 2):
        result = coordinates_sharded(warm, theta.detach(), seed=SEED, of=of)
        slopes += torch.autograd.grad(result, learned, upstream)
    every = y, slope, most, of_most, *slopes
    return [x.detach().numpy() for x in every]


ON_GPU = {
    "argmax": (dpo.Argmax(), "normal", "float64", 64),
    "race": (dpo.Argmax(), "gumbel", "float32", 5),
    "topk": (dpo.TopK(3), "normal", "float32", 9),
    "most": (dpo.TopK(20), "normal", "float32", 2),
}
"""Cases that are decided on a simulated GPU as well."""


def on_simulated_gpu(rank, results):
    """The same with arrays of a stand-in for CuPy, which never become NumPy's by themselves."""
    with pytest.MonkeyPatch.context() as patch:
        device = simt.cupy.Device()
        simt.cupy.stand_in(device, patch)
        host = _arrays._VIEWS["torch"]

        def view(x, name):
            array, restore = host(x, name)
            return device.xp.asarray(array), lambda out: restore(out.get())

        patch.setitem(_arrays._VIEWS, "torch", view)
        patch.setattr("dpo._torch.view_on_device", lambda x: device.xp.asarray(x.numpy()))
        for name, (oracle, noise, dtype, samples) in ON_GPU.items():
            layer = dpo.Perturbed(oracle, noise, num_samples=samples)
            results[rank, "on GPU", name] = results_of(layer, dtype, rank)
            assert device.simulator.launches
            device.simulator.launches.clear()
    for name, (oracle, noise, dtype, samples) in ON_GPU.items():
        layer = dpo.Perturbed(oracle, noise, num_samples=samples)
        results[rank, "on CPU", name] = results_of(layer, dtype, rank)


def everything(rank, results):
    import torch

    from dpo.distributed import coordinates_sharded

    for case, layer in cases():
        results[rank, case] = results_of(layer, case[2], rank)

    layer = dpo.Perturbed(num_samples=10)
    theta = torch.from_numpy(part_of(problem("float32")[0], rank))
    half = theta[4:9].half().reshape(5, 1, -1)
    results[rank, "half"] = coordinates_sharded(layer, half, seed=SEED).numpy()
    later = coordinates_sharded(layer, theta[4:], seed=SEED, row_offset=4)
    results[rank, "later"] = later.numpy()

    def refused(message, layer=layer, theta=theta, kind=ValueError, **parameters):
        given = {"seed": SEED, **parameters}
        with pytest.raises(kind, match=message):
            coordinates_sharded(layer, theta, **given)

    refused("a multiple of 4 .*got \\[10, ", theta=theta[:, :10] if rank == 0 else theta)
    refused("number of rows must be the same", theta=theta[rank:])
    refused("seed must be the same", seed=rank)
    refused("row_offset must be the same", row_offset=rank)
    refused("k = 30 to", layer=dpo.Perturbed(dpo.TopK(30)))
    refused("epsilon must be a number", layer=dpo.Perturbed(epsilon=np.ones((1, theta.shape[1]))))
    with_nan = theta.clone()
    with_nan[3, 2] = torch.nan if rank else 0
    refused("theta contains NaN" if rank else "process 1 of the group", theta=with_nan)
    learned = torch.nn.Parameter(torch.tensor(0.5))
    own = dpo.Perturbed(epsilon=learned if rank else 0.5)
    refused("whether epsilon is learned must be the same", layer=own)
    for other in (
        {"noise": "gumbel"}, {"num_samples": 9}, {"oracle": dpo.TopK(2)},
        {"variance_reduction": "none"}, {"noise": "laplace"},
    ):  # fmt: skip
        refused("the layer .* must be the same", layer=dpo.Perturbed(**(other if rank else {})))
    refused("theta's dtype and of= must be the same", of="max" if rank else "value")
    refused("epsilon must be the same", layer=dpo.Perturbed(epsilon=0.5 + rank))
    refused("of must be", of="jacobian")
    for bad, message in (
        ({"oracle": dpo.Ranks()}, "whose winners can be merged"),
        ({"variance_reduction": "qmc"}, "samples are independent"),
        ({"num_samples": dpo.Adaptive(0.1)}, "samples are independent"),
        ({"method": "exact"}, "method must be 'mc'"),
        ({"perturbation": "multiplicative"}, "must be 'additive'"),
    ):
        refused(message, layer=dpo.Perturbed(**bad))
    theta = theta.clone().requires_grad_()
    for of in ("value", "max"):
        y = coordinates_sharded(layer, theta, seed=SEED, of=of)
        (slope,) = torch.autograd.grad((y**2).sum(), theta, create_graph=True)
        with pytest.raises(RuntimeError, match="differentia"):
            torch.autograd.grad(slope.sum(), theta)


def process(rank, folder):
    import torch

    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", WORLD)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=WORLD)
    results = {}
    everything(rank, results)
    on_simulated_gpu(rank, results)
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    torch = pytest.importorskip("torch")
    if not torch.distributed.is_available():
        pytest.skip("torch is built without torch.distributed")
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(process, (str(folder),), nprocs=WORLD)
    saved = [torch.load(f"{folder}/{rank}.pt", weights_only=False) for rank in range(WORLD)]
    return {key: value for part in saved for key, value in part.items()}


def joined(results, key, k=None):
    parts = [results[rank, key] for rank in range(WORLD)]
    return np.concatenate(parts if k is None else [p[k] for p in parts], -1)


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("noise", ["normal", "gumbel", "logistic"])
def test_two_processes_decide_what_one_does(results, name, noise, dtype):
    torch = pytest.importorskip("torch")
    theta, v = problem(dtype)
    tolerance = (
        {"rtol": 2e-5, "atol": 2e-5} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-13}
    )
    for case, layer in cases():
        if case[:3] != (name, noise, np.dtype(dtype).name):
            continue
        y = layer(theta, seed=SEED)
        np.testing.assert_array_equal(joined(results, case, 0), y)
        product = layer.vjp(theta, v, seed=SEED)
        np.testing.assert_allclose(joined(results, case, 1), product, **tolerance)
        for rank in range(WORLD):
            most = results[rank, case][2]
            assert most.dtype == dtype
            np.testing.assert_allclose(most, layer.max(theta, seed=SEED), rtol=1e-6)
        for of, upstream, by_epsilon in (("value", v, 4), ("max", np.full(13, 2, dtype), 5)):
            learned = torch.full((13, 1), 0.5, dtype=torch.tensor(theta).dtype, requires_grad=True)
            warm, whole = layer._at(learned), torch.from_numpy(theta)
            result = (warm if of == "value" else warm.max)(whole, seed=SEED)
            (expected,) = torch.autograd.grad(result, learned, torch.from_numpy(upstream))
            # Of large scores the one who holds all subtracts what is lost in rounding.
            moderate = (
                np.abs(theta, where=np.isfinite(theta), out=np.zeros(theta.shape)).max(1) < 99
            )
            wanted = expected.numpy()[moderate]
            scale = np.abs(wanted).max()
            for rank in range(WORLD):
                ours = results[rank, case][by_epsilon][moderate]
                np.testing.assert_allclose(ours / scale, wanted / scale, **tolerance)
        first = np.arange(len(theta))[:, None] < 7
        np.testing.assert_array_equal(joined(results, case, 3), np.where(first, y, 0))


@pytest.mark.simulator
@pytest.mark.parametrize("name", ON_GPU)
def test_shards_on_a_gpu_give_the_cpus_results(results, name):
    tolerance = 2e-5 if ON_GPU[name][2] == "float32" else 1e-12
    for rank in range(WORLD):
        ours, theirs = (results[rank, place, name] for place in ("on GPU", "on CPU"))
        for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert a.dtype == b.dtype
            if k in (0, 3):  # means of decisions
                np.testing.assert_array_equal(a, b)
            scale = max(1, np.abs(b, where=np.isfinite(b), out=np.zeros_like(b)).max())
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale)


def test_narrow_scores_and_rows_shared_out_too(results):
    layer, theta = dpo.Perturbed(num_samples=10), problem("float32")[0]
    half = theta[4:9].astype(np.float16)[:, None]
    assert joined(results, "half").dtype == np.float16
    np.testing.assert_array_equal(joined(results, "half"), layer(half, seed=SEED))
    np.testing.assert_array_equal(joined(results, "later"), layer(theta, seed=SEED)[4:])


# ---------------------------------------------------------------------------------- four devices

ON_FOUR_DEVICES = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
import jax, numpy as np, dpo
from jax import numpy as jnp
from jax.sharding import PartitionSpec as P
from dpo.distributed import coordinates_sharded
from helpers import adversarial_scores

words = np.array([9, 3], np.uint32)
mesh = jax.sharding.Mesh(np.array(jax.devices()), "i")
grid = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 2), ("rows", "i"))
equal, close = np.testing.assert_array_equal, np.testing.assert_allclose


def over(f, mesh, *specs, out, **parameters):
    return jax.jit(jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=out, **parameters))


def check(layer, dtype):
    theta = adversarial_scores(10, 32, dtype)
    theta[9, 8:16] = -np.inf
    v = np.random.default_rng(0).standard_normal(theta.shape).astype(dtype)
    x, u, key = jnp.asarray(theta), jnp.asarray(v), jnp.asarray(words)
    expected = layer(theta, seed=words)
    tolerance = dict(rtol=3e-5, atol=3e-5) if dtype == np.float32 else dict(rtol=1e-12, atol=1e-13)
    whole = P(None, "i")
    value = over(
        lambda x, key: coordinates_sharded(layer, x, seed=key, group="i"),
        mesh, whole, P(), out=whole,
    )
    y = value(x, key)
    assert y.dtype == dtype
    equal(y, expected)
    slope = jax.grad(lambda x: (value(x, key) * u).sum())(x)
    close(slope, layer.vjp(theta, v, seed=words), **tolerance)
    most = over(
        lambda x, key: coordinates_sharded(layer, x, seed=key, group="i", of="max"),
        mesh, whole, P(), out=P(),
    )
    finite = np.isfinite(layer.max(theta, seed=words))
    total, slope = jax.value_and_grad(lambda x: jnp.where(finite, most(x, key), 0).sum())(x)
    close(most(x, key), layer.max(theta, seed=words), rtol=1e-6)
    equal(slope, np.where(finite[:, None], expected, 0))

    def warm(epsilon, of, out):
        f = lambda x, e, key: coordinates_sharded(layer._at(e), x, seed=key, group="i", of=of)
        return over(f, mesh, whole, P(), P(), out=out)(x, epsilon, key)

    def alone(epsilon, of):
        warm = layer._at(epsilon)
        return warm(x, seed=key) if of == "value" else warm.max(x, seed=key)

    for of, out, w in ("value", whole, u), ("max", P(), jnp.where(finite, 2.0, 0).astype(dtype)):
        weighted = lambda y: jnp.where(w == 0, 0, y * w).sum()
        epsilon = jnp.linspace(0.4, 0.8, 10, dtype=dtype)[:, None]
        slope = jax.grad(lambda e: weighted(warm(e, of, out)))(epsilon)
        wanted = jax.grad(lambda e: weighted(alone(e, of)))(epsilon)
        scale = np.abs(wanted).max()
        close(slope / scale, wanted / scale, **tolerance)

    both = over(
        lambda x, key: coordinates_sharded(
            layer, x, seed=key, group="i", row_offset=5 * jax.lax.axis_index("rows")
        ),
        grid, P("rows", "i"), P(), out=P("rows", "i"),
    )
    equal(both(x, key), expected)


def check_temperatures_of_rows():  # shared out as theta's rows are not
    layer, x = dpo.Perturbed(num_samples=40), jnp.asarray(THETA[:2])
    epsilon = jnp.asarray([[0.4], [0.7]])
    for of, out in ("value", P("rows", "i")), ("max", P("rows")):
        f = lambda x, e: coordinates_sharded(layer._at(e), x, seed=words, group="i", of=of)
        g = over(f, grid, P(None, "i"), P("rows"), out=out)
        slopes = jax.grad(lambda x, e: (g(x, e) ** 2).sum(), (0, 1))(x, epsilon)

        def alone(x, e):
            rows = [(layer._at(t), x) for t in e]  # all rows, at the temperature of each
            return jnp.concatenate([w(x, seed=words) if of == "value" else w.max(x, seed=words)
                                    for w, x in rows])
        wanted = jax.grad(lambda x, e: (alone(x, e) ** 2).sum(), (0, 1))(x, epsilon)
        for ours, theirs in zip(slopes, wanted):
            close(ours, theirs, rtol=1e-9, atol=1e-12)


def check_unchecked(of, out):  # without types that tell what varies, derivatives are the same
    layer, x = dpo.Perturbed(noise="gumbel", num_samples=40), jnp.asarray(THETA)
    f = lambda x, e: coordinates_sharded(layer._at(e), x, seed=words, group="i", of=of)
    results = []
    for vma in (True, False):
        g = over(f, mesh, P(None, "i"), P(), out=out, check_vma=vma)
        both = jax.value_and_grad(lambda x, e: (g(x, e) ** 2).sum(), (0, 1))
        results.append(both(x, 0.5))
    equal(results[0][0], results[1][0])
    equal(results[0][1][0], results[1][1][0])
    close(results[0][1][1], results[1][1][1], rtol=1e-12)


def refused(message, layer, x, spec=P(None, "i")):
    try:
        f = lambda x: coordinates_sharded(layer, x, seed=words, group="i")
        jax.block_until_ready(over(f, mesh, spec, out=P(None, "i"))(x))
    except Exception as error:
        assert message in str(error), error
    else:
        raise AssertionError(message)


ORACLES = dpo.Argmax(), dpo.TopK(3), dpo.TopK(10)
for dtype in (np.float32, np.float64):
    jax.config.update("jax_enable_x64", dtype == np.float64)
    for oracle in ORACLES:
        for noise in ("normal", "gumbel", "logistic") if dtype == np.float32 else ("gumbel",):
            check(dpo.Perturbed(oracle, noise, num_samples=40), dtype)
THETA = np.random.default_rng(0).standard_normal((3, 32))
check_temperatures_of_rows()
check_unchecked("value", P(None, "i"))
check_unchecked("max", P())
x = jnp.zeros((2, 32))
refused("share out its last axis", dpo.Perturbed(), x, P())
refused("a multiple of 4 coordinates on every device", dpo.Perturbed(), x[:, :24])
refused("whose winners can be merged", dpo.Perturbed(dpo.Ranks()), x)
refused("k = 33 to", dpo.Perturbed(dpo.TopK(33)), x)
refused("epsilon must be a number", dpo.Perturbed(epsilon=jnp.ones((2, 8))), x)
refused("theta contains NaN", dpo.Perturbed(), x.at[1, 20].set(jnp.nan))
try:
    coordinates_sharded(dpo.Perturbed(), x, seed=words, group="i")
except ValueError as error:
    assert "inside jax.shard_map" in str(error)
print("equal")
"""


# Programs for the CPU are lowered as for GPUs: callbacks get buffers as a stand-in's arrays.
ON_FOUR_GPUS = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
import threading
from contextlib import contextmanager
import jax, numpy as np, dpo, pytest, simt.cupy
from jax import numpy as jnp
from jax.interpreters import mlir
from jax.sharding import PartitionSpec as P
from dpo import _host_jax
from dpo.distributed import coordinates_sharded
from helpers import adversarial_scores

device, one_at_a_time = simt.cupy.Device(), threading.Lock()

@contextmanager
def launching(index, stream):
    with one_at_a_time:  # the simulator is one machine
        yield

simt.cupy.stand_in_for_programs(device, pytest.MonkeyPatch(), launching)
mlir.register_lowering(_host_jax.host_p, _host_jax._lowered_for_gpu, platform="cpu")

mesh = jax.sharding.Mesh(np.array(jax.devices()), "i")
whole, words = P(None, "i"), np.array([9, 3], np.uint32)
theta = adversarial_scores(5, 32, np.float32)
theta[3] /= 1e8  # of huge scores slopes in epsilon are rounded differently
v = np.random.default_rng(0).standard_normal(theta.shape).astype(np.float32)
for oracle, noise in ((dpo.Argmax(), "gumbel"), (dpo.TopK(3), "normal"), (dpo.TopK(10), "normal")):
    layer = dpo.Perturbed(oracle, noise, num_samples=9)

    def sharded(of, out):
        f = lambda x, e, key: coordinates_sharded(layer._at(e), x, seed=key, group="i", of=of)
        return jax.jit(jax.shard_map(f, mesh=mesh, in_specs=(whole, P(), P()), out_specs=out))

    y, most = sharded("value", whole), sharded("max", P())
    device.simulator.launches.clear()
    epsilon = jnp.full((5, 1), 0.5, np.float32)
    np.testing.assert_array_equal(y(theta, epsilon, words), layer._at(0.5)(theta, seed=words))
    assert device.simulator.launches
    expected = layer._at(0.5).max(theta, seed=words)
    np.testing.assert_allclose(most(theta, epsilon, words), expected, rtol=1e-5)
    finite = np.isfinite(expected)
    for f, w in (y, v), (most, finite):
        of = lambda x, e: jnp.where(w == 0, 0, f(x, e, words) * w).sum()
        ours = jax.grad(of, (0, 1))(jnp.asarray(theta), epsilon)
        g = lambda x, e: (layer._at(e) if f is y else layer._at(e).max)(x, seed=words)
        alone = lambda x, e: jnp.where(w == 0, 0, g(x, e) * w).sum()
        theirs = jax.grad(alone, (0, 1))(jnp.asarray(theta), epsilon)
        for a, b in zip(ours, theirs):
            np.testing.assert_allclose(a, b, rtol=3e-5, atol=3e-5 * np.abs(b).max())
print("equal")
"""


@pytest.mark.parametrize(
    "script", [ON_FOUR_DEVICES, pytest.param(ON_FOUR_GPUS, marks=pytest.mark.simulator)],
    ids=["CPU", "GPU"],
)  # fmt: skip
def test_four_devices_decide_what_one_does(script):
    pytest.importorskip("jax")
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=600,
        cwd=ROOT, env=environment, check=False,
    )  # fmt: skip
    assert done.stdout == "equal\n", done.stderr[-3000:]


# --------------------------------------------------------------------------------------- merging


def on_simulator(values, numbers, k):
    return cuda.merged(values, numbers, k, device=simt.Simulator())


def test_packed_words_are_in_the_order_of_decisions():
    values = np.array([-np.inf, -3e38, -1e-40, 0.0, 1e-40, 2.0, np.inf], np.float32)
    numbers = np.array([0, 1, 2**31, 2**32 - 5])
    grid = [x.ravel() for x in np.meshgrid(values, numbers[::-1], indexing="ij")]
    words = _shards.packed(*grid)
    assert (np.diff(words) > 0).all()  # larger values, and lower numbers, are larger
    for given, back in zip(grid, _shards.unpacked(words), strict=True):
        np.testing.assert_array_equal(given, back)


@pytest.mark.parametrize("merged", [cpu.merged, on_simulator], ids=["CPU", "GPU"])
def test_the_best_of_joined_lists(merged):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 4, (50, 3, 12)).astype(np.float32)
    values[values == 0] = -np.inf
    numbers = np.broadcast_to(np.arange(12) * 5, values.shape).copy()
    numbers[..., 3:5] = NO_COORDINATE
    values[..., 3:5] = -np.inf
    best, where = merged(values, numbers, 7)
    order = np.lexsort((numbers, -values))[..., :7]
    expected = np.sort(np.take_along_axis(numbers, order, -1), -1)
    np.testing.assert_array_equal(where, expected)
    at = np.take_along_axis(values, np.sort(order, -1), -1)
    np.testing.assert_array_equal(best, at)


def test_frameworks_are_not_imported_before_they_are_used():
    code = "import sys, dpo.distributed; print({'torch', 'jax'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout == "set()\n"
