"""Time and memory of contenders: interleaved calls, medians, quiet rounds, a process for memory."""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from .contenders import Calls, Contender
from .workloads import Workload

PAUSE_SECONDS = 0.01
"""Before each timing: OpenMP and XLA workers of the previous contender spin before they sleep."""
BLOCK_SECONDS = 0.25
"""How long one contender is called again and again before it is the next one's turn."""
QUIET_CPUS = 0.15
"""CPU seconds a second of other processes on our CPUs, below which a round is undisturbed."""


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
