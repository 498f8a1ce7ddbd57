"""The CUDA kernels under the compiler's address and undefined-behaviour sanitizers.

Their library must be the first of a process, hence a process of its own. The simulator's own checks
(bounds of every buffer, races) are on in all other tests; this adds integer overflow, bad shifts,
misaligned pointers, and bounds of local and shared arrays.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def library(name):
    """Where the compiler keeps a sanitizer's run-time library; None if it has none."""
    found = subprocess.run(
        ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return found if os.path.isabs(found) else None


def python(code):
    """Run ``code`` in ``tests/`` with the sanitizers loaded."""
    environment = {
        **os.environ,
        "LD_PRELOAD": f"{library('libasan.so')} {library('libubsan.so')}",
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(TESTS.parent),  # this checkout, wherever another is installed
    }
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=environment, cwd=TESTS, capture_output=True, text=True, check=False
    )


pytestmark = pytest.mark.skipif(
    library("libasan.so") is None or library("libubsan.so") is None, reason="needs sanitizers"
)

EVERY_KERNEL = """
import numpy as np, simt
from dpo.kernels.codes import *
from dpo.kernels.cuda import exact_launch, launch, shard
from dpo.kernels.exact import codes as exact
device, rng = simt.Simulator(sanitize=True), np.random.default_rng(0)
bits = int(np.float64(0).view(np.int64))
for dtype, family, design in [(np.float32, 0, INDEPENDENT), (np.float64, 1, ANTITHETIC)]:
    theta, epsilon = rng.uniform(0.5, 2, (2, 35)).astype(dtype), np.full((2, 1), 0.5, dtype)
    draws = Draws(family, (2**32 - 1, 5), 20, design)
    for problem, operations in [
        (Problem(), (MAXIMUM, VJP, JVP, JACOBIAN, MOMENTS)),
        (Problem("topk", (9,)), (MAXIMUM, VJP)),
        (Problem("ranks"), (MAXIMUM, VJP)),
        (Problem("grid_path", (5, 7, 8, bits), np.array([[0, 34]] * 2), True), (MAXIMUM, VJP)),
    ]:
        for operation in operations:
            launch.launch(
                problem, theta, epsilon, draws, operation, direction=theta, mean=theta,
                squares=True, device=device,
            )
    plan = launch.Plan(64, 1, warm_start=True)
    launch.launch(problem, theta, epsilon, draws, VALUE, plan=plan, device=device)  # of paths
    for depth in (0.0, 6.0):
        plan = launch.Plan(64, 2, depth)
        launch.launch(Problem(), theta, epsilon, draws, VALUE, plan=plan, device=device)
    part = Draws(family, (2**32 - 1, 5), 20, coordinate_offset=2**32 - 40)
    for problem in Problem(), Problem("topk", (9,)):
        best = shard.best(problem, theta, epsilon, part, device=device)
    own = best.indices[:, :, 0] - part.coordinate_offset
    shard.perturbed_scores(theta, epsilon, part, own, device=device)
    shard.merged(*best, 5, device=device)
    shard.mean_of(best.indices, part, theta, device=device)
    shard.projections(theta, best.indices, part, device=device)
    shard.vjp(theta, epsilon, part, np.ones((2, 20), dtype), 20, device=device)
    wide = dtype == np.float64
    temperatures = np.geomspace(0.3, 2, 70).reshape(2, 35) if wide else epsilon
    for problem, operations in [
        (Problem(), (exact.SECOND, exact.JACOBIAN)),
        (Problem("topk", (9,)), (exact.SECOND,)),
        (Problem("ranks"), (exact.SECOND,)),
    ]:
        for operation in operations:
            exact_launch.launch(
                problem, theta, temperatures.astype(dtype), 2 * wide, operation, v=theta, w=theta,
                device=device,
            )
print("silent", len(device.launches))
"""


def test_sanitizers_are_silent():
    out = python(EVERY_KERNEL)
    assert out.stdout.startswith("silent"), out.stderr[-3000:]


PLANTED = """
import numpy as np, simt
x, y = np.zeros(64, np.int32), np.zeros(64, np.int32)
simt.Simulator(sanitize=True, folder=simt.HERE).function("planted.cu", "{}")((1,), (64,), (x, y))
"""


@pytest.mark.parametrize(
    "kernel, complaint",
    [
        ("write_out_of_bounds", "heap-buffer-overflow"),
        ("read_out_of_bounds", "heap-buffer-overflow"),
        ("shared_out_of_bounds", "index 64 out of bounds"),
        ("overflow", "signed integer overflow"),
    ],
)
def test_sanitizers_can_complain(kernel, complaint):
    out = python(PLANTED.format(kernel))
    assert out.returncode != 0 and complaint in out.stderr, out.stderr[-3000:]
