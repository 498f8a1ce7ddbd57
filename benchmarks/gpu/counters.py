"""What each kernel takes by itself, by Nsight Compute (``ncu``): no host, no gaps between launches.

Times by events hold what the host needs to enqueue a launch, which is most of a small one.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from dpo.kernels.codes import VALUE, VJP, Draws
from dpo.kernels.cuda import launch as cuda

from . import timing
from .devices import Machine

METRICS = {
    "gpu__time_duration.sum": "nanoseconds",
    "smsp__issue_active.avg.pct_of_peak_sustained_active": "issue slots used, %",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "warps active, %",
    "smsp__inst_executed.sum": "instructions of warps",
    "launch__registers_per_thread": "registers",
    "lts__t_bytes.sum": "bytes through L2",
}
COMMAND = ["ncu", "--clock-control", "none", "--csv", "--metrics", ",".join(METRICS)]


def launches(tiny: bool) -> Iterator[tuple[str, Any, str, int]]:
    """Title, case, precision and operation of every launch, each of which has one ``prepare``."""
    for oracle, problem, shape in timing.our_cases(tiny):
        rows, d, num_samples = shape
        for precision in ("fast", "portable"):
            for name, operation in (("value", VALUE), ("vjp", VJP)):
                title = f"{oracle} {name} B={rows} d={d} M={num_samples}, {precision}"
                yield title, (problem, shape), precision, operation


def run(machine: Machine, tiny: bool) -> None:
    """All launches, for ``ncu`` to watch. A VJP decides again, as without a memo."""
    for _, (problem, (rows, d, num_samples)), precision, operation in launches(tiny):
        theta = timing.scores(machine, rows, d)
        epsilon = machine.xp.full((rows, 1), timing.EPSILON, theta.dtype)
        given = problem, theta, epsilon, Draws(0, (1, 0), num_samples), operation
        directions = dict(direction=theta, mean=theta)
        cuda.launch(*given, **directions, precision=precision, device=machine.kernels)


def read(text: str, tiny: bool = False) -> Iterator[dict[str, Any]]:
    """A result a kernel, from what ``ncu`` printed."""
    titles = (title for title, *_ in launches(tiny))
    title, found = None, {}
    lines = (line for line in text.splitlines() if line.startswith('"'))
    for row in csv.DictReader(lines):
        kernel = re.sub(r"^void |[<(].*", "", row["Kernel Name"])
        key = int(row["ID"])
        if key not in found:
            if kernel == "prepare":
                title = next(titles, None)
            found[key] = {"launch": title, "kernel": kernel, "grid": row["Grid Size"]}
        if row["Metric Name"] in METRICS:
            value = float(row["Metric Value"].replace(",", ""))
            found[key][METRICS[row["Metric Name"]]] = value
    for result in found.values():
        if result["launch"] and not result["kernel"].startswith("cupy_"):
            yield result


def seconds(rows: list[dict[str, Any]]) -> dict[str, float]:
    """By launch, of all its kernels."""
    total: dict[str, float] = {}
    for row in rows:
        total[row["launch"]] = total.get(row["launch"], 0) + row["nanoseconds"] / 1e9
    return total


def instructions_a_coordinate(row: dict[str, Any]) -> float:
    """Of one thread, from the launch's title."""
    sizes = [int(x) for x in re.findall(r"=(\d+)", row["launch"])]
    return 32 * row["instructions of warps"] / float(np.prod(sizes))
