"""Compile the kernels that the report uses, before anything is timed; cached on disk."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np

import dpo

from ._estimators import OUTPUTS
from ._integrals import DIFFERENCED, EXACT, cases, from_exact

ORACLES = (dpo.Argmax(), dpo.TopK(2), dpo.Ranks(), dpo.ShortestPath())


def compile_kernels(full: bool, tick: Callable[[str], None]) -> None:
    """Numba compiles one kernel at a time in a process, so each precision has one of its own."""
    in_float64 = ORACLES if full else (dpo.Argmax(), dpo.Ranks())
    context = multiprocessing.get_context("spawn")
    precisions = "float32", "float64"
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        sampled = pool.map(call_each, precisions, (ORACLES, in_float64))
        exact = pool.map(call_exact, precisions)
        for words in (*sampled, *exact):
            tick(words)


def call_each(dtype: str, oracles: tuple[dpo.Oracle, ...]) -> str:
    """Call oracles with few samples (lanes are rows) and with many (lanes are samples)."""
    for oracle in oracles:
        for num_samples in (2, 64):
            layer = dpo.Perturbed(oracle, num_samples=num_samples)
            for of in ("value", "max", "jacobian"):
                layer.estimate(np.ones((64, 2, 2), dtype), of=of, seed=0)
    return f"{dtype}: {len(oracles)} oracles"


def call_exact(dtype: str) -> str:
    """Integrate every output, with a temperature a row and one a coordinate."""
    for oracle in EXACT:
        for family in ("plain", "temperatures"):
            for case in cases(oracle, "normal", family):
                for of in (*OUTPUTS, *DIFFERENCED):
                    from_exact(case, of, np.dtype(dtype).type)
    return f"{dtype}: {len(EXACT)} exact oracles"
