"""Perturbed argmax beside its peers: ``python -m benchmarks.peers [--quick]``.

One process, one set of inputs, contenders interleaved (A B C A B C ...), so that whatever else the
machine does meets all of them alike. Reported are medians, ratios of medians, and the peak memory
that ``both`` needs beyond imports, inputs and compiled code, each measured in a process of its own.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

if not __package__:  # run as a file: the folder above holds the package
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.contenders import CONTENDERS, Calls, Contender, Workload, agreement, dpo_numpy

SIZES = {"small": (128, 10, 1000), "medium": (128, 1000, 1000), "large": (32, 32000, 64)}
ROUNDS = {"small": 11, "medium": 2, "large": 5}
NOISES = ("normal", "gumbel")
GROWTH = [Workload(4, 1000, m, noise) for noise in NOISES for m in (1_000, 1_000_000)]
MEMORY_LIMIT_GB = 8.0
PAUSE_SECONDS = 0.01
"""Before each timing: OpenMP and XLA workers of the previous contender spin before they sleep."""
BLOCK_SECONDS = 0.25
"""How long one contender is called again and again before it is the next one's turn."""
QUIET_CPUS = 0.15
"""CPU seconds a second of other processes on our CPUs, below which a round is undisturbed."""
MAX_Z = 5.0


# -------------------------------------------------------------------------------------- memory


def _status_mb(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise KeyError(field)


def _peak_extra_mb(contender: Contender, workload: Workload) -> float:
    """Peak resident memory of one call of ``both``, beyond what is resident before it.

    Linux lets a process reset its high-water mark, which compilation may have raised. Elsewhere
    ``ru_maxrss`` is read, and a call that stays below the earlier peak reads 0.
    """
    calls = contender.build(workload)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        unit = 2**20 if sys.platform == "darwin" else 2**10
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        calls.both(0)
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit
    before = _status_mb("VmRSS")
    calls.both(0)
    return _status_mb("VmHWM") - before


def peak_extra_mb(contender: Contender, workload: Workload) -> float:
    """``_peak_extra_mb`` in a fresh process, which nothing else has warmed or filled."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_peak_extra_mb, contender, workload).result()


# ---------------------------------------------------------------------------------------- time


def reason_to_skip(contender: Contender, workload: Workload) -> str | None:
    """Why a contender cannot run here, or None."""
    missing = [m for m in contender.modules if importlib.util.find_spec(m) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    needed = contender.bytes_per_draw * workload.draws / 1e9
    if needed > MEMORY_LIMIT_GB:
        return f"needs about {needed:.0f} GB, limit {MEMORY_LIMIT_GB:.0f} GB"
    return None


class Round(NamedTuple):
    """Seconds of each contender, called in turn."""

    foreign_cpus: float
    """How many of our CPUs other processes kept busy meanwhile."""
    forward: list[float]
    both: list[float]


def _seconds(call, seed: int) -> float:
    """One call in the steady state of a training loop: the median of a block of calls.

    The first call of a block finds the caches and threads as the previous contender left them; it
    counts only where it fills the block alone.
    """
    time.sleep(PAUSE_SECONDS)
    block: list[float] = []
    while sum(block) < BLOCK_SECONDS:
        start = time.perf_counter()
        call(seed)
        block.append(time.perf_counter() - start)
    return statistics.median(block[1:] or block)


def _foreign_seconds() -> float:
    """CPU seconds that our CPUs have spent on other processes; 0 where the system does not tell."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    ours = {f"cpu{i}" for i in os.sched_getaffinity(0)}
    ticks = 0
    for name, *counts in map(str.split, stat.read_text().splitlines()):
        if name in ours:
            user, nice, system, _, _, irq, softirq, steal = map(int, counts[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


def _round(calls: list[Calls], seed: int) -> Round:
    foreign, start = _foreign_seconds(), time.perf_counter()
    seconds = [[_seconds(one[which], seed) for one in calls] for which in (0, 1)]
    elapsed = time.perf_counter() - start
    return Round((_foreign_seconds() - foreign) / elapsed, *seconds)


def interleaved(calls: list[Calls], rounds: int) -> list[Round]:
    """Rounds of every ``forward``, then every ``both``, after one round of warming up.

    A round that shared the machine is repeated, up to ``rounds`` times in all; the quietest are
    kept, so that what is dropped does not depend on any contender's time.
    """
    _round(calls, 0)
    done: list[Round] = []
    while len(done) < 2 * rounds and sum(r.foreign_cpus < QUIET_CPUS for r in done) < rounds:
        done.append(_round(calls, len(done) + 1))
    return sorted(done, key=lambda r: r.foreign_cpus)[:rounds]


def z_scores(calls: Calls, workload: Workload) -> tuple[float, float]:
    """How far value and VJP are from ours, in standard errors; ours use other seeds."""
    ours = dpo_numpy(workload)
    triples = zip(calls.both(0), ours.both(1), ours.both(2), strict=True)
    forward, derivative = (agreement(*triple) for triple in triples)
    return forward, derivative


def compare(workload: Workload, rounds: int) -> tuple[list[dict], list[float]]:
    """One row a contender, and how busy the machine was in each round that is kept.

    A row has times in milliseconds and memory in MB, or a reason for having neither.
    """
    rows, built, running = [], [], []
    for contender in CONTENDERS:
        row = {"contender": contender.name, "skipped": reason_to_skip(contender, workload)}
        rows.append(row)
        if row["skipped"] is None:
            row["peak_extra_mb"] = peak_extra_mb(contender, workload)
            built.append(contender.build(workload))
            running.append(row)
    for row, calls in zip(running, built, strict=True):
        row["z_scores"] = z_scores(calls, workload)
        if max(map(abs, row["z_scores"])) > MAX_Z:
            raise SystemExit(f"{row['contender']} computes something else: {row} on {workload}")
    kept = interleaved(built, rounds)
    for name in ("forward", "both"):
        for i, row in enumerate(running):
            row[f"{name}_ms"] = [1e3 * getattr(r, name)[i] for r in kept]
            row[f"{name}_median_ms"] = statistics.median(row[f"{name}_ms"])
            row[f"{name}_ratio"] = row[f"{name}_median_ms"] / running[0][f"{name}_median_ms"]
    return rows, [r.foreign_cpus for r in kept]


# -------------------------------------------------------------------------------------- report


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
    packages = ("perturbed-optimizers", "numpy", "numba", "torch", "jax", "jaxopt", "optax")
    versions = {}
    for package in packages:
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


def _time(row: dict, name: str) -> str:
    median = row[f"{name}_median_ms"]
    return f"{median:.2f}" if median < 10 else f"{median:,.0f}"


def _megabytes(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def timing_table(workload: Workload, rows: list[dict], foreign: list[float]) -> str:
    """A Markdown table of one workload."""
    lines = [
        f"### {workload}",
        "",
        "| contender | forward, ms | ratio | forward + VJP, ms | ratio | peak extra MB |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
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
    return "\n".join(lines) + "\n"


def growth_table(growth: list[dict]) -> str:
    """A Markdown table of dpo's memory against M."""
    lines = ["### dpo's peak extra memory against M", "", "| workload | MB |", "|---|--:|"]
    for entry in growth:
        lines.append(f"| {Workload(**entry['workload'])} | {_megabytes(entry['peak_extra_mb'])} |")
    return "\n".join(lines) + "\n"


def heading(env: dict) -> str:
    """Environment and how to read the tables."""
    versions = ", ".join(f"{name} {version}" for name, version in env["versions"].items())
    return (
        "# Perturbed argmax beside its peers\n\n"
        f"{env['date']}. {env['cpu']}, {env['cpus']} CPUs, {env['threads']} threads for every "
        f"contender, load {env['load_1min']:.1f} before the run. Python {env['python']}, "
        f"{versions}.\n\n"
        "float32, eps = 0.5, standard normal scores. Medians over interleaved blocks of calls; "
        "ratios are to the first row. Peak extra MB: resident memory of forward + VJP beyond "
        "imports, inputs and compiled code, in a process of its own. Made by "
        "`python -m benchmarks.peers`.\n"
    )


# ------------------------------------------------------------------------------------- command


def use_threads(threads: int) -> None:
    """Hold every contender, and every process started later, to ``threads``.

    XLA's CPU client has no option for it and takes as many threads as the process has CPUs.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ["NUMBA_NUM_THREADS"] = str(threads)
    if hasattr(os, "sched_setaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
        if threads > len(cpus):
            raise SystemExit(f"--threads {threads}: this process has {len(cpus)} CPUs")
        os.sched_setaffinity(0, cpus[:threads])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small size, three rounds")
    parser.add_argument("--rounds", type=int, help="timed calls of each contender")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", choices=(*SIZES, "all"), default="all")
    parser.add_argument("--out", type=Path, help="JSON file; the tables go beside it, as .md")
    return parser.parse_args()


class Report:
    """Tables and numbers so far; kept on disk after every workload, since a run takes long."""

    def __init__(self, env: dict, out: Path | None):
        self.out = out
        self.numbers = {"environment": env, "timings": [], "memory_against_samples": []}
        self.tables = []
        self.add(heading(env))

    def add(self, table: str) -> None:
        """Print a table and write everything."""
        self.tables.append(table)
        print(table, flush=True)
        if self.out:
            self.out.write_text(json.dumps(self.numbers, indent=1) + "\n")
            self.out.with_suffix(".md").write_text("\n".join(self.tables))

    def time(self, workload: Workload, rounds: int) -> None:
        """Add the comparison on one workload."""
        rows, foreign = compare(workload, rounds)
        entry = {"workload": asdict(workload), "foreign_cpus": foreign, "rows": rows}
        self.numbers["timings"].append(entry)
        self.add(timing_table(workload, rows, foreign))

    def grow(self) -> None:
        """Add our peak memory as M grows a thousandfold."""
        ours = next(c for c in CONTENDERS if c.build is dpo_numpy)
        growth = [
            {"workload": asdict(workload), "peak_extra_mb": peak_extra_mb(ours, workload)}
            for workload in GROWTH
        ]
        self.numbers["memory_against_samples"] = growth
        self.add(growth_table(growth))


def main() -> None:
    """Run, print the tables, write them."""
    arguments = _arguments()
    use_threads(arguments.threads)
    report = Report(environment(arguments.threads), arguments.out)
    sizes = list(SIZES) if arguments.sizes == "all" else [arguments.sizes]
    for size in ["small"] if arguments.quick else sizes:
        rounds = arguments.rounds or (3 if arguments.quick else ROUNDS[size])
        for noise in NOISES:
            report.time(Workload(*SIZES[size], noise), rounds)
    if not arguments.quick:
        report.grow()


if __name__ == "__main__":
    main()
