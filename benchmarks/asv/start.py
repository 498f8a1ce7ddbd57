"""Time from a fresh process to a first result, which no warmed benchmark shows."""

from __future__ import annotations

import statistics
import subprocess
import sys

from . import common

_IMPORT = """
import time, numpy
start = time.perf_counter()
import dpo
print(time.perf_counter() - start)
"""

_FIRST_CALL = """
import time, numpy, dpo
theta = numpy.zeros((1, 2), "float32")
start = time.perf_counter()
dpo.perturbed_argmax(theta, num_samples=1, seed=0)
print(time.perf_counter() - start)
"""


class FreshProcess:
    """``import dpo`` beyond NumPy's import, then the first call's import of Numba and its load of
    compiled kernels from the on-disk cache.
    """

    unit = "s"
    timeout = 300

    def setup(self):
        if common.Perturbed is None:
            raise NotImplementedError("this commit has no Perturbed")

    def track_import_seconds(self):
        return _median_seconds(_IMPORT)

    def track_first_call_seconds(self):
        return _median_seconds(_FIRST_CALL)


def _median_seconds(program: str, repeats: int = 5) -> float:
    # -P: a dpo folder in the current directory must not stand in for the installed library.
    command = [sys.executable, "-P", "-c", program]
    times = []
    for _ in range(repeats + 1):
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        times.append(float(result.stdout))
    return statistics.median(times[1:])  # the first run fills the caches of disk and kernels
