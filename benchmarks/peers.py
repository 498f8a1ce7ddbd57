"""Perturbed optimizers beside their peers: ``python -m benchmarks.peers [--oracle ranks]``.

One process, one set of inputs, contenders interleaved (A B C A B C ...), so that whatever else the
machine does meets all of them alike. Reported are medians, ratios of medians, and the peak memory
that ``both`` needs beyond imports, inputs and compiled code, each measured in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

if not __package__:  # run as a file: the folder above holds the package
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.contenders import CONTENDERS, Calls, Contender, agreement
from benchmarks.measure import interleaved, peak_extra_mb
from benchmarks.report import Record, environment, growth_table, timing_table
from benchmarks.workloads import GROWTH, ORACLES, SIZE_NAMES, SIZES, Workload, workloads

MEMORY_LIMIT_GB = 8.0
CALL_LIMIT_SECONDS = 10.0
"""A contender that would take longer is timed on fewer rows, and its numbers are scaled."""
QUICK_ROUNDS = 3
MAX_Z = 5.0


def reason_to_skip(contender: Contender, workload: Workload) -> str | None:
    """Why a contender cannot run here, or None."""
    if missing := contender.missing():
        return missing
    needed = contender.bytes_per_draw * workload.draws / 1e9
    if needed > MEMORY_LIMIT_GB:
        return f"needs about {needed:.0f} GB, limit {MEMORY_LIMIT_GB:.0f} GB"
    return None


def affordable(contender: Contender, workload: Workload) -> Workload:
    """``workload``, or as many of its rows as one call can solve in ``CALL_LIMIT_SECONDS``."""
    seconds = contender.seconds_per_draw * workload.draws
    if seconds <= CALL_LIMIT_SECONDS:
        return workload
    return replace(workload, rows=max(1, int(workload.rows * CALL_LIMIT_SECONDS / seconds)))


def z_scores(calls: Calls, reference: Calls) -> tuple[float, float]:
    """How far value and VJP are from the reference's, in standard errors, on other seeds."""
    triples = zip(calls.both(0), reference.both(1), reference.both(2), strict=True)
    forward, derivative = (agreement(*triple) for triple in triples)
    return forward, derivative


def _ready(contender: Contender, reference: Contender, workload: Workload, row: dict) -> Calls:
    """Build and check a contender; ``row`` is told its memory and how it agrees."""
    part = affordable(contender, workload)
    calls = contender.build(part)
    row["rows_timed"] = part.rows
    row["peak_extra_mb"] = peak_extra_mb(contender, part) * workload.rows / part.rows
    row["z_scores"] = z_scores(calls, reference.build(part))
    if max(map(abs, row["z_scores"])) > MAX_Z:
        raise SystemExit(f"{row['contender']} computes something else: {row} on {workload}")
    return calls


def compare(workload: Workload, rounds: int) -> tuple[list[dict], list[float]]:
    """One row a contender, and how busy the machine was in each round that is kept.

    A row has times in milliseconds and memory in MB, or a reason for having neither. The first
    contender that runs, ours where this commit has the oracle, is what the others are checked
    against and what ratios refer to.
    """
    contenders = CONTENDERS[workload.oracle]
    rows = [{"contender": c.name, "skipped": reason_to_skip(c, workload)} for c in contenders]
    running = [(c, r) for c, r in zip(contenders, rows, strict=True) if r["skipped"] is None]
    reference = running[0][0]
    calls = [_ready(contender, reference, workload, row) for contender, row in running]
    kept = interleaved(calls, rounds)
    for i, (_, row) in enumerate(running):
        factor = 1e3 * workload.rows / row["rows_timed"]
        for name in ("forward", "both"):
            row[f"{name}_ms"] = [factor * getattr(r, name)[i] for r in kept]
            row[f"{name}_median_ms"] = statistics.median(row[f"{name}_ms"])
            row[f"{name}_ratio"] = row[f"{name}_median_ms"] / running[0][1][f"{name}_median_ms"]
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
        for oracle in dict.fromkeys(workload.oracle for workload, _ in planned):
            _grow(record, oracle)


if __name__ == "__main__":
    main()
