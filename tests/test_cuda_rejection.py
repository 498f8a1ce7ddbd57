"""Early rejection in the CUDA argmax (``reject.cuh``): no decision depends on it.

Levels from "every sample falls short, and is evaluated in full" (depth 0) to "nothing is rejected"
(infinite depth); limits that are right to their margins, and few candidates; and kernels whose
margins are on the wrong side, which the same comparisons must tell from ours.
"""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import simt
from dpo.kernels import codes, noise32, noise64, reference
from dpo.kernels.codes import MAXIMUM, SCALE_SCORE, VALUE, VJP, Problem
from dpo.kernels.cpu import launch as cpu
from dpo.kernels.cuda import calls
from dpo.kernels.cuda import launch as cuda
from helpers import FAMILIES, adversarial_scores, draws, temperatures
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cuda_noise import formulas

DESIGNS = {"iid": codes.INDEPENDENT, "antithetic": codes.ANTITHETIC, "sobol": codes.SOBOL}
DEPTHS = [0.0, 1.0, 6.0, np.inf]


def winners_of(theta, epsilon, noise, depth, plan=None, operation=VALUE, device=None, **parameters):
    """Who wins every sample, (rows, M), in the simulator."""
    rows, d = theta.shape
    memo = np.full((rows, noise.num_samples), -1, np.int32)
    plan = (plan or cuda.plan_for(rows, d, noise.num_samples))._replace(depth=depth)
    device = device or simt.Simulator(int(min(depth or 0, 9)))
    cuda.launch(
        Problem(), theta, epsilon, noise, operation,
        memo=memo, plan=plan, device=device, **parameters,
    )  # fmt: skip
    return memo


# ------------------------------------------------------------------------------------- decisions

SHAPES = [(3, 1, 70), (20, 31, 3), (9, 33, 64), (9, 200, 33), (2, 1025, 40), (1, 5000, 33)]


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("rows, d, m", SHAPES)
def test_decisions(family, dtype, rows, d, m, depth):
    theta = adversarial_scores(rows, d, dtype)
    noise, epsilon = draws(family, m), temperatures(theta, 0.5)
    expected = reference.argmax_winners(theta, epsilon, noise).T
    np.testing.assert_array_equal(winners_of(theta, epsilon, noise, depth), expected)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("design", ["antithetic", "sobol"])
def test_decisions_of_every_design(family, dtype, design, depth):
    theta = adversarial_scores(9, 130, dtype)
    noise, epsilon = draws(family, 32, 130, DESIGNS[design]), temperatures(theta, 0.5)
    expected = reference.argmax_winners(theta, epsilon, noise).T
    np.testing.assert_array_equal(winners_of(theta, epsilon, noise, depth), expected)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("threads, team", [(32, 1), (64, 8), (128, 32), (256, 64), (256, 256)])
def test_decisions_of_every_plan(dtype, threads, team, depth):
    theta = adversarial_scores(9, 300, dtype)
    noise, epsilon = draws("normal", 37), temperatures(theta, 0.5)
    expected = reference.argmax_winners(theta, epsilon, noise).T
    ours = winners_of(theta, epsilon, noise, depth, cuda.Plan(threads, team))
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("depth", DEPTHS)
def test_decisions_with_a_temperature_each(family, dtype, depth):
    theta = adversarial_scores(9, 100, dtype)
    noise, epsilon = draws(family, 40), temperatures(theta, np.geomspace(0.01, 3, 100))
    expected = reference.argmax_winners(theta, epsilon, noise).T
    np.testing.assert_array_equal(winners_of(theta, epsilon, noise, depth), expected)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("weighting", [codes.SCORE, SCALE_SCORE])
@pytest.mark.parametrize("design, operation", [("antithetic", MAXIMUM), ("iid", VJP)])
def test_decisions_of_gumbel_noise_that_is_no_race(dtype, design, operation, weighting, depth):
    theta = np.random.default_rng(0).standard_normal((2, 100)).astype(dtype)
    noise, epsilon = draws("gumbel", 40, 100, DESIGNS[design]), temperatures(theta, 0.5)
    given = dict(direction=theta, mean=theta, weighting=weighting)
    arguments = Problem(), theta, epsilon, noise, operation
    plan = cuda.Plan(64, 2, depth)
    ours = cuda.launch(*arguments, **given, plan=plan, device=simt.Simulator())
    expected = cuda.launch(*arguments, **given, plan=cuda.Plan(64, 2), device=simt.Simulator())
    for x, y in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("epsilon", [1e-30, 1e-3, 1e4, 1e30])
def test_decisions_at_extreme_temperatures(family, dtype, epsilon):
    theta = adversarial_scores(9, 100, dtype)
    theta[0, ::2] *= np.finfo(dtype).max / 100  # differences overflow
    noise, epsilon = draws(family, 33), temperatures(theta, epsilon)
    with np.errstate(all="ignore"):
        expected = reference.argmax_winners(theta, epsilon, noise).T
    np.testing.assert_array_equal(winners_of(theta, epsilon, noise, 6.0), expected)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(
    "family, design", [("gumbel", "iid"), ("logistic", "iid"), ("normal", "antithetic")]
)
def test_fast_decisions(family, design, depth):
    theta = adversarial_scores(9, 600, np.float32)
    noise, epsilon = draws(family, 66, 600, DESIGNS[design]), temperatures(theta, 0.5)
    ours, expected = (winners_of(theta, epsilon, noise, x, precision="fast") for x in (depth, None))
    np.testing.assert_array_equal(ours, expected)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    scores=st.lists(st.floats(-20, 20, width=16), min_size=1, max_size=140),
    name=st.sampled_from(["normal", "gumbel", "logistic"]),
    epsilon=st.sampled_from([0.01, 0.1, 0.5, 2.0, 50.0]),
    depth=st.floats(0, 20),
)
def test_decisions_of_any_row(scores, name, epsilon, depth):
    """Scores of few digits, so that some are equal."""
    theta, noise = np.array([scores], np.float32), draws(name, 40)
    expected = reference.argmax_winners(theta, temperatures(theta, epsilon), noise).T
    ours = winners_of(theta, temperatures(theta, epsilon), noise, depth, cuda.Plan(64, 1))
    np.testing.assert_array_equal(ours, expected)


# -------------------------------------------------------------------------------------- the plan


@pytest.mark.parametrize("d, rejects", [(50, False), (130, True)])
def test_plans_reject_where_it_pays(family, d, rejects):
    theta = adversarial_scores(256, d, np.float32)
    noise, epsilon, device = draws(family, 33), temperatures(theta, 0.5), simt.Simulator()
    counts = cuda.launch(Problem(), theta, epsilon, noise, device=device).counts
    assert (counts == cpu.launch(Problem(), theta, epsilon, noise).counts).all()
    (decide,) = (kernel for kernel in device.launches if kernel.startswith("decide"))
    assert decide.endswith(", true>" if rejects else ", false>")


@pytest.mark.parametrize(
    "name, parameters",
    [("student", {}), ("normal", {"precision": "fast"}), ("normal", {"multiplicative": True})],
)
def test_plans_do_not_reject_what_words_do_not_order(name, parameters):
    theta = np.random.default_rng(0).uniform(0.5, 2, (64, 600)).astype(np.float32)
    noise = draws(name, 33, multiplicative=parameters.pop("multiplicative", False))
    device = simt.Simulator()
    given = Problem(), theta, temperatures(theta, 0.5), noise
    cuda.launch(*given, device=device, **parameters)
    (decide,) = (kernel for kernel in device.launches if kernel.startswith("decide"))
    assert decide.endswith(", false>")


# ------------------------------------------------------------------------------ limits and levels


def prepared(theta, epsilon, noise, depth, precision="portable", device=None):
    """The call that a launch makes ready, and how noise meets scores in it."""
    device = device or simt.Simulator()
    call = calls.Call(Problem(), theta, epsilon, noise, codes.SCORE, precision, device)
    kind = cuda.kind_for(call, VALUE)
    call.prepare(kind, depth)
    return call, kind


def limits_cases(d, dtype):
    """Rows and temperatures; offsets far above what noise adds, too."""
    rng = np.random.default_rng(1)
    theta = np.sort(rng.standard_normal((5, d)) * 3) * [[1], [0.1], [30], [1], [1]]
    theta += [[0], [0], [0], [1e4], [-1e4]]
    epsilon = np.array([[0.5], [3.0], [0.7], [1.0], [2.0]])
    return theta.astype(dtype), epsilon.astype(dtype)


def most_seen(call, kind, family, words):
    """What a coordinate sees of a word at most (float64 refines it by another), as decisions do."""
    if call.fast:
        flat = np.ascontiguousarray(words.reshape(-1))
        name = "exponential" if kind == codes.RACE else family
        x = formulas(np.float32, family, flat, flat, fast="true")[name].reshape(words.shape)
        x = x / np.float32(np.log(2)) if kind == codes.RACE else x
    else:
        low = (np.full_like(words, 0xFFFFFFFF),) if call.dtype == np.float64 else ()
        module = noise64 if low else noise32
        x = getattr(module, "exponential" if kind == codes.RACE else family)(words, *low)
    return -x * call.scores if kind == codes.RACE else reference.fma(x, call.scale, call.scores)


def unsafe(call, kind, family):
    """How many words short of a limit, from one to all, see as much as the level."""
    falls = call.fast and family == "gumbel"
    limits = call.limits.astype(np.int64)
    wrong = 0
    for step in np.unique(np.geomspace(1, 2**32, 300).astype(np.int64)):
        words = limits + step if falls else limits - step
        exist = (words >= 0) & (words < 2**32)
        words = np.where(exist, words, 0).astype(np.uint32)
        seen = most_seen(call, kind, family, words)
        wrong += (exist & ~(seen < call.levels[:, None])).sum()
    return wrong


@pytest.mark.parametrize("depth", [0.5, 6.0])
def test_words_short_of_a_limit_are_below_the_level(family, dtype, depth):
    theta, epsilon = limits_cases(256, dtype)
    call, kind = prepared(theta, epsilon, draws(family, 1), depth)
    assert (call.limits > 0).mean() > 0.9
    assert unsafe(call, kind, family) == 0


@pytest.mark.parametrize("depth", [0.5, 2.0, 6.0, 8.0])
@pytest.mark.parametrize(
    "family, design", [("gumbel", "iid"), ("logistic", "iid"), ("normal", "antithetic")]
)
def test_fast_words_short_of_a_limit_are_below_the_level(family, design, depth):
    theta, epsilon = limits_cases(256, np.float32)
    noise = draws(family, 2, 256, DESIGNS[design])
    call, kind = prepared(theta, epsilon, noise, depth, "fast")
    assert unsafe(call, kind, family) == 0


@pytest.mark.parametrize("depth", [3.0, 6.0])
@pytest.mark.parametrize("d", [10, 100, 3000])
@pytest.mark.parametrize("epsilon", [1e-3, 0.5, 20.0])
def test_candidates_are_few_and_seldom_not_enough(family, dtype, d, epsilon, depth):
    rng = np.random.default_rng(2)
    theta = np.stack([rng.standard_normal(d), rng.uniform(0.5, 2, d), np.zeros(d)]).astype(dtype)
    call, kind = prepared(theta, temperatures(theta, epsilon), draws(family, 1), depth)
    chances = 1 - call.limits[:, :d] / 2.0**32
    assert (chances.sum(1) < 1.5 * depth + 0.01).all()
    # P(max < level) from the level itself.
    law = reference.FAMILIES[FAMILIES[family]]
    if kind == codes.RACE:
        short = np.exp(np.sum(call.levels[:, None] / call.scores[:, :d], 1))
    else:
        short = np.prod(law.cdf((call.levels[:, None] - theta) / epsilon), 1, dtype=np.float64)
    assert (short < 1.3 * np.exp(-depth)).all()
    assert (short > 1e-3 * np.exp(-depth)).all()


# ------------------------------------------------------------------------------- negative controls

MUTANTS = {
    "probabilities half of what they are": ("0x1p32f * R::SCALED", "0x1p31f"),
    "no lower bound for what is likelier than not": ("useful = t > 0;", "useful = true;"),
    "the level of the sample above": ("limit_of<Draw>(level,", "limit_of<Draw>(level + e,"),
    "candidates beyond the list": ("if (found > CANDIDATE_QUADS) return", "if (false) return"),
    "no second look": ("best.value < levels[b]", "false"),
    "only the first of a quad": ("entry &= entry - 1", "entry = 0"),
}


@pytest.mark.simulator
@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_rejection_is_seen(tmp_path, name):
    """Decisions differ from the reference's at some depth, where the kernels' own do at none."""
    original, mutant = MUTANTS[name]
    changed = 0
    for source in simt.KERNELS.iterdir():
        if source.suffix in (".cu", ".cuh"):
            text = source.read_text()
            changed += text.count(original)
            (tmp_path / source.name).write_text(text.replace(original, mutant))
    assert changed == 1
    theta, noise = adversarial_scores(9, 130, np.float32), draws("normal", 400)
    epsilon = temperatures(theta, 0.5)
    expected = reference.argmax_winners(theta, epsilon, noise).T
    plan = cuda.Plan(64, 1)

    def right(depth):
        device = simt.Simulator(folder=tmp_path)
        try:
            ours = winners_of(theta, epsilon, noise, depth, plan, device=device)
        except simt.SimtError:  # memory that is not the list's
            return False
        return (ours == expected).all()

    assert not all(map(right, (0.0, 3.0, 15.0)))


@pytest.mark.simulator
@pytest.mark.parametrize(
    "family, original, mutant",
    [
        *((name, "1.0001f", "0.97f") for name in ("normal", "gumbel", "logistic")),
        *((name, "level - slack", "level + slack") for name in ("normal", "logistic")),
    ],
)
def test_a_margin_on_the_wrong_side_is_seen(tmp_path, family, original, mutant):
    for source in simt.KERNELS.iterdir():
        if source.suffix in (".cu", ".cuh"):
            shutil.copy(source, tmp_path)
    text = (tmp_path / "reject.cuh").read_text()
    assert text.count(original) == 1
    (tmp_path / "reject.cuh").write_text(text.replace(original, mutant))
    theta, epsilon = limits_cases(256, np.float32)
    device = simt.Simulator(folder=tmp_path)
    call, kind = prepared(theta, epsilon, draws(family, 1), 6.0, device=device)
    assert unsafe(call, kind, family) > 0
