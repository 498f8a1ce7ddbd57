"""What the contenders compute: oracle, sizes and inputs.

    y = (1 / M) sum_m y*(theta + s z_m),    g = v^T dy/dtheta

with ``s = eps`` for scores, which are maximised, and ``s = -eps`` for path costs, which are
minimised: perturbing the scores ``-costs`` by ``+eps z`` is perturbing the costs by ``-eps z``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .asv.terrain import terrain_costs

EPSILON = 0.5
ORACLES = ("argmax", "ranks", "topk", "paths", "assignment", "knapsack")
NOISES = ("normal", "gumbel")
"""The two families that every contender has."""
INPUT_SEED = 1_000_003
"""Far from the noise's seeds 0, 1, 2, ...: NumPy's noise would otherwise begin with the inputs."""


@dataclass(frozen=True)
class Workload:
    """Sizes of a perturbed oracle: ``rows`` instances of ``shape``, ``num_samples`` draws each."""

    oracle: str
    rows: int
    shape: tuple[int, ...]
    """``(d,)`` scores, ``(n, n)`` of pairs, or the ``(H, W)`` grid of costs."""
    num_samples: int
    noise: str
    k: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(self.shape))  # JSON has lists

    @property
    def d(self) -> int:
        """Coordinates of one instance."""
        return math.prod(self.shape)

    @property
    def draws(self) -> int:
        """How many noise variables one pass needs."""
        return self.rows * self.d * self.num_samples

    @property
    def scale(self) -> float:
        """``s``: the factor of the noise, and the temperature of the derivative, with its sign."""
        return -EPSILON if self.oracle == "paths" else EPSILON

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """``theta`` and ``v``, float32: standard normal, or terrain costs for paths."""
        rng = np.random.default_rng(INPUT_SEED)
        theta, v = rng.standard_normal((2, self.rows, *self.shape), np.float32)
        if self.oracle == "paths":
            theta = terrain_costs(self.rows, *self.shape, seed=INPUT_SEED + 1)
        return theta, v

    def __str__(self):
        size = "x".join(map(str, self.shape)) if len(self.shape) > 1 else f"d={self.d}"
        k = f" k={self.k}" if self.k else ""
        return f"{self.noise}, B={self.rows} {size}{k} M={self.num_samples}"


class Size(NamedTuple):
    """A workload but for oracle and noise, and how often it is timed."""

    rows: int
    shape: tuple[int, ...]
    num_samples: int
    rounds: int
    k: int | None = None


SIZES = {
    "argmax": {
        "small": Size(128, (10,), 1000, rounds=11),
        "medium": Size(128, (1000,), 1000, rounds=2),
        "large": Size(32, (32000,), 64, rounds=5),
    },
    "ranks": {
        "small": Size(128, (10,), 1000, rounds=11),
        "medium": Size(128, (100,), 1000, rounds=3),
        "large": Size(16, (1000,), 200, rounds=5),
    },
    "topk": {
        "small": Size(128, (100,), 200, rounds=11, k=10),
        "medium": Size(128, (1000,), 200, rounds=5, k=10),
    },
    "paths": {
        "small": Size(70, (12, 12), 1, rounds=7),
        "medium": Size(70, (12, 12), 100, rounds=3),
        "large": Size(70, (30, 30), 100, rounds=3),
    },
    "assignment": {
        "small": Size(16, (20, 20), 100, rounds=11),
        "medium": Size(16, (50, 50), 100, rounds=3),
    },
    "knapsack": {
        "small": Size(16, (20,), 100, rounds=7),
        "medium": Size(16, (100,), 100, rounds=3),
    },
}
SIZE_NAMES = ("small", "medium", "large")

GROWTH = {
    "argmax": [Size(4, (1000,), m, 1) for m in (1_000, 1_000_000)],
    "ranks": [Size(4, (100,), m, 1) for m in (1_000, 1_000_000)],
    "topk": [Size(4, (1000,), m, 1, k=10) for m in (1_000, 100_000)],
    "paths": [Size(4, (12, 12), m, 1) for m in (1_000, 100_000)],
    "assignment": [Size(4, (20, 20), m, 1) for m in (1_000, 100_000)],
    "knapsack": [Size(4, (20,), m, 1) for m in (1_000, 100_000)],
}
"""Where our memory is measured against M; no peer could hold the larger ones. (For any function it
grows with the solutions that are kept, to a bound that the user sets.)"""


def workloads(oracle: str, size: Size) -> Iterator[Workload]:
    """``size`` with each noise."""
    for noise in NOISES:
        yield Workload(oracle, size.rows, size.shape, size.num_samples, noise, size.k)
