"""What the suites share: inputs, made and warmed once a process, and classes to time them.

asv calls ``setup`` before every timing, so ``setup`` only looks up what ``prepared`` cached. The
suite is also run on old commits: a missing library, layer or oracle skips a benchmark, and
parameters are constant, whatever is installed.
"""

from __future__ import annotations

import functools as ft
import math
import statistics
import time
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np

from .terrain import terrain_costs

try:
    import dpo
    from dpo import Perturbed, set_num_threads
except ImportError:
    dpo = Perturbed = set_num_threads = None

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
    noise: str,
    rows: int,
    shape: int | tuple[int, int],
    num_samples: int,
    spread: float = 1.0,
    oracle: str = "Argmax",
    **parameters,
) -> Prepared:
    """float32 inputs; kernels are loaded. ``oracle`` is a name in dpo, with its ``parameters``.

    ``shape`` is d, for scores that are normal with standard deviation ``spread``, or (H, W), for
    terrain costs.
    """
    if not hasattr(dpo, "Perturbed"):
        raise NotImplementedError("this commit has no Perturbed")
    if not hasattr(dpo, oracle):
        raise NotImplementedError(f"this commit has no {oracle}")
    rng = np.random.default_rng(0)
    event = shape if isinstance(shape, tuple) else (shape,)
    theta, v = rng.standard_normal((2, rows, *event), np.float32)
    theta = terrain_costs(rows, *event) if len(event) == 2 else theta * np.float32(spread)
    make = ft.partial(Perturbed, getattr(dpo, oracle)(**parameters), noise=noise)
    warm = make(num_samples=1)
    warm(theta[:1], seed=0)
    warm.vjp(theta[:1], v[:1], seed=0)  # one row: the kernel of many samples
    return Prepared(make(num_samples=num_samples), theta, v)


class OracleBenchmark(ABC):
    """One oracle. Abstract, so asv does not take it for a benchmark by itself."""

    params: list
    param_names = ["noise", "size"]

    @abstractmethod
    def prepare(self, noise, size) -> Prepared:
        """Inputs of one size."""

    def setup(self, noise, size):
        self.layer, self.theta, self.v = self.prepare(noise, size)


class Call(OracleBenchmark):
    """What a call takes as users make it: all threads, everything included."""

    def time_value(self, noise, size):
        self.layer(self.theta, seed=0)

    def time_value_and_vjp(self, noise, size):
        self.layer(self.theta, seed=0)
        self.layer.vjp(self.theta, self.v, seed=0)


class OneThread(OracleBenchmark):
    """The kernels' own speed: nanoseconds a perturbed coordinate on one thread."""

    unit = "ns"

    def setup(self, noise, size):
        super().setup(noise, size)
        set_num_threads(1)

    def track_ns_per_coordinate_value(self, noise, size):
        return self._ns(lambda: self.layer(self.theta, seed=0))

    def track_ns_per_coordinate_vjp(self, noise, size):
        return self._ns(lambda: self.layer.vjp(self.theta, self.v, seed=0))

    def _ns(self, call, repeats: int = 9) -> float:
        times = []
        for _ in range(repeats):
            start = time.perf_counter_ns()
            call()
            times.append(time.perf_counter_ns() - start)
        return statistics.median(times) / (math.prod(self.theta.shape) * self.layer.num_samples)
