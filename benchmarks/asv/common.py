"""What the suites share: inputs, made and warmed once a process.

asv calls ``setup`` before every timing, so ``setup`` only looks up what ``prepared`` cached. The
suite is also run on old commits: a missing library or layer skips a benchmark, and parameters are
constant, whatever is installed.
"""

from __future__ import annotations

import functools as ft
from typing import Any, NamedTuple

import numpy as np

try:
    from dpo import Perturbed, set_num_threads
except ImportError:
    Perturbed = set_num_threads = None

NOISES = ["normal", "gumbel", "logistic"]
SIZES = [(128, 10, 1000), (16, 1000, 1000), (4, 32000, 64)]
"""(B, d, M): many small rows, the middle, few wide rows."""


class Prepared(NamedTuple):
    """A layer, scores and a cotangent."""

    layer: Any
    theta: np.ndarray
    v: np.ndarray


@ft.cache
def prepared(
    noise: str, rows: int, d: int, num_samples: int, spread: float = 1.0, **options
) -> Prepared:
    """float32 inputs, ``theta`` normal with standard deviation ``spread``; kernels are loaded."""
    if Perturbed is None:
        raise NotImplementedError("this commit has no Perturbed")
    rng = np.random.default_rng(0)
    theta, v = rng.standard_normal((2, rows, d), np.float32)
    theta *= np.float32(spread)
    warm = Perturbed(noise=noise, num_samples=1, **options)
    warm.vjp(theta[:1], v[:1], seed=0)  # one row: the kernel of many samples
    return Prepared(Perturbed(noise=noise, num_samples=num_samples, **options), theta, v)
