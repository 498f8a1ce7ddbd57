"""A shard of the coordinates has their noise, and its best are those of the reference."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from dpo.kernels import codes, reference
from dpo.kernels.cpu import launch, shard
from dpo.kernels.cuda import launch as cuda
from helpers import adversarial_scores, draws, temperatures

from dpo import kernels

OFFSET = 400
FAMILIES = pytest.mark.parametrize("name", ["normal", "gumbel", "logistic", "laplace"])


@FAMILIES
@pytest.mark.parametrize("samples", [3, 70])
@pytest.mark.parametrize("rows", [3, 40])
def test_the_best_of_an_argmax(name, dtype, rows, samples):
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
def test_the_best_of_a_topk(name, dtype, d, k):
    theta = adversarial_scores(9, d, dtype)
    noise = draws(name, 35, coordinate_offset=OFFSET)
    problem, epsilon = codes.Problem("topk", (k,)), temperatures(theta, 0.5)
    values, indices = shard.best(problem, theta, epsilon, noise)
    expected, where = reference.shard_best(problem, theta, epsilon, noise, k)
    np.testing.assert_array_equal(indices, where)
    np.testing.assert_array_equal(values, expected)


@FAMILIES
@pytest.mark.parametrize("rows,d,samples", [(2, 39, 5), (2, 1030, 4500), (40, 1030, 3)])
def test_sums_of_scores(name, dtype, rows, d, samples):
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((rows, samples)).astype(dtype)
    noise = draws(name, samples, coordinate_offset=OFFSET)
    sums = shard.score_sums(noise, weights, d)
    for first in (0, d // 4 * 4 - 4):  # the reference holds every score: a few coordinates of it
        part = noise._replace(coordinate_offset=OFFSET + first)
        theta = np.zeros((rows, min(8, d - first)), dtype)
        expected = reference.shard_scores(theta, part, weights)
        np.testing.assert_array_equal(sums[:, first : first + 8], expected)


@FAMILIES
def test_perturbed_scores_of_winners(name, dtype):
    theta = np.random.default_rng(0).standard_normal((3, 21)).astype(dtype)
    noise = draws(name, 50, coordinate_offset=OFFSET)
    winners = np.random.default_rng(1).integers(0, 21, (3, 50))
    values = shard.perturbed_scores(theta, temperatures(theta, 0.5), noise, winners)
    seen = reference.Pass(codes.Problem(), theta, temperatures(theta, 0.5), noise).p(codes.MAXIMUM)
    expected = np.take_along_axis(seen, winners.T[:, :, None], -1)[:, :, 0]
    np.testing.assert_array_equal(values, expected.T)


def test_results_do_not_depend_on_threads(dtype, threads):
    theta = adversarial_scores(1, 3000, dtype)
    noise, epsilon = draws("normal", 600), temperatures(theta, 0.5)
    weights = np.random.default_rng(0).standard_normal((1, 600)).astype(dtype)
    results = []
    for count in (1, 2, 5):
        threads(count)
        topk = shard.best(codes.Problem("topk", (4,)), theta, epsilon, noise)
        best = shard.best(codes.Problem(), theta, epsilon, noise)
        results.append((*best, *topk, shard.score_sums(noise, weights, 3000)))
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
    noise = draws("normal", 10, coordinate_offset=4)
    with pytest.raises(NotImplementedError, match="coordinate_offset is for arrays on the CPU"):
        cuda.launch(
            codes.Problem(), theta, temperatures(theta, 1.0), noise, device=SimpleNamespace(xp=np)
        )
    noise = draws("normal", 16, 8, codes.SOBOL, coordinate_offset=4)
    with pytest.raises(ValueError, match="coordinate_offset is not for Sobol"):
        launch.launch(codes.Problem(), theta, temperatures(theta, 1.0), noise)
