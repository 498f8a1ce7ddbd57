"""Compile the kernels that the report uses, before anything is timed; cached on disk."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed

import numpy as np

import dpo

from ._estimators import OUTPUTS
from ._integrals import DIFFERENCED, EXACT, cases, from_exact

ORACLES = (dpo.Argmax(), dpo.TopK(2), dpo.Ranks(), dpo.ShortestPath())


def compile_kernels(full: bool, tick: Callable[[str], None]) -> None:
    """Numba compiles one kernel at a time in a process, so there is a process a processor."""
    in_float64 = ORACLES if full else (dpo.Argmax(), dpo.Ranks())
    jobs = [
        *((call, "float32", oracle) for oracle in ORACLES),
        *((call, "float64", oracle) for oracle in in_float64),
        *((call_exact, dtype, oracle) for dtype in ("float32", "float64") for oracle in EXACT),
    ]
    processes = max(1, min(len(jobs), os.cpu_count() or 1))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        running = [pool.submit(*job) for job in jobs]
        for job in as_completed(running):
            tick(job.result())


def call(dtype: str, oracle: dpo.Oracle) -> str:
    """Call an oracle with few samples (lanes are rows) and with many (lanes are samples)."""
    for num_samples in (2, 64):
        layer = dpo.Perturbed(oracle, num_samples=num_samples)
        for of in ("value", "max", "jacobian"):
            layer.estimate(np.ones((64, 2, 2), dtype), of=of, seed=0)
    return f"{dtype}: {oracle}"


def call_exact(dtype: str, oracle: dpo.Oracle) -> str:
    """Integrate every output, with a temperature a row and one a coordinate."""
    for family in ("plain", "temperatures"):
        for case in cases(oracle, "normal", family):
            for of in (*OUTPUTS, *DIFFERENCED):
                from_exact(case, of, np.dtype(dtype).type)
    return f"{dtype}: {oracle}, exact"
