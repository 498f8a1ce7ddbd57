"""Where the benchmarks run: on a GPU through CuPy, or, to try them out, on the tests' simulator."""

from __future__ import annotations

import datetime
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np

ROUNDS = 15
L2_BYTES = 2**28
"""More than any L2 cache holds; written before each timing."""
PACKAGES = ("perturbed-optimizers", "cupy-cuda13x", "cupy-cuda12x", "torch", "jax", "numpy")

Step = Callable[[int], object]
"""What is timed, given a seed."""


class Machine(Protocol):
    """What the benchmarks need of a place to run."""

    xp: Any
    """NumPy or CuPy."""
    kernels: Any
    """What ``dpo.kernels.cuda`` launches on; None for CuPy's current device."""

    def describe(self) -> dict[str, Any]:
        """What the numbers depend on."""

    def milliseconds(self, step: Step) -> float:
        """The median of some calls, after two that warm up."""

    def peak_bytes(self, step: Step) -> int | None:
        """Device memory that one call takes beyond what is held; None if that cannot be told."""


def versions() -> dict[str, Any]:
    found: dict[str, Any] = {
        "date": str(datetime.date.today()),
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


class Gpu:
    """CuPy's current device: CUDA events, a cold L2 cache."""

    kernels = None

    def __init__(self) -> None:
        import cupy

        self.xp = cupy
        self._flush = cupy.empty(L2_BYTES, np.uint8)

    def describe(self) -> dict[str, Any]:
        runtime = self.xp.cuda.runtime
        found = runtime.getDeviceProperties(self.xp.cuda.Device().id)
        return versions() | {
            "gpu": found["name"].decode(),
            "driver": runtime.driverGetVersion(),
            "multiprocessors": found["multiProcessorCount"],
            "clock_hertz": found.get("clockRate", 0) * 1e3,
            "copied_bytes_a_second": self._copied_bytes_a_second(),
        }

    def _copied_bytes_a_second(self) -> float:
        """Read and written, by a copy of much more than the caches hold."""
        a = self.xp.ones(2**30, np.uint8)
        b = self.xp.empty_like(a)
        return 2 * a.nbytes / (self.milliseconds(lambda seed: self.xp.copyto(b, a)) / 1e3)

    def milliseconds(self, step: Step) -> float:
        cuda, times = self.xp.cuda, []
        start, end = cuda.Event(), cuda.Event()
        for seed in range(ROUNDS + 2):
            self._flush.fill(seed)
            cuda.Device().synchronize()
            start.record()
            step(seed)
            end.record()
            end.synchronize()
            times.append(cuda.get_elapsed_time(start, end))
        return statistics.median(times[2:])

    def peak_bytes(self, step: Step) -> int | None:
        pool = self.xp.get_default_memory_pool()
        pool.free_all_blocks()
        before = pool.total_bytes()
        step(0)
        self.xp.cuda.Device().synchronize()
        return pool.total_bytes() - before


class Simulated:
    """The tests' simulator: a wall clock around one call, whose times mean nothing."""

    xp = np

    def __init__(self) -> None:
        sys.path.append(str(Path(__file__).parents[2] / "tests"))
        import simt

        self.kernels = simt.Simulator()

    def describe(self) -> dict[str, Any]:
        return versions() | {"gpu": "none: simulated, times mean nothing"}

    def milliseconds(self, step: Step) -> float:
        start = time.perf_counter()
        step(0)
        return 1e3 * (time.perf_counter() - start)

    def peak_bytes(self, step: Step) -> int | None:
        return None


def on_host(array: Any) -> np.ndarray:
    """An array of either, as NumPy's."""
    return array if isinstance(array, np.ndarray) else array.get()
