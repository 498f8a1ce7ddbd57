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

if not __package__:  # run as a file: the folder above holds the package
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.contenders import CONTENDERS, Calls, Contender, Workload, agreement, dpo_numpy

SIZES = {"small": (128, 10, 1000), "medium": (128, 1000, 1000), "large": (32, 32000, 64)}
ROUNDS = {"small": 51, "medium": 5, "large": 7}
NOISES = ("normal", "gumbel")
GROWTH = [Workload(4, 1000, m, noise) for noise in NOISES for m in (1_000, 1_000_000)]
MEMORY_LIMIT_GB = 8.0
PAUSE_SECONDS = 0.01
"""Before each timing: OpenMP and XLA workers of the previous contender spin before they sleep."""
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


def _seconds(call, seed: int) -> float:
    time.sleep(PAUSE_SECONDS)
    start = time.perf_counter()
    call(seed)
    return time.perf_counter() - start


def interleaved(calls: list[Calls], rounds: int) -> list[tuple[list[float], list[float]]]:
    """Seconds of every ``forward`` and of every ``both``, a list each per contender."""
    times = [([], []) for _ in calls]
    for round_ in range(-1, rounds):
        for which in (0, 1):
            for own, one in zip(times, calls, strict=True):
                seconds = _seconds(one[which], round_ + 1)
                if round_ >= 0:  # the first round warms up
                    own[which].append(seconds)
    return times


def z_scores(calls: Calls, workload: Workload) -> tuple[float, float]:
    """How far value and VJP are from ours, in standard errors; ours use other seeds."""
    ours = dpo_numpy(workload)
    triples = zip(calls.both(0), ours.both(1), ours.both(2), strict=True)
    forward, derivative = (agreement(*triple) for triple in triples)
    return forward, derivative


def compare(workload: Workload, rounds: int) -> list[dict]:
    """One row a contender: times in milliseconds, memory in MB, or a reason for having neither."""
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
    times = interleaved(built, rounds)
    for row, own in zip(running, times, strict=True):
        for name, seconds in zip(("forward", "both"), own, strict=True):
            row[f"{name}_ms"] = [1e3 * s for s in seconds]
            row[f"{name}_median_ms"] = 1e3 * statistics.median(seconds)
    for row in running:
        for name in ("forward", "both"):
            key = f"{name}_median_ms"
            row[f"{name}_ratio"] = row[key] / running[0][key]
    return rows


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


def timing_table(workload: Workload, rows: list[dict]) -> str:
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
        "float32, eps = 0.5, standard normal scores. Medians of interleaved calls; ratios are to "
        "the first row. Peak extra MB: resident memory of forward + VJP beyond imports, inputs "
        "and compiled code, in a process of its own. Made by `python -m benchmarks.peers`.\n"
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


def main() -> None:
    """Run, print the tables, write them."""
    arguments = _arguments()
    use_threads(arguments.threads)
    env = environment(arguments.threads)
    parts = [heading(env)]
    print(parts[0], flush=True)
    sizes = list(SIZES) if arguments.sizes == "all" else [arguments.sizes]
    timings, growth = [], []
    for size in ["small"] if arguments.quick else sizes:
        rounds = arguments.rounds or (3 if arguments.quick else ROUNDS[size])
        for noise in NOISES:
            workload = Workload(*SIZES[size], noise)
            rows = compare(workload, rounds)
            timings.append({"workload": asdict(workload), "rounds": rounds, "rows": rows})
            parts.append(timing_table(workload, rows))
            print(parts[-1], flush=True)
    if not arguments.quick:
        ours = next(c for c in CONTENDERS if c.build is dpo_numpy)
        for workload in GROWTH:
            peak = peak_extra_mb(ours, workload)
            growth.append({"workload": asdict(workload), "peak_extra_mb": peak})
        parts.append(growth_table(growth))
        print(parts[-1], flush=True)
    if arguments.out:
        results = {"environment": env, "timings": timings, "memory_against_samples": growth}
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text("\n".join(parts))


if __name__ == "__main__":
    main()
