"""Perturbed scores as arrays are what the reference perturbs, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from dpo.kernels import codes, reference
from dpo.kernels.cpu.draws import perturb
from helpers import adversarial_scores, draws, temperatures


@pytest.mark.parametrize("design", [codes.INDEPENDENT, codes.ANTITHETIC, codes.SOBOL])
@pytest.mark.parametrize("each", [False, True], ids=["one", "each"])
def test_windows_are_those_of_the_reference(family, dtype, design, each):
    rows, d, samples = 9, 7, 300
    theta = adversarial_scores(rows, d, dtype)
    epsilon = temperatures(theta, np.linspace(0.3, 2, d) if each else 0.7)
    noise = draws(family, samples, d, design)
    for minimises in (False, True):
        problem = codes.Problem("topk", minimises=minimises)  # no race: scores, not exponentials
        for weighting in (codes.SCORE, codes.SCALE_SCORE):
            expected = reference.Pass(problem, theta, epsilon, noise, weighting)
            for first, count in ((0, 2), (2, samples - 2)):
                window = slice(first, first + count)
                seen = perturb(
                    theta, epsilon, noise, first, count, minimises=minimises,
                    weighting=weighting, scores=True, noise=True,
                )  # fmt: skip
                np.testing.assert_array_equal(seen.p, expected.p()[window])
                np.testing.assert_array_equal(seen.s, expected.scores[window])
                np.testing.assert_array_equal(seen.z, expected.z[window])


@pytest.mark.parametrize("d", [1, 4, 40])
def test_multiplicative_noise_and_other_sizes(dtype, d):
    theta = adversarial_scores(1, d, dtype)
    noise = draws("normal", 70, multiplicative=True, row_ids=np.array([5]))
    epsilon = temperatures(theta, 0.7)
    expected = reference.Pass(codes.Problem("topk"), theta, epsilon, noise)
    seen = perturb(theta, epsilon, noise, 0, 70)
    np.testing.assert_array_equal(seen.p, expected.p())
    assert seen.s.shape == seen.z.shape == (0, 1, d)
