"""The record of peer comparisons: JSON that is merged by workload, and the Markdown made of it."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .measure import QUIET_CPUS
from .workloads import ORACLES, Workload

PACKAGES = (
    "perturbed-optimizers",
    "numpy",
    "numba",
    "scipy",
    "torch",
    "jax",
    "jaxopt",
    "optax",
    "scikit-image",
)
TITLES = {
    "argmax": "Argmax",
    "ranks": "Ranks",
    "topk": "Top-k",
    "paths": "Grid shortest paths",
    "assignment": "Assignment",
    "knapsack": "Knapsack, one solver",
}
INPUTS = {
    "argmax": "Standard normal scores.",
    "ranks": "Standard normal scores.",
    "topk": "Standard normal scores.",
    "paths": "Costs 0.8 to 9.2 in patches like game terrain, eight neighbours, perturbed costs "
    "clipped from below at 0.001 but where the row says 0, which is dpo's default.",
    "assignment": "Standard normal scores, maximised. Ours is `dpo.solvers.assignment`, compiled "
    "into the kernels; all others call SciPy's `linear_sum_assignment`, one instance at a time.",
    "knapsack": "Standard normal scores, weights 1 to 9, capacity a third of their sum. All rows "
    "run the function of `dpo.solvers.knapsack`: fused, or called for each sample from Python.",
}
HEADING = (
    "# Perturbed optimizers beside their peers\n\n"
    "float32, eps = 0.5. Medians over interleaved blocks of calls; ratios are to the first row of "
    "the same table. Peak extra MB: resident memory of forward + VJP beyond imports, inputs and "
    "compiled code, in a process of its own. Made by `python -m benchmarks.peers`.\n"
)


# --------------------------------------------------------------------------------- environment


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor() or platform.machine()
    fields = dict(
        (part.strip() for part in line.split(":", 1))
        for line in cpuinfo.read_text().split("\n\n")[0].splitlines()
        if ":" in line
    )
    keys = ("cpu family", "model")
    numbers = ", ".join(f"{key} {fields[key]}" for key in keys if key in fields)
    return f"{fields.get('model name', platform.machine())} ({numbers})"


def environment(threads: int) -> dict:
    """Where and when the numbers were taken."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "threads": threads,
        "load_1min": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": versions,
    }


def _describe(env: dict) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in env["versions"].items())
    return (
        f"{env['date']}. {env['cpu']}, {env['cpus']} CPUs, {env['threads']} threads for every "
        f"contender, load {env['load_1min']:.1f} before the run. Python {env['python']}, "
        f"{versions}.\n"
    )


# -------------------------------------------------------------------------------------- tables


def _time(row: dict, name: str) -> str:
    median = row[f"{name}_median_ms"]
    return f"{median:.2f}" if median < 10 else f"{median:,.0f}"


def _megabytes(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def timing_table(entry: dict) -> str:
    """A Markdown table of one workload."""
    foreign = entry["foreign_cpus"]
    lines = [
        f"### {Workload(**entry['workload'])}",
        "",
        "| contender | forward, ms | ratio | forward + VJP, ms | ratio | peak extra MB |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in entry["rows"]:
        if row["skipped"]:
            lines.append(f"| {row['contender']} | skipped: {row['skipped']} | | | | |")
            continue
        cells = [row["contender"]]
        for name in ("forward", "both"):
            cells += [_time(row, name), f"{row[f'{name}_ratio']:.2f}"]
        lines.append(f"| {' | '.join(cells)} | {_megabytes(row['peak_extra_mb'])} |")
    lines += [
        "",
        f"{len(foreign)} rounds; other processes took {max(foreign):.2f} of our CPUs at most.",
    ]
    if max(foreign) > QUIET_CPUS:
        lines[-1] += " **Not quiet: contenders whose threads spin (torch) lose most. Run again.**"
    return "\n".join(lines) + "\n"


def growth_table(growth: list[dict]) -> str:
    """A Markdown table of dpo's memory against M."""
    lines = ["### dpo's peak extra memory against M", "", "| workload | MB |", "|---|--:|"]
    for entry in growth:
        lines.append(f"| {Workload(**entry['workload'])} | {_megabytes(entry['peak_extra_mb'])} |")
    return "\n".join(lines) + "\n"


# -------------------------------------------------------------------------------------- record


class Record:
    """All that was measured so far, on disk after every workload, since a run takes long.

    Each entry carries its environment: a run of one oracle replaces the entries of its own
    workloads and leaves the others, which may be of another day or machine.
    """

    def __init__(self, env: dict, out: Path | None):
        self.env, self.out = env, out
        self.numbers: dict[str, list[dict]] = {"timings": [], "memory_against_samples": []}
        if out and out.exists():
            self.numbers |= json.loads(out.read_text())
        print(HEADING, _describe(env), sep="\n", flush=True)

    def add(self, kind: str, workload: Workload, **measured: Any) -> dict:
        """Put an entry in the place of an earlier one of that workload, or at the end."""
        entry = {"workload": asdict(workload), "environment": self.env, **measured}
        entries = self.numbers[kind]
        for i, earlier in enumerate(entries):
            if Workload(**earlier["workload"]) == workload:
                entries[i] = entry
                break
        else:
            entries.append(entry)
        if self.out:
            self.out.write_text(json.dumps(self.numbers, indent=1) + "\n")
            self.out.with_suffix(".md").write_text(self.markdown())
        return entry

    def markdown(self) -> str:
        """Every table, by oracle; the environment is said again wherever it changes."""
        parts = [HEADING]
        for oracle in ORACLES:
            timings, growth = (
                [entry for entry in entries if entry["workload"]["oracle"] == oracle]
                for entries in self.numbers.values()
            )
            if not timings and not growth:
                continue
            parts.append(f"## {TITLES[oracle]}\n\n{INPUTS[oracle]}\n")
            env = None
            for entry in timings:
                if entry["environment"] != env:
                    env = entry["environment"]
                    parts.append(_describe(env))
                parts.append(timing_table(entry))
            if growth:
                if growth[0]["environment"] != env:
                    parts.append(_describe(growth[0]["environment"]))
                parts.append(growth_table(growth))
        return "\n".join(parts)
