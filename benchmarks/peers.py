"""Perturbed optimizers beside their peers: ``python -m benchmarks.peers [--oracle ranks]``.

One process, one set of inputs, contenders interleaved (A B C A B C ...), so that whatever else the
machine does meets all of them alike. Reported are medians, ratios of medians, and the peak memory
that ``both`` needs beyond imports, inputs and compiled code, each measured in a process of its own.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

if not __package__:  # run as a file: the folder above holds the package
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.contenders import CONTENDERS, Calls, Contender, agreement
from benchmarks.measure import interleaved, peak_extra_mb
from benchmarks.report import Record, environment, growth_table, timing_table
from benchmarks.workloads import GROWTH, ORACLES, SIZE_NAMES, SIZES, Workload, workloads

MEMORY_LIMIT_GB = 8.0
CALL_LIMIT_SECONDS = 30.0
QUICK_ROUNDS = 3
MAX_Z = 5.0
CHECKED_ROWS = 64
"""A z-score of n rows cannot exceed sqrt(n): fewer rows are checked with several seeds."""


def reason_to_skip(contender: Contender, workload: Workload) -> str | None:
    """Why a contender cannot run here, or None."""
    if missing := contender.missing():
        return missing
    needed = contender.bytes_per_draw * workload.draws / 1e9
    if needed > MEMORY_LIMIT_GB:
        return f"needs about {needed:.0f} GB, limit {MEMORY_LIMIT_GB:.0f} GB"
    seconds = contender.seconds_per_draw * workload.draws
    if seconds > CALL_LIMIT_SECONDS:
        return f"a call takes about {seconds:.0f} s, limit {CALL_LIMIT_SECONDS:.0f} s"
    return None


def z_scores(calls: Calls, reference: Calls, rows: int) -> dict[str, tuple[float, float]]:
    """How far a contender's value and VJP are from the reference's, in standard errors."""
    seeds = range(0, 4 * math.ceil(CHECKED_ROWS / rows), 4)
    runs = [
        (calls.both(s), calls.both(s + 1), reference.both(s + 2), reference.both(s + 3))
        for s in seeds
    ]
    scores = {}
    for i, name in enumerate(("value", "vjp")):
        estimates = (
            np.concatenate([np.asarray(r[i]) for r in run]) for run in zip(*runs, strict=True)
        )
        scores[name] = agreement(*estimates)
    return scores


def compare(workload: Workload, rounds: int) -> tuple[list[dict], list[float]]:
    """One row a contender, and how busy the machine was in each round that is kept.

    A row has times in milliseconds and memory in MB, or a reason for having neither. The first
    contender that runs, ours where this commit has the oracle, is what the others are checked
    against and what ratios refer to.
    """
    contenders = CONTENDERS[workload.oracle]
    rows = [{"contender": c.name, "skipped": reason_to_skip(c, workload)} for c in contenders]
    chosen = [(c, r) for c, r in zip(contenders, rows, strict=True) if r["skipped"] is None]
    running = [row for _, row in chosen]
    built = [contender.build(workload) for contender, _ in chosen]
    for (contender, row), calls in zip(chosen, built, strict=True):
        row["peak_extra_mb"] = peak_extra_mb(contender, workload)
        row["z_scores"] = z_scores(calls, built[0], workload.rows)
        if max(abs(z) for pair in row["z_scores"].values() for z in pair) > MAX_Z:
            raise SystemExit(f"{row['contender']} computes something else: {row} on {workload}")
    kept = interleaved(built, rounds)
    for name in ("forward", "both"):
        for i, row in enumerate(running):
            row[f"{name}_ms"] = [1e3 * getattr(r, name)[i] for r in kept]
            row[f"{name}_median_ms"] = statistics.median(row[f"{name}_ms"])
            row[f"{name}_ratio"] = row[f"{name}_median_ms"] / running[0][f"{name}_median_ms"]
    return rows, [r.foreign_cpus for r in kept]


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
    parser.add_argument("--oracle", choices=(*ORACLES, "all"), default="all")
    parser.add_argument("--sizes", choices=(*SIZE_NAMES, "all"), default="all")
    parser.add_argument(
        "--out", type=Path, help="JSON file to merge into; the tables go beside it, as .md"
    )
    return parser.parse_args()


def _planned(arguments: argparse.Namespace) -> Iterator[tuple[Workload, int]]:
    """Workloads that were asked for, and their rounds."""
    oracles = ORACLES if arguments.oracle == "all" else (arguments.oracle,)
    wanted = "small" if arguments.quick else arguments.sizes
    for oracle in oracles:
        for name, size in SIZES[oracle].items():
            if wanted in (name, "all"):
                rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else size.rounds)
                yield from ((workload, rounds) for workload in workloads(oracle, size))


def _grow(record: Record, oracle: str) -> None:
    """Add our peak memory as M grows a hundred- or thousandfold."""
    ours = next(c for c in CONTENDERS[oracle] if c.name == "dpo, NumPy")
    if ours.missing():
        return
    growth = [
        record.add("memory_against_samples", workload, peak_extra_mb=peak_extra_mb(ours, workload))
        for size in GROWTH[oracle]
        for workload in workloads(oracle, size)
    ]
    print(growth_table(growth), flush=True)


def main() -> None:
    """Run, print the tables, write them."""
    arguments = _arguments()
    use_threads(arguments.threads)
    planned = list(_planned(arguments))
    if not planned:
        raise SystemExit(f"{arguments.oracle} has no size {arguments.sizes!r}")
    record = Record(environment(arguments.threads), arguments.out)
    for workload, rounds in planned:
        rows, foreign = compare(workload, rounds)
        entry = record.add("timings", workload, foreign_cpus=foreign, rows=rows)
        print(timing_table(entry), flush=True)
    if not arguments.quick:
        for oracle in dict.fromkeys(w.oracle for w, _ in planned if w.oracle in GROWTH):
            _grow(record, oracle)


if __name__ == "__main__":
    main()
