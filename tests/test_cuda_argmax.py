"""The CUDA argmax, run in the simulator by the library's own launch code, equals the CPU's.

Decisions, counts and float sums over the shared tree with ``==``; where the CPU kernel adds in
another order (docstring of ``kernels/cuda/launch.py``), to a few roundings of the sum of
magnitudes.
"""

from __future__ import annotations

import numpy as np
import pytest
import simt
from dpo.kernels import codes, reference
from dpo.kernels.codes import JACOBIAN, JVP, MAXIMUM, MOMENTS, SCALE_SCORE, VALUE, VJP, Problem
from dpo.kernels.cpu import launch as cpu
from dpo.kernels.cuda import launch as cuda
from helpers import adversarial_scores, draws, temperatures

DESIGNS = {"iid": codes.INDEPENDENT, "antithetic": codes.ANTITHETIC, "sobol": codes.SOBOL}


def launch(theta, epsilon, noise, operation=VALUE, seed=0, **parameters):
    """A launch in the simulator."""
    device = simt.Simulator(seed)
    parameters.setdefault("device", device)
    return cuda.launch(Problem(), theta, epsilon, noise, operation, **parameters)


def close(ours, expected, magnitude, dtype):
    """Equal up to roundings: ``magnitude`` bounds the sum of the terms' absolute values."""
    tolerance = 16 * np.finfo(dtype).eps * magnitude
    with np.errstate(invalid="ignore"):
        return (np.abs(ours - expected) <= tolerance) | (ours == expected)


# ------------------------------------------------------------------- ragged sizes, teams, blocks

SHAPES = [
    (1, 1, 1),
    (3, 1, 300),
    (40, 31, 3),
    (9, 33, 64),
    (3, 1000, 70),
    (2, 1025, 5),
    (2, 10, 1000),
]
PLANS = [(32, 1), (64, 8), (128, 32), (256, 64), (256, 256)]


@pytest.mark.parametrize("rows, d, m", SHAPES)
def test_decisions_and_counts(family, dtype, rows, d, m):
    theta = adversarial_scores(rows, d, dtype)
    noise, epsilon = draws(family, m), temperatures(theta, 0.5)
    winners = np.full((rows, m), -1, np.int32)
    counts = launch(theta, epsilon, noise, memo=winners).counts
    expected = reference.argmax_winners(theta, epsilon, noise)
    assert (winners == expected.T).all()
    assert (counts == cpu.launch(Problem(), theta, epsilon, noise).counts).all()


@pytest.mark.parametrize("threads, team", PLANS)
def test_no_result_depends_on_the_plan_or_the_order_of_threads(dtype, threads, team):
    theta, noise = adversarial_scores(9, 300, dtype), draws("normal", 70)
    epsilon, plan = temperatures(theta, 0.5), cuda.Plan(threads, team)
    expected = cpu.launch(Problem(), theta, epsilon, noise).counts
    assert (launch(theta, epsilon, noise, seed=team, plan=plan).counts == expected).all()


def test_the_plan_fits_every_size():
    for rows in (1, 7, 10**6):
        for d in (1, 10, 1000, 10**6):
            for m in (1, 2, 100, 10**5):
                plan = cuda.plan_for(rows, d, m)
                threads, team = plan.threads, plan.team
                assert 32 <= threads <= 256 and threads % 32 == 0
                assert team & (team - 1) == 0 and team <= threads and plan.batch % 2 == 0
                assert team == 1 or team * 8 < -(-d // 4) * 2


def test_counts_beyond_shared_memory():
    """So many coordinates that a block counts in global memory."""
    theta = np.zeros((2, 5000), np.float32)
    noise, epsilon = draws("gumbel", 40), temperatures(theta, 1.0)
    counts = launch(theta, epsilon, noise).counts
    assert (counts == cpu.launch(Problem(), theta, epsilon, noise).counts).all()


@pytest.mark.parametrize("squares", [False, True])
@pytest.mark.parametrize("operation", [VALUE, MAXIMUM, VJP, JVP, JACOBIAN, MOMENTS])
def test_no_rows(operation, squares):
    theta, noise = np.zeros((0, 7), np.float32), draws("normal", 5)
    arguments = Problem(), theta, temperatures(theta, 0.5), noise, operation
    given = dict(direction=theta, mean=theta, squares=squares)
    ours = cuda.launch(*arguments, **given, device=simt.Simulator())
    expected = cpu.launch(*arguments, **given)
    assert operation == VALUE or ours.totals.shape == expected.totals.shape
    assert ours.counts.shape[::2] == expected.counts.shape[::2]


# ------------------------------------------------------------------------------- every operation


def compare(rows, d, m, family, dtype, design="iid", epsilon=0.5, multiplicative=False):
    """Every operation of a launch against the reference and the CPU."""
    theta = adversarial_scores(rows, d, dtype, seed=1)
    theta = np.where(np.isposinf(theta), dtype(3), theta)
    epsilon = temperatures(theta, epsilon)
    noise = draws(family, m, d, DESIGNS[design], multiplicative=multiplicative)
    v = np.random.default_rng(5).standard_normal((rows, d)).astype(dtype)
    expected = reference.Pass(Problem(), theta, epsilon, noise)

    def both(operation, **parameters):
        ours = launch(theta, epsilon, noise, operation, **parameters)
        theirs = cpu.launch(Problem(), theta, epsilon, noise, operation, **parameters)
        assert (ours.counts[:, 0] == theirs.counts[:, 0]).all()
        return ours, theirs.totals

    ours, _ = both(VALUE, squares=True)
    np.testing.assert_array_equal(ours.counts[:, -1], expected.counts()[:, 1])
    solutions = np.full((rows, m, d), -1, np.int32)
    launch(theta, epsilon, noise, solutions=solutions)
    np.testing.assert_array_equal(np.moveaxis(solutions, 1, 0), expected.solutions())
    ours, theirs = both(MAXIMUM)
    assert close(ours.totals, theirs, np.abs(theirs), np.float64).all()

    mean = (expected.counts()[:, 0] / m).astype(dtype)
    directed = dict(direction=v, mean=mean, squares=True)
    for weighting in (codes.SCORE, SCALE_SCORE):
        weighted = reference.Pass(Problem(), theta, epsilon, noise, weighting)
        ours, theirs = both(VJP, weighting=weighting, **directed)
        magnitude = m * np.abs(v).sum(1)[:, None] * np.abs(weighted.scores).max(0)
        assert close(ours.totals[:, 0], theirs[:, 0], magnitude, dtype).all()
        assert close(ours.totals[:, 1], theirs[:, 1], magnitude**2, dtype).all()
        if cpu.is_plain(Problem(), epsilon, noise, VJP) and weighting == codes.SCORE:
            np.testing.assert_array_equal(ours.totals, theirs)
    for operation, parameters in [(JVP, dict(direction=v)), (JACOBIAN, {})]:
        if operation == JACOBIAN and d > 40:
            continue
        ours, theirs = both(operation, squares=True, **parameters)
        np.testing.assert_array_equal(ours.totals, theirs)
        ours, theirs = both(operation, **parameters)
        np.testing.assert_array_equal(ours.totals, theirs)
    ours, theirs = both(MOMENTS)
    np.testing.assert_array_equal(ours.totals, theirs)


@pytest.mark.parametrize("design, m", [("iid", 300), ("sobol", 32)])
def test_tabulated_noise(dtype, design, m):
    compare(3, 10, m, "student", dtype, design)


@pytest.mark.parametrize("rows, d, m", [(9, 1, 5), (9, 10, 33), (3, 31, 300), (2, 130, 10)])
def test_every_operation(family, dtype, rows, d, m):
    compare(rows, d, m, family, dtype)


def test_more_chunks_than_strands():
    """Strands of several chunks each, in float64 in order."""
    compare(1, 3, 17 * 256 + 5, "gumbel", np.float32)


@pytest.mark.parametrize(
    "design, m, family",
    [*(("antithetic", m, "gumbel") for m in (2, 70, 300)), ("sobol", 300, "normal")],
)
def test_every_design(design, m, family, dtype):
    compare(5, 10, m, family, dtype, design)


@pytest.mark.parametrize("family", ["gumbel", "normal"])
def test_a_temperature_for_each_coordinate(family, dtype):
    compare(5, 10, 70, family, dtype, epsilon=np.linspace(0.1, 2, 10))


def test_multiplicative_noise(dtype):
    compare(5, 10, 70, "normal", dtype, epsilon=0.7, multiplicative=True)


def test_a_vjp_reads_what_was_decided(family):
    theta = adversarial_scores(4, 20, np.float32)
    noise, epsilon, v = draws(family, 40), temperatures(theta, 0.5), np.ones((4, 20), np.float32)
    given = dict(direction=v * np.arange(20, dtype=np.float32), mean=v / 20)
    memo = cuda.new_memo(Problem(), theta, epsilon, noise, simt.Simulator())
    device = simt.Simulator()
    launch(theta, epsilon, noise, memo=memo, device=device)
    launch(theta, epsilon, noise, VJP, memo=memo, device=device, **given)
    assert sum(kernel.startswith("decide") for kernel in device.launches) == 1
    again = launch(theta, epsilon, noise, VJP, memo=memo, **given).totals
    np.testing.assert_array_equal(again, launch(theta, epsilon, noise, VJP, **given).totals)


def test_rows_and_samples_can_be_split(family):
    """Noise is addressed by row names and sample numbers: parts of a launch are the launch."""
    theta = adversarial_scores(6, 12, np.float32)
    epsilon, noise = temperatures(theta, 0.5), draws(family, 100)
    whole = launch(theta, epsilon, noise).counts
    rows = noise._replace(row_ids=np.arange(2, 6))
    assert (launch(theta[2:], epsilon[2:], rows).counts == whole[2:]).all()
    first, rest = noise._replace(num_samples=37), noise._replace(num_samples=63, sample_offset=37)
    parts = launch(theta, epsilon, first).counts + launch(theta, epsilon, rest).counts
    assert (parts == whole).all()


def test_the_seed_can_be_a_device_array():
    theta = adversarial_scores(3, 12, np.float32)
    epsilon, noise = temperatures(theta, 0.5), draws("normal", 20)
    on_device = noise._replace(seed=np.array(noise.seed, np.uint32))
    ours = launch(theta, epsilon, on_device).counts
    assert (ours == launch(theta, epsilon, noise).counts).all()


@pytest.mark.parametrize("design", ["iid", "antithetic", "sobol"])
def test_fast_agrees_with_itself(family, design):
    """Fast noise is its own stream; every operation sees the same one."""
    m = 256
    theta = np.random.default_rng(0).standard_normal((2, 9)).astype(np.float32)
    epsilon, noise = temperatures(theta, 0.5), draws(family, m, 9, DESIGNS[design])
    fast = dict(precision="fast")
    counts = launch(theta, epsilon, noise, **fast).counts[:, 0]
    jacobian = launch(theta, epsilon, noise, JACOBIAN, **fast)
    assert (jacobian.counts[:, 0] == counts).all()
    outer = jacobian.totals[:, 0].reshape(2, 10, 9)
    v = np.random.default_rng(1).standard_normal((2, 9)).astype(np.float32)
    given = dict(direction=v, mean=np.zeros_like(v), **fast)
    vjp = launch(theta, epsilon, noise, VJP, **given).totals[:, 0]
    np.testing.assert_allclose(vjp, np.einsum("bi,bik->bk", v, outer[:, :-1]), rtol=1e-4, atol=1e-3)
    # Against portable noise of the same words: the same distribution, another stream.
    portable = launch(theta, epsilon, noise).counts[:, 0]
    assert np.abs(counts - portable).max() < 6 * np.sqrt(2 * m / 4)
