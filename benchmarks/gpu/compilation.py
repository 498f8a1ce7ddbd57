"""Every kernel that the other parts run, compiled by many processes at once.

CuPy and torch.compile keep what they compile on disk, so that a process that is timed, or watched,
has only to load.
"""

from __future__ import annotations

import itertools as it
import multiprocessing
import os
from collections.abc import Iterator
from typing import Any

from . import devices, equality, timing

Job = tuple[str, int]
"""Of what, and which."""
SLICES = 12
"""Of the cases of equality: one for each precision and family of a size, at least."""


class Untimed(devices.Gpu):
    """Runs a step once."""

    def milliseconds(self, step: devices.Step) -> float:
        step(0)
        return 0.0


def jobs() -> list[Job]:
    """The longest first."""
    peers = (("torch.compile", k) for k in range(len(timing.peer_cases(tiny=False))))
    sizes = it.product(("full", "small"), range(SLICES))
    ours = (("timing", k) for k in range(len(list(timing.our_cases(tiny=False)))))
    return [*peers, *sizes, *ours]


def run(job: Job) -> None:
    name, k = job
    machine = Untimed()
    if name == "timing":
        list(timing.our_rows(machine, False, k))
        return
    if name == "torch.compile":
        list(timing.torch_rows(machine, False, compiled=True, cases=slice(k, k + 1)))
        return
    for case in it.islice(equality.cases(name), k, None, SLICES):
        case.run(equality.cuda.launch, machine.xp)


def compiled(dry_run: bool) -> Iterator[dict[str, Any]]:
    if not dry_run:
        with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
            pool.map(run, jobs(), chunksize=1)
    yield {}
