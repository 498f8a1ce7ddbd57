"""What only a GPU can show: torch's and JAX's programs, their streams, and captured graphs.

Skipped where there is none. ``test_cuda_api.py`` runs every method there too, and
``DPO_TEST_GPU=1`` the simulator's tests (``simt/hardware.py``).
"""

from __future__ import annotations

import numpy as np
import pytest
import user_oracles
from dpo.kernels.codes import JACOBIAN, JVP, MAXIMUM, MOMENTS, VALUE, VJP, Problem
from dpo.kernels.cuda.launch import launch
from helpers import draws, require_numba_cuda

import dpo

cupy = pytest.importorskip("cupy")
torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)

LAYERS = {
    "argmax": dpo.Perturbed(num_samples=200),
    "long argmax": dpo.Perturbed(noise="gumbel", num_samples=300),
    "topk": dpo.Perturbed(dpo.TopK(2), noise="gumbel", num_samples=200),
    "antithetic ranks": dpo.Perturbed(dpo.Ranks(), num_samples=64, variance_reduction="antithetic"),
    "paths": dpo.Perturbed(dpo.ShortestPath(), num_samples=64),
    "exact argmax": dpo.Perturbed(method="exact"),
    "exact ranks": dpo.Perturbed(dpo.Ranks(), method="exact"),
}


@pytest.fixture(params=LAYERS)
def layer(request):
    return LAYERS[request.param]


def scores(layer, rows=3, seed=0):
    """Scores and a direction, of torch on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    width = 700 if layer.num_samples == 300 else 6
    shape = (rows, 5, 5) if layer.oracle.event_ndim == 2 else (rows, width)
    return (torch.rand(shape, generator=generator) + 0.5 for _ in range(2))


def seeded(layer):
    return {} if layer.method == "exact" else {"seed": 7}


def near(actual, expected, exactly=False):
    """Of a tensor on the GPU and one on the CPU."""
    assert actual.is_cuda and actual.dtype == expected.dtype
    limit = 0 if exactly else 2e-5 * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(actual.cpu(), expected, rtol=0, atol=limit)


def value_and_gradient(f, x, v):
    leaf = x.clone().requires_grad_()
    value = f(leaf)
    return value.detach(), torch.autograd.grad(value, leaf, v)[0]


# ------------------------------------------------------------------------------------------- torch


def test_values_and_gradients_are_the_cpus(layer):
    theta, v = scores(layer)
    on_cpu = value_and_gradient(lambda x: layer(x, **seeded(layer)), theta, v)
    on_gpu = value_and_gradient(lambda x: layer(x, **seeded(layer)), theta.cuda(), v.cuda())
    near(on_gpu[0], on_cpu[0], exactly=layer.method == "mc")
    near(on_gpu[1], on_cpu[1])


def test_losses_and_their_gradients_are_the_cpus(layer):
    theta, v = scores(layer)
    target = layer(v, **seeded(layer)) if layer.method == "exact" else layer(v, seed=1)
    found = []
    for x, y in ((theta, target), (theta.cuda(), target.cuda())):
        x = x.clone().requires_grad_()
        loss = layer.loss(x, y, **seeded(layer))
        found.append((loss.detach(), torch.autograd.grad(loss.sum(), x)[0]))
    (expected, by_theta), (ours, ours_by_theta) = found
    near(ours, expected)
    near(ours_by_theta, by_theta)


SHARED_OUT = {
    "argmax": dpo.Perturbed(num_samples=300),
    "race": dpo.Perturbed(noise="gumbel", num_samples=300),
    "topk": dpo.Perturbed(dpo.TopK(5), num_samples=64),
}


def alone_and_sharded(layer, theta, v, parts):
    """Value, gradient, maximum and its gradient of one process, and of this one's part."""
    from dpo.distributed import coordinates_sharded

    def results(value, maximum, x, u):
        (y, by_y), (most, by_most) = (
            value_and_gradient(value, x, u),
            value_and_gradient(maximum, x, torch.ones(len(x), device=x.device)),
        )
        return y, by_y, most, by_most

    def of(name):
        return lambda x: coordinates_sharded(layer, x, seed=7, of=name)

    alone = results(lambda x: layer(x, seed=7), lambda x: layer.max(x, seed=7), theta, v)
    return alone, results(of("value"), of("max"), theta[:, parts], v[:, parts])


def shared_out_on(rank, world, backend, store, folder):
    """Every process's results of its own part of the coordinates, on one GPU."""
    store = torch.distributed.FileStore(store, world)
    torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=world)
    generator, found = torch.Generator().manual_seed(0), {}
    theta, v = torch.randn(2, 3, 5000, generator=generator).cuda()
    parts = slice(2400 * rank, None if rank == world - 1 else 2400 * (rank + 1))
    for name, layer in SHARED_OUT.items():
        alone, ours = alone_and_sharded(layer, theta, v, parts)
        alone = *(x[:, parts] for x in alone[:2]), alone[2], alone[3][:, parts]
        found[name] = [(a.cpu(), b.cpu(), b.is_cuda) for a, b in zip(alone, ours, strict=True)]
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("backend, world", [("nccl", 1), ("gloo", 2)])
def test_coordinates_shared_out(tmp_path, backend, world):
    """NCCL takes a GPU a process, so alone; gloo's processes may share one."""
    given = world, backend, str(tmp_path / "store"), str(tmp_path)
    torch.multiprocessing.spawn(shared_out_on, given, nprocs=world)
    for rank in range(world):
        for found in torch.load(f"{tmp_path}/{rank}.pt").values():
            for k, (alone, ours, on_gpu) in enumerate(found):
                limit = 0 if k in (0, 3) else 2e-5 * max(1.0, float(alone.abs().max()))
                torch.testing.assert_close(ours, alone, rtol=0, atol=limit)
                assert on_gpu


def test_programs_are_compiled_whole(layer):
    theta, v = (x.cuda() for x in scores(layer))
    seed = seeded(layer)

    def f(x):
        return (layer(2 * x, **seed) * v).sum() + layer.max(x, **seed).sum()

    expected = value_and_gradient(f, theta, None)
    ours = value_and_gradient(torch.compile(f, fullgraph=True), theta, None)
    for a, b in zip(ours, expected, strict=True):
        near(a, b.cpu())


def test_transforms(layer):
    from torch.func import grad, jvp, vmap

    theta, v = scores(layer)

    def f(x):
        return layer(x, **seeded(layer))

    def run(theta, v):
        each = vmap(grad(lambda x, u: (f(x) * u).sum()))(theta[:, None], v[:, None])
        return each, jvp(f, (theta,), (v,))[1]

    for ours, expected in zip(run(theta.cuda(), v.cuda()), run(theta, v), strict=True):
        near(ours, expected)


def test_a_users_oracle():
    require_numba_cuda()
    layer = dpo.Perturbed(user_oracles.fitting_interval(6, 2), num_samples=64)
    theta, v = scores(layer, rows=2)
    on_cpu = value_and_gradient(lambda x: layer(x, seed=7), theta, v)
    on_gpu = value_and_gradient(lambda x: layer(x, seed=7), theta.cuda(), v.cuda())
    near(on_gpu[0], on_cpu[0], exactly=True)
    near(on_gpu[1], on_cpu[1])


@pytest.mark.parametrize("batched", [True, False])
def test_a_function_of_tensors(batched):
    """It is called with scores on the GPU, and its samples, sums and loss are the CPU's."""
    places = set()

    def one_hot(x, scale):
        places.add(x.device.type)
        return scale * torch.nn.functional.one_hot(x.argmax(-1), x.shape[-1]).to(x.dtype)

    layer = dpo.perturbed(one_hot, num_samples=32, batched=batched, maximizer=True)
    theta, v = scores(LAYERS["argmax"])
    target = torch.eye(6)[:3]
    found = []
    for place in ("cpu", "cuda"):
        x, u, y = (t.to(place) for t in (theta, v, target))
        found.append((
            *value_and_gradient(lambda x: layer(x, 2.0, seed=7), x, u),
            *value_and_gradient(lambda x, y=y: layer.loss(x, y, 1.0, seed=7).sum(), x, None),
        ))  # fmt: skip
    for expected, ours in zip(*found, strict=True):
        near(ours, expected)
    assert places == {"cpu", "cuda"}


def test_a_function_of_cupy_arrays():
    layer = dpo.perturbed(lambda x: (x == x.max(-1, keepdims=True)).astype(x.dtype), num_samples=32)
    theta, v = (x.numpy() for x in scores(LAYERS["argmax"]))
    x, u = cupy.asarray(theta), cupy.asarray(v)
    ours = layer(x, seed=7), layer.vjp(x, u, seed=7)
    for a, b in zip(ours, (layer(theta, seed=7), layer.vjp(theta, v, seed=7)), strict=True):
        cupy.testing.assert_allclose(a, b, rtol=0, atol=2e-5)


def test_launches_wait_for_the_stream_and_it_for_them():
    """On a stream of its own, after work that takes far longer than a launch."""
    layer = LAYERS["argmax"]
    theta, _ = scores(layer)
    expected = layer(theta, seed=7)
    a = torch.rand(6000, 6000, device="cuda") / 3000
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        b = a
        for _ in range(10):
            b = b @ a
        x = theta.cuda() + 0 * b[0, 0]
        y = layer(x, seed=7)
        z = y + 0
        y.zero_()
    stream.synchronize()
    near(z, expected, exactly=True)


def test_gradients_of_shared_layers_on_many_threads():
    """Each with a stream of its own."""
    from concurrent.futures import ThreadPoolExecutor

    layer = LAYERS["topk"]
    theta, v = scores(layer)
    expected = value_and_gradient(lambda x: layer(x, seed=7), theta.cuda(), v.cuda())

    def run(_):
        with torch.cuda.stream(torch.cuda.Stream()):
            found = value_and_gradient(lambda x: layer(x, seed=7), theta.cuda(), v.cuda())
            torch.cuda.current_stream().synchronize()
            return found

    with ThreadPoolExecutor(4) as pool:
        for value, gradient in pool.map(run, range(16)):
            assert torch.equal(value, expected[0]) and torch.equal(gradient, expected[1])


# ----------------------------------------------------------------------------------------- capture


@pytest.mark.parametrize("operation", [VALUE, MAXIMUM, VJP, JVP, JACOBIAN, MOMENTS])
@pytest.mark.parametrize("oracle", ["argmax", "topk", "ranks", "grid_path"])
def test_a_captured_launch_can_be_replayed_with_other_noise(oracle, operation):
    rng, rows, d = np.random.default_rng(0), 3, 100
    places = cupy.asarray(np.tile([0, d - 1], (rows, 1)))
    problem = {
        "argmax": Problem(),
        "topk": Problem("topk", (3,)),
        "ranks": Problem("ranks"),
        "grid_path": Problem("grid_path", (10, 10, 8, 0), places, minimises=True),
    }[oracle]
    theta, v = map(cupy.asarray, rng.uniform(0.5, 2, (2, rows, d)).astype(np.float32))
    epsilon, seed = cupy.full((rows, 1), 0.5, np.float32), cupy.asarray([1, 2], np.uint32)
    noise, failed = draws("normal", 600), cupy.zeros(1, np.int32)

    def run(seed):
        given = problem, theta, epsilon, noise._replace(seed=seed), operation
        sums = launch(*given, direction=v, mean=v, failed=failed)
        return sums.counts, sums.totals

    pool, stream = cupy.cuda.MemoryPool(), cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with cupy.cuda.using_allocator(pool.malloc), stream:
        run(seed)
        stream.begin_capture()
        captured = run(seed)
        graph = stream.end_capture()
    for words in ((1, 2), (3, 4)):
        seed.set(np.array(words, np.uint32))
        cupy.cuda.Device().synchronize()
        graph.launch(stream)
        stream.synchronize()
        for ours, expected in zip(captured, run(words), strict=True):
            np.testing.assert_array_equal(ours.get(), expected.get())
    assert failed.get() == 0


# --------------------------------------------------------------------------------------------- JAX


@pytest.fixture(scope="module")
def jax():
    jax = pytest.importorskip("jax")
    if jax.default_backend() != "gpu":
        pytest.skip("JAX has no GPU")
    return jax


def test_jax_programs_give_the_cpus_results(jax, layer):
    if layer.method == "exact":
        pytest.skip("tested below")
    theta, v = (x.numpy() for x in scores(layer))
    x, u = map(jax.numpy.asarray, (theta, v))
    words = np.array([9, 3], np.uint32)
    layer_seed = (3 << 32) | 9

    @jax.jit
    def program(x, words):
        value, pull = jax.vjp(lambda x: layer(x, seed=words), x)
        pushed = jax.jvp(lambda x: layer(x, seed=words), (x,), (u,))[1]
        return value, pull(u)[0], pushed, layer.max(x, seed=words)

    for _ in range(2):
        value, gradient, pushed, maximum = program(x, words)
        np.testing.assert_array_equal(value, layer(theta, seed=layer_seed))
        for ours, expected in [
            (gradient, layer.vjp(theta, v, seed=layer_seed)),
            (pushed, layer.jvp(theta, v, seed=layer_seed)),
            (maximum, layer.max(theta, seed=layer_seed)),
        ]:
            scale = max(1.0, np.abs(expected).max())
            np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5 * scale)


def test_jax_exact_programs(jax):
    layer = LAYERS["exact argmax"]
    theta, v = (x.numpy() for x in scores(layer))
    ours = jax.jit(lambda x: jax.vjp(layer, x)[1](jax.numpy.asarray(v))[0])(theta)
    np.testing.assert_allclose(ours, layer.vjp(theta, v), rtol=0, atol=2e-5)


def test_jax_arrays_without_jit(jax):
    layer = LAYERS["argmax"]
    theta, v = (x.numpy() for x in scores(layer))
    np.testing.assert_array_equal(layer(jax.numpy.asarray(theta), seed=3), layer(theta, seed=3))
    ours = jax.grad(lambda x: (layer(x, seed=3) * v).sum())(jax.numpy.asarray(theta))
    np.testing.assert_allclose(ours, layer.vjp(theta, v, seed=3), rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", SHARED_OUT)
def test_jax_coordinates_shared_out(jax, name):
    """Over a mesh of the one device: a callback on its stream and in its memory."""
    from dpo.distributed import coordinates_sharded

    layer, words, seed = SHARED_OUT[name], np.array([9, 3], np.uint32), (3 << 32) | 9
    theta, v = (x.numpy() for x in scores(LAYERS["argmax"], rows=4))
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), "i")
    spec = jax.sharding.PartitionSpec(None, "i")

    def sharded(x):
        return coordinates_sharded(layer, x, seed=words, group="i")

    value = jax.jit(jax.shard_map(sharded, mesh=mesh, in_specs=spec, out_specs=spec))
    np.testing.assert_array_equal(value(theta), layer(theta, seed=seed))
    ours = jax.jit(jax.grad(lambda x: (value(x) * v).sum()))(theta)
    np.testing.assert_allclose(ours, layer.vjp(theta, v, seed=seed), rtol=0, atol=2e-5)


def test_jax_functions(jax):
    """A function of JAX arrays, traced into the program."""
    nn = jax.nn
    layer = dpo.perturbed(lambda x: nn.one_hot(x.argmax(-1), x.shape[-1]), num_samples=32)
    theta, v = (x.numpy() for x in scores(LAYERS["argmax"]))
    words, seed = np.array([9, 3], np.uint32), (3 << 32) | 9

    @jax.jit
    def program(x):
        value, pull = jax.vjp(lambda x: layer(x, seed=words), x)
        return value, pull(jax.numpy.asarray(v))[0]

    fused = dpo.Perturbed(num_samples=32)
    expected = fused(theta, seed=seed), fused.vjp(theta, v, seed=seed)
    for a, b in zip(program(jax.numpy.asarray(theta)), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * max(1.0, np.abs(b).max()))
