"""Every barrier of the CUDA kernels is needed, and the simulator sees when one is missing.

The sources are copied without one ``__syncthreads();``, ``__syncwarp();`` or ``Team::sync();`` at a
time: a launch that runs through there must then be reported as a race, as a read of what nobody
has written, or as memory out of bounds.
"""

from __future__ import annotations

import re
import shutil
from unittest import mock

import numpy as np
import pytest
import simt
from dpo.kernels.codes import MAXIMUM, VALUE, VJP, Problem
from dpo.kernels.cuda import exact_launch, shard
from dpo.kernels.cuda import launch as cuda
from dpo.kernels.exact.codes import JACOBIAN, SECOND
from dpo.kernels.noise import NORMAL
from helpers import draws, grid, temperatures

BARRIER = re.compile(r"(__sync(threads|warp)|Team::sync)\(\);")
SOURCES = sorted(p for p in simt.KERNELS.iterdir() if p.suffix in (".cu", ".cuh"))
BARRIERS = [(p.name, k) for p in SOURCES for k in range(len(BARRIER.findall(p.read_text())))]

COLD, WARM = (cuda.Plan(64, 1, warm_start=warm) for warm in (False, True))
LAUNCHES = {
    "one thread a sample": (Problem(), 40, "gumbel", cuda.Plan(64, 1)),
    "several warps a sample": (Problem(), 1000, "normal", cuda.Plan(128, 128)),
    "early rejection": (Problem(), 130, "normal", cuda.Plan(64, 1, 0.0)),
    "early rejection by races": (Problem(), 130, "gumbel", cuda.Plan(64, 1, 6.0)),
    "top-2": (Problem("topk", (2,)), 130, "normal", cuda.Plan(64, 1)),
    "top-20": (Problem("topk", (20,)), 130, "normal", cuda.Plan(64, 1)),
    "ranks in lanes": (Problem("ranks"), 20, "normal", cuda.Plan(64, 1)),
    "ranks by warps": (Problem("ranks"), 50, "normal", cuda.Plan(64, 1)),
    "ranks by blocks": (Problem("ranks"), 130, "normal", cuda.Plan(64, 1)),
    "paths by warps": (grid(12, 12, 8, 2), 144, "normal", COLD),
    "paths by blocks": (grid(17, 18, 8, 2), 306, "normal", COLD),
    "paths by warps, from trees": (grid(12, 12, 8, 2), 144, "normal", WARM),
    "paths by blocks, from trees": (grid(17, 18, 8, 2), 306, "normal", WARM),
}
EXACT = {"exact argmax": Problem(), "exact top-3": Problem("topk", (3,))}
SHARD = "best of a shard"


def run(folder, name):
    """Counts, values and weights, or exact expectations, on 64 threads or more."""
    if name in EXACT:
        run_exact(folder, name)
        return
    if name == SHARD:
        run_shard(folder)
        return
    problem, d, family, plan = LAUNCHES[name]
    theta = np.random.default_rng(0).uniform(0.5, 2, (2, d)).astype(np.float32)
    arguments = problem, theta, temperatures(theta, 0.5), draws(family, 70)
    given = dict(direction=theta, mean=theta, plan=plan, device=simt.Simulator(folder=folder))
    for operation in (VALUE, MAXIMUM, VJP):
        cuda.launch(*arguments, operation, **given)


def run_exact(folder, name):
    """Derivatives of rows of more than one chunk, with a score that is out of the race."""
    theta = np.random.default_rng(0).standard_normal((2, 70)).astype(np.float32)
    theta[:, 0] = -np.inf
    arguments = EXACT[name], theta, temperatures(theta, np.full(70, 0.5)), NORMAL
    given = dict(v=theta, w=theta, threads=64, device=simt.Simulator(folder=folder))
    for operation in (SECOND, JACOBIAN) if name == "exact argmax" else (SECOND,):
        exact_launch.launch(*arguments, operation, **given)


def run_shard(folder):
    """Two samples of one block, of coordinates for which its list is too short."""
    theta = np.random.default_rng(0).standard_normal((1, 2100)).astype(np.float32)
    theta[:, -40:] += 9  # join the list after it was cut
    arguments = Problem("topk", (2,)), theta, temperatures(theta, 0.5), draws("normal", 2)
    with mock.patch.object(shard, "WORKSPACE_BYTES", 1):
        best = shard.best(*arguments, device=simt.Simulator(folder=folder))
        values = np.repeat(best.values, 20, axis=-1)
        numbers = np.broadcast_to(np.arange(values.shape[-1]), values.shape)
        shard.merged(values, numbers, 3, device=simt.Simulator(folder=folder))


@pytest.mark.parametrize("file, k", BARRIERS)
def test_a_missing_barrier_is_seen(tmp_path, file, k):
    for source in SOURCES:
        shutil.copy(source, tmp_path)
    text = (tmp_path / file).read_text()
    begin, end = list(BARRIER.finditer(text))[k].span()
    (tmp_path / file).write_text(text[:begin] + ";" + text[end:])
    if file.endswith(".cuh"):
        names = [*EXACT, *LAUNCHES]
    else:
        names = {
            "topk": ["top-2", "top-20"],
            "grid_path": [name for name in LAUNCHES if name.startswith("paths")],
            "exact_argmax": ["exact argmax"],
            "exact_topk": ["exact top-3"],
            "shard": [SHARD],
        }.get(file.removesuffix(".cu"), ["several warps a sample", "early rejection"])
    with pytest.raises(simt.SimtError, match=r"race|nobody has written|out of the bounds"):
        for name in names:
            run(tmp_path, name)


@pytest.mark.parametrize("name", [*LAUNCHES, *EXACT, SHARD])
def test_none_is_missing(name):
    run(simt.KERNELS, name)
