"""A shard of the coordinates has their noise, and its best are those of the reference."""

from __future__ import annotations

import functools as ft
from types import SimpleNamespace

import numpy as np
import pytest
import simt
from dpo.kernels import codes, reference
from dpo.kernels.cpu import launch
from dpo.kernels.cpu import shard as cpu
from dpo.kernels.cuda import launch as cuda_launch
from dpo.kernels.cuda import shard as cuda
from helpers import adversarial_scores, draws, temperatures

from dpo import kernels

OFFSET = 400


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.simulator)])
def shard(request):
    """The functions of a shard on the CPU, or on the simulator of a GPU."""
    if request.param == "cpu":
        return cpu
    device = simt.Simulator()
    return SimpleNamespace(
        **{name: ft.partial(getattr(cuda, name), device=device) for name in FUNCTIONS}
    )


FUNCTIONS = (
    "largest_scores", "best", "merged", "perturbed_scores", "noise_at", "mean_of", "projections",
    "vjp",
)  # fmt: skip


def is_cpu(shard):
    return shard is cpu


FAMILIES = pytest.mark.parametrize("name", ["normal", "gumbel", "logistic", "laplace"])


@pytest.fixture(autouse=True)
def tables_in_one_precision(request):
    """They take a minute to compile; in both where only few are."""
    given = getattr(request.node, "callspec", None)
    if given is None or "winners" in request.node.name:
        return
    if given.params.get("name") == "laplace" and given.params.get("dtype") is np.float64:
        pytest.skip("tables are compiled in one precision")


@FAMILIES
@pytest.mark.parametrize("samples", [3, 70])
@pytest.mark.parametrize("rows", [3, 40])
def test_the_best_of_an_argmax(shard, name, dtype, rows, samples):
    theta = adversarial_scores(rows, 39, dtype)
    noise = draws(name, samples, coordinate_offset=OFFSET, sample_offset=5)
    epsilon = temperatures(theta, 0.5)
    largest = shard.largest_scores(theta) + dtype(1)  # held by another shard
    values, indices = shard.best(codes.Problem(), theta, epsilon, noise, largest)
    expected, where = reference.shard_best(codes.Problem(), theta, epsilon, noise, 1, largest)
    assert values.dtype == dtype and indices.dtype == np.int64
    np.testing.assert_array_equal(indices, where)
    np.testing.assert_array_equal(values, expected)
    alone = shard.best(codes.Problem(), theta, epsilon, noise)  # a shard that is the whole problem
    expected, where = reference.shard_best(codes.Problem(), theta, epsilon, noise, 1)
    np.testing.assert_array_equal(alone.indices, where)
    np.testing.assert_array_equal(alone.values, expected)


@FAMILIES
@pytest.mark.parametrize("d,k", [(9, 9), (39, 1), (39, 30), (2500, 5), (2500, 40)])
def test_the_best_of_a_topk(shard, name, dtype, d, k):
    theta = adversarial_scores(9, d, dtype)
    noise = draws(name, 35 if is_cpu(shard) else 3, coordinate_offset=OFFSET)
    problem, epsilon = codes.Problem("topk", (k,)), temperatures(theta, 0.5)
    values, indices = shard.best(problem, theta, epsilon, noise)
    expected, where = reference.shard_best(problem, theta, epsilon, noise, k)
    np.testing.assert_array_equal(indices, where)
    np.testing.assert_array_equal(values, expected)


@FAMILIES
@pytest.mark.parametrize("rows,d,samples", [(2, 39, 5), (2, 1030, 4500), (40, 1030, 3)])
def test_sums_of_scores(shard, name, dtype, rows, d, samples):
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((rows, samples)).astype(dtype)
    noise = draws(name, samples, coordinate_offset=OFFSET)
    scores = rng.standard_normal((rows, d)).astype(dtype)
    scores[0, 1] = -np.inf
    epsilon = np.linspace(0.3, 2, rows)[:, None].astype(dtype)
    sums = cpu.score_sums(noise, weights, d)
    product, divisor = shard.vjp(scores, epsilon, noise, weights, 7), 7 * epsilon.astype(float)
    assert (product[0, 1] == 0) & (product[0, 0] != 0)
    scale = np.finfo(dtype).eps * 4 if is_cpu(shard) or samples > 8 else 1e-5
    wanted = np.where(np.isinf(scores), 0, sums / divisor)
    np.testing.assert_allclose(product, wanted, rtol=scale, atol=scale * np.abs(wanted).max())
    for first in (0, d // 4 * 4 - 4):  # the reference holds every score: a few coordinates of it
        part = noise._replace(coordinate_offset=OFFSET + first)
        theta = np.zeros((rows, min(8, d - first)), dtype)
        expected = reference.shard_scores(theta, part, weights)
        np.testing.assert_array_equal(sums[:, first : first + 8], expected)


@FAMILIES
def test_perturbed_scores_of_winners(shard, name, dtype):
    theta = np.random.default_rng(0).standard_normal((3, 21)).astype(dtype)
    noise = draws(name, 50, coordinate_offset=OFFSET)
    winners = np.random.default_rng(1).integers(0, 21, (3, 50))
    values = shard.perturbed_scores(theta, temperatures(theta, 0.5), noise, winners)
    seen = reference.Pass(codes.Problem(), theta, temperatures(theta, 0.5), noise).p(codes.MAXIMUM)
    expected = np.take_along_axis(seen, winners.T[:, :, None], -1)[:, :, 0]
    np.testing.assert_array_equal(values, expected.T)
    ones = temperatures(theta, 1.0)
    alone = shard.perturbed_scores(np.zeros_like(theta), ones, noise, winners)
    np.testing.assert_array_equal(shard.noise_at(theta, noise, winners), alone)


@pytest.mark.simulator
@pytest.mark.parametrize("k", [1, 3])
def test_a_long_row_is_searched_in_parts(dtype, k):
    """The best of every part have those of the row among them."""
    theta = np.random.default_rng(0).standard_normal((1, 16390)).astype(dtype)
    theta[0, ::50] = theta[0, 7] + dtype(9)  # ties, everywhere
    noise, epsilon = draws("normal", 2, coordinate_offset=OFFSET), temperatures(theta, 1e-9)
    problem = codes.Problem("topk", (k,))
    values, indices = cuda.best(problem, theta, epsilon, noise, device=simt.Simulator())
    assert (np.diff(indices) > 0).all()
    for a, b in zip((values, indices), cpu.best(problem, theta, epsilon, noise), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.simulator
def test_workspaces_that_are_too_small_for_a_row(monkeypatch):
    device, d = simt.Simulator(), 301
    noise, theta = (
        draws("normal", 300, coordinate_offset=OFFSET),
        adversarial_scores(3, d, np.float32),
    )
    weights = np.random.default_rng(0).standard_normal((3, 300)).astype(np.float32)
    given = theta, temperatures(theta, 0.5), noise, weights, 3
    whole = cuda.vjp(*given, device=device)
    monkeypatch.setattr(cuda, "WORKSPACE_BYTES", 8 * 3 * 2 * 40)
    monkeypatch.setattr(cuda, "_BLOCK", 100)
    device.launches.clear()
    np.testing.assert_array_equal(cuda.vjp(*given, device=device), whole)
    assert len(device.launches) == 3 * 8
    largest = cuda.largest_scores(theta, device)
    np.testing.assert_array_equal(largest, cpu.largest_scores(theta))


@pytest.mark.parametrize("k", [1, 3])
def test_what_winners_add_up_to(shard, dtype, k):
    """Of the coordinates of a shard, others' winners counting for nothing."""
    rng, d = np.random.default_rng(0), 9
    v, first = rng.standard_normal((4, d)).astype(dtype), 2**32 - 20
    winners = np.sort(rng.integers(first - 4, first + d + 3, (4, 50, k)), axis=-1)
    part = draws("normal", 50)._replace(coordinate_offset=first)
    mean = shard.mean_of(winners, part, v)
    hits = winners[..., None] == first + np.arange(d)
    np.testing.assert_array_equal(mean, (hits.sum((1, 2)) / 50).astype(dtype))
    expected = np.einsum("bmki,bi->bm", hits, v)
    products = shard.projections(v, winners, part)
    assert mean.dtype == products.dtype == dtype
    np.testing.assert_allclose(products, expected, rtol=0, atol=1e-6)


def test_results_do_not_depend_on_threads(dtype, threads):
    theta = adversarial_scores(1, 3000, dtype)
    noise, epsilon = draws("normal", 600), temperatures(theta, 0.5)
    weights = np.random.default_rng(0).standard_normal((1, 600)).astype(dtype)
    results = []
    for count in (1, 2, 5):
        threads(count)
        topk = cpu.best(codes.Problem("topk", (4,)), theta, epsilon, noise)
        best = cpu.best(codes.Problem(), theta, epsilon, noise)
        results.append((*best, *topk, cpu.score_sums(noise, weights, 3000)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("operation", ["value", "vjp", "max"])
def test_any_launch_of_a_part_has_its_noise(operation, dtype):
    """A part whose other coordinates never win decides as the whole does."""
    theta = np.random.default_rng(0).standard_normal((3, 60)).astype(dtype)
    theta[:, :24] = -np.inf
    v = np.random.default_rng(1).standard_normal((3, 60)).astype(dtype)
    given = {"seed": (1, 2), "num_samples": 100, "operation": operation}
    direction = {"direction": v} if operation == "vjp" else {}
    whole = kernels.argmax(theta, **given, **direction)
    part = {name: x[:, 24:] for name, x in direction.items()}
    sums = kernels.argmax(theta[:, 24:], **given, **part, coordinate_offset=24)
    np.testing.assert_array_equal(sums.counts[:, 0], whole.counts[:, 0, 24:])
    of = whole.totals[:, :, 24:] if operation == "vjp" else whole.totals
    np.testing.assert_array_equal(sums.totals, of)


def test_offsets_that_are_refused():
    theta = np.zeros((1, 8), np.float32)
    for offset in (6, -4):
        with pytest.raises(ValueError, match="coordinate_offset must be a multiple of 4"):
            kernels.argmax(theta, seed=(0, 0), num_samples=10, coordinate_offset=offset)
    noise = draws("normal", 16, 8, codes.SOBOL, coordinate_offset=4)
    for module in launch, cuda_launch:
        device = {} if module is launch else {"device": simt.Simulator()}
        with pytest.raises(ValueError, match="coordinate_offset is not for Sobol"):
            module.launch(codes.Problem(), theta, temperatures(theta, 1.0), noise, **device)
