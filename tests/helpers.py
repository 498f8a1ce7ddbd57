"""Shared inputs: random and adversarial scores, and short names for what every test needs."""

from __future__ import annotations

import os

import numpy as np
import pytest
from dpo.kernels import codes, noise, sobol
from dpo.kernels.cpu import launch

import dpo

ON_GPU = bool(os.environ.get("DPO_TEST_GPU"))
"""Whether a GPU takes the place of the simulator (``simt/hardware.py``)."""

FAMILIES = {
    "normal": noise.NORMAL,
    "gumbel": noise.GUMBEL,
    "logistic": noise.LOGISTIC,
    "laplace": dpo.Laplace().family,
    "student": dpo.StudentT(3).family,
}
DTYPES = (np.float32, np.float64)
SEED = (0x12345678, 0x9ABCDEF0)

# Words at which formulas change branch, and the ends of the range.
EDGE_WORDS = np.array(
    [0, 1, 2, 255, 2**31 - 129, 2**31 - 1, 2**31, 2**31 + 128, 2**32 - 256, 2**32 - 2, 2**32 - 1],
    np.uint32,
)


def random_words(n, seed=0):
    """Uniform words, words deep in both tails, and the edges."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 2**32, n, dtype=np.uint32)
    deep = words[: n // 4] >> rng.integers(0, 32, n // 4, dtype=np.uint32)
    return np.concatenate([EDGE_WORDS, ~EDGE_WORDS, words, deep, ~deep])


def adversarial_scores(rows, d, dtype, seed=0):
    """A row each: ordinary, equal, tiny, huge, one leader, masked by -inf, +inf, all, signed 0."""
    rng = np.random.default_rng(seed)
    theta = rng.standard_normal((rows, d)) * 2
    kinds = [
        lambda x: x,
        lambda x: np.full(d, 1.5),
        lambda x: x * 1e-30,
        lambda x: np.round(x) * 1e8,
        lambda x: np.where(np.arange(d) == d - 1, 50.0, x),
        lambda x: np.where(np.arange(d) % 2 == 0, -np.inf, x),
        lambda x: np.where(np.arange(d) % 3 == 1, np.inf, x),
        lambda x: np.full(d, -np.inf),
        lambda x: np.where(np.arange(d) % 2 == 0, -0.0, 0.0),
    ]
    return np.stack([kinds[b % len(kinds)](theta[b]) for b in range(rows)]).astype(dtype)


def draws(family, num_samples, d=1, design=codes.INDEPENDENT, **parameters):
    """The tests' noise: their seed, a family by name."""
    if design == codes.SOBOL:
        parameters["directions"] = sobol.directions(d, max(1, (num_samples - 1).bit_length()))
    return codes.Draws(FAMILIES[family], SEED, num_samples, design, **parameters)


def temperatures(theta, epsilon):
    """A temperature for all, or an array of them, as launches take it."""
    return np.broadcast_to(np.asarray(epsilon, theta.dtype), (len(theta), np.size(epsilon) or 1))


def call(
    theta,
    family,
    num_samples,
    operation=codes.VALUE,
    epsilon=0.5,
    problem=codes.Problem(),  # noqa: B008, a constant
    design=codes.INDEPENDENT,
    sample_offset=0,
    row_offset=0,
    **parameters,
):
    """One launch with the tests' seed."""
    noise_ = draws(
        family,
        num_samples,
        theta.shape[1],
        design,
        sample_offset=sample_offset,
        row_ids=row_offset + np.arange(len(theta)),
    )
    return launch.launch(
        problem, theta, temperatures(theta, epsilon), noise_, operation, **parameters
    )


def grid(height, width, neighbors=8, rows=1, source=0, target=-1, min_cost=0.0):
    """A shortest-path problem."""
    places = np.tile(np.array([source, target]) % (height * width), (rows, 1))
    bits = int(np.float64(min_cost).view(np.int64))
    return codes.Problem("grid_path", (height, width, neighbors, bits), places, minimises=True)


def require_numba_cuda():
    """Skip where users' oracles cannot be compiled for a GPU."""
    pytest.importorskip("numba_cuda")
    try:
        import numba.cuda.np.arrayobj  # noqa: F401
    except AttributeError as error:
        pytest.skip(f"numba-cuda does not work with this NumPy: {error}")
