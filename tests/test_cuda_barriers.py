"""Every barrier of the CUDA kernels is needed, and the simulator sees when one is missing.

The sources are copied without one ``__syncthreads();`` at a time: a launch that runs through there
must then be reported as a race, or as a read of what nobody has written.
"""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import simt
from dpo.kernels.codes import MAXIMUM, VALUE, VJP, Problem
from dpo.kernels.cuda import launch as cuda
from helpers import draws, grid, temperatures

BARRIER = "__syncthreads();"
SOURCES = sorted(p for p in simt.KERNELS.iterdir() if p.suffix in (".cu", ".cuh"))
BARRIERS = [(p.name, k) for p in SOURCES for k in range(p.read_text().count(BARRIER))]

LAUNCHES = {
    "one thread a sample": (Problem(), 40, "gumbel", cuda.Plan(64, 1)),
    "several warps a sample": (Problem(), 1000, "normal", cuda.Plan(128, 128)),
    "top-2": (Problem("topk", (2,)), 130, "normal", cuda.Plan(64, 1)),
    "top-20": (Problem("topk", (20,)), 130, "normal", cuda.Plan(64, 1)),
    "ranks in lanes": (Problem("ranks"), 20, "normal", cuda.Plan(64, 1)),
    "counted ranks": (Problem("ranks"), 50, "normal", cuda.Plan(64, 1)),
    "sorted ranks": (Problem("ranks"), 130, "normal", cuda.Plan(64, 1)),
    "paths": (grid(12, 12, 8, 2), 144, "normal", cuda.Plan(64, 1)),
}


def run(folder, name):
    """Counts, values and weights on 64 threads or more."""
    problem, d, family, plan = LAUNCHES[name]
    theta = np.random.default_rng(0).uniform(0.5, 2, (2, d)).astype(np.float32)
    arguments = problem, theta, temperatures(theta, 0.5), draws(family, 70)
    given = dict(direction=theta, mean=theta, plan=plan, device=simt.Simulator(folder=folder))
    for operation in (VALUE, MAXIMUM, VJP):
        cuda.launch(*arguments, operation, **given)


@pytest.mark.parametrize("file, k", BARRIERS)
def test_a_missing_barrier_is_seen(tmp_path, file, k):
    for source in SOURCES:
        shutil.copy(source, tmp_path)
    pieces = (tmp_path / file).read_text().split(BARRIER)
    without = BARRIER.join(pieces[: k + 1]) + ";" + BARRIER.join(pieces[k + 1 :])
    (tmp_path / file).write_text(without)
    if file.endswith(".cuh"):
        names = list(LAUNCHES)
    else:
        names = {
            "topk": ["top-2", "top-20"],
            "ranks": ["sorted ranks"],
            "grid_path": ["paths"],
        }.get(file.removesuffix(".cu"), ["one thread a sample", "several warps a sample"])
    with pytest.raises(simt.SimtError, match=r"race|nobody has written"):
        for name in names:
            run(tmp_path, name)


@pytest.mark.parametrize("name", LAUNCHES)
def test_none_is_missing(name):
    run(simt.KERNELS, name)
