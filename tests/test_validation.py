"""The validation suite: its statistics, its mutants, and what its numbers mean."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from dpo.validation import (
    _path_smoothness,
    _theta_hat,
    asymptotics,
    battery,
    own_oracle,
    smoothness,
)
from dpo.validation._covariances import covariance
from dpo.validation._holm import holm
from dpo.validation._parts import PARTS, SIZES, chosen, plan
from dpo.validation._problems import small
from dpo.validation._results import Check, Section
from dpo.validation._settings import Settings
from dpo.validation._statistics import (
    MOST_SCORES,
    SEEN,
    Z_THRESHOLD,
    anderson_distance,
    anderson_score,
    chi_square_scores,
    distribution_scores,
    kolmogorov_score,
    mean_scores,
    score_of,
)
from scipy import stats

import dpo


def test_scores_of_known_p_values():
    assert score_of(0.05) == pytest.approx(1.959964, abs=1e-6)
    assert kolmogorov_score(1.358) == pytest.approx(1.96, abs=0.01)  # the usual 5 % point
    assert chi_square_scores(18.307, 10) == pytest.approx(1.645, abs=1e-3)  # two tails: 10 %
    assert chi_square_scores(3.94, 10) == pytest.approx(-1.645, abs=1e-3)


@pytest.mark.parametrize(("distance", "p"), [(2.492, 0.05), (3.857, 0.01), (5.97, 0.001)])
def test_andersons_tail_is_that_of_the_tables(distance, p):
    assert 2 * stats.norm.sf(anderson_score(distance)) == pytest.approx(p, rel=0.15)


def test_andersons_distance_is_the_integral():
    level = np.sort(np.random.default_rng(0).uniform(size=20))
    u = (np.arange(2_000_000) + 0.5) / 2_000_000
    gap = np.searchsorted(level, u) / level.size - u
    integral = level.size * np.mean(gap**2 / (u * (1 - u)))
    assert anderson_distance(level) == pytest.approx(integral, rel=1e-4)


def test_distribution_scores_accept_and_reject():
    z = np.random.default_rng(0).normal(size=100_000)
    assert np.abs(distribution_scores(z, stats.norm.cdf)).max() < 4
    assert np.abs(distribution_scores(1.05 * z, stats.norm.cdf)).min() > Z_THRESHOLD


def _sections(*statistics: float) -> list[Section]:
    checks = [Check(f"{s}", "", s, Z_THRESHOLD, scores=20_000) for s in statistics]
    return [Section("one", "", tuple(checks)), Section("two", "", (Check("exact", "", 1, 2),))]


def test_holm_lowers_thresholds_only_after_a_rejection():
    sections = _sections(3.0, -1.0)
    assert holm(sections) == sections
    failed = holm(_sections(50.0, 6.79, 1.0))[0].checks
    remaining = stats.norm.isf(1e-6 / (MOST_SCORES - 40_000) / 2)
    assert [check.passed for check in failed] == [False, False, True]
    assert failed[2].threshold == pytest.approx(remaining)
    assert all(check.passed for check in holm(_sections(6.79, 1.0))[0].checks)


def test_holm_rejects_nan_first():
    checks = holm(_sections(float("nan"), 6.79))[0].checks
    assert [check.passed for check in checks] == [False, False]


def test_plans_stay_within_the_family():
    for size in SIZES:
        parts = chosen([], size)
        assert sum(part.most_scores(size) for part in parts) <= MOST_SCORES
        assert "in all" in plan(parts, size)
    assert {part.name for part in chosen(["negative_*"], "quick")} == {
        part.name for part in PARTS if part.name.startswith("negative_")
    }
    with pytest.raises(ValueError, match="no property 'nothing'; there are quadrature"):
        chosen(["nothing"], "quick")


# --------------------------------------------------------------------------------- the propositions


@pytest.mark.parametrize("oracle", ["argmax", "topk", "ranks", "paths"])
def test_covariances_are_those_of_samples(oracle):
    case, count = small(oracle, "gumbel"), 2**16
    exact = covariance(case.oracle, case.theta[0], float(case.epsilon), "gumbel")
    layer = dpo.Perturbed(case.oracle, noise="gumbel", epsilon=case.epsilon, num_samples=count)
    y = layer.samples(case.theta[0].astype(np.float32), seed=1).reshape(count, -1)
    terms = (y - y.mean(0))[:, :, None] * (y - y.mean(0))[:, None, :]
    error = np.maximum(terms.std(0) / np.sqrt(count), 1e-9)
    assert np.abs((terms.mean(0) - exact) / error).max() < 5.5  # 81 entries at 1e-5 in all


def test_theta_hat_inverts_the_mean_and_knows_the_boundary():
    problem = asymptotics.estimation(("ranks", "gumbel"))
    a = np.array([[0.3, -0.2, 0.5, 0.1], [0.0, 0.0, 0.0, 0.0]])
    layer = dpo.Perturbed(dpo.Ranks(), noise="gumbel", epsilon=0.75, method="exact")
    means = layer(problem.case.theta + a @ problem.basis.T)
    np.testing.assert_allclose(problem.solve(means), a, atol=1e-9)
    means[1] = [5, 1, 2, 3, 4]  # a vertex of the permutahedron
    solved = problem.solve(means)
    assert np.isfinite(solved[0]).all()
    assert np.isinf(solved[1]).all()
    assert np.isinf(_theta_hat.whitened(solved, problem.limit(10))[1]).any()


def test_theta_hats_covariance_is_epsilon_over_h_for_the_softmax():
    """An exponential family: there, and only there, the sandwich is one slice."""
    problem = asymptotics.estimation(("argmax", "gumbel"))
    expected = problem.case.epsilon * np.linalg.inv(problem.hessian) / 7
    np.testing.assert_allclose(problem.limit(7), expected, rtol=1e-9, atol=1e-12)


def test_normality_scores_accept_normal_rows():
    w = np.random.default_rng(3).normal(size=(1024, 4))
    scores = asymptotics.normality_scores(w)
    assert max(np.abs(z).max() for z in scores.values()) < 4.5
    doubled = asymptotics.normality_scores(np.repeat(w[:512], 2, axis=0))
    assert doubled["independence"] > Z_THRESHOLD


def test_the_steepest_climb_climbs():
    surface = smoothness.Surface("topk", "logistic")
    start = 0.3 * np.random.default_rng(0).normal(size=(8, 5))
    top, course = smoothness.steepest(surface, start)
    assert (np.diff(course) >= 0).all()
    assert course[-1] > 1.05 * course[0]
    assert np.linalg.eigvalsh(surface.hessian(top))[:, -1].max() == pytest.approx(course[-1])


def test_paths_of_fewest_cells_are_known_and_their_best_is_the_librarys():
    """(1 + x + 1/x)^5 has 51 as its constant coefficient: as many up as down."""
    incidence = _path_smoothness._incidence()
    assert incidence.shape == (51, 30) and len(np.unique(incidence, axis=0)) == 51
    theta = np.random.default_rng(0).normal(size=(16, 30))
    best, lead = _path_smoothness._best(theta)
    surface = _path_smoothness.PathSurface("normal", 0)
    np.testing.assert_array_equal(surface.gradient(theta, 1e-6), best)
    totals = np.sort(theta @ incidence.T, axis=1)
    np.testing.assert_array_equal(lead, totals[:, -1] - totals[:, -2])


# ------------------------------------------------------------------------------------ the generator


def test_battery_accepts_a_good_generator_and_rejects_a_counter():
    good = np.random.default_rng(0).integers(2**32, size=2**18, dtype=np.uint32)
    bad = (np.arange(2**18, dtype=np.uint64) * 2654435761 % 2**32).astype(np.uint32)
    for name, test in battery.TESTS.items():
        assert np.abs(test(good)).max() < 4.5, name
    assert sum(np.abs(test(bad)).max() > Z_THRESHOLD for test in battery.TESTS.values()) >= 4


_FAKES = {
    "RNG_test": "head -c 100000 > /dev/null; echo 'length= 64 megabytes'; echo '  no anomalies'",
    "dieharder": "head -c 100000 > /dev/null; echo '  sts_monobit| 1| 100000| 100|0.33162|PASSED'",
}


def _install(folder, monkeypatch, **programs: str) -> None:
    """Programs of these names, before all others on the path."""
    for name, script in programs.items():
        program = folder / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_external_batteries_read_the_stream(tmp_path, monkeypatch):
    _install(tmp_path, monkeypatch, **_FAKES)
    section = battery.run(Settings(0))
    assert section.passed
    assert not section.skipped
    failing = _FAKES["RNG_test"].replace("no anomalies", "BCFN  R= +99.9  p = 1e-30  FAIL !!!!")
    _install(tmp_path, monkeypatch, RNG_test=failing, dieharder="cat > /dev/null & exit 0")
    failed = [check.name for check in battery.run(Settings(0)).checks if not check.passed]
    assert failed == ["dieharder", "PractRand"]


# -------------------------------------------------------------------------------------- own oracles


@dataclasses.dataclass(frozen=True)
class Backwards(dpo.Argmax):
    """Says it minimises, and maximises."""

    def problem(self, shape):
        return super().problem(shape)._replace(minimises=True)


def test_own_oracle_accepts_a_maximiser():
    section = own_oracle.run(Settings(0, "quick", oracle=dpo.TopK(2), shape=(4,)))
    assert [check.name for check in section.checks if not check.passed] == []


def test_own_oracle_rejects_what_is_no_maximiser():
    section = own_oracle.run(Settings(0, "quick", oracle=Backwards(), shape=(4,)))
    failed = {check.name for check in section.checks if not check.passed}
    assert "Decisions are optimal, normal noise" in failed


def test_faults_of_the_stated_size_are_seen_99_times_of_100():
    """Of 300 trials 290 are rejected, which a power of 99 % misses once in four thousand."""
    rng, trials = np.random.default_rng(7), 300
    terms = rng.normal(size=(trials, 4096)) + SEEN / np.sqrt(4096)
    shifts = np.array([mean_scores(row, 0.0) for row in terms])
    assert (np.abs(shifts) > Z_THRESHOLD).sum() >= 290
    spread = np.sqrt(1 + SEEN * np.sqrt(2 / 4096))
    squares = ((spread * rng.normal(size=(trials, 4096))) ** 2).sum(1)
    assert (np.abs(chi_square_scores(squares, 4096)) > Z_THRESHOLD).sum() >= 285
