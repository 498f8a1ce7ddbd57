"""Whether the GPU's results are the CPU's: ``python -m benchmarks.gpu.equality [--small]``.

Decisions and counts with ``==``, float sums to a few roundings; the worst relative difference of
each sum is printed. Exits with 1 if any decision or count differs. ``--small`` is for
compute-sanitizer.
"""

from __future__ import annotations

import argparse
import itertools as it
import sys
from typing import NamedTuple

import numpy as np
from dpo.kernels.codes import JVP, MAXIMUM, MOMENTS, VALUE, VJP, Draws, Problem
from dpo.kernels.cpu import launch as cpu
from dpo.kernels.cuda import launch as cuda

OPERATIONS = {"value": VALUE, "maximum": MAXIMUM, "vjp": VJP, "jvp": JVP, "moments": MOMENTS}


class Result(NamedTuple):
    """One launch on both sides."""

    case: str
    counts_equal: bool
    worst: float
    """Largest difference of the float sums, relative to the largest of them."""


def problems(d: int, rows: int):
    """Every oracle; ``d`` is a square number."""
    side, zero = int(d**0.5), 0  # the bits of min_cost = 0.0
    places = np.tile([0, d - 1], (rows, 1))
    yield Problem()
    yield Problem("topk", (3,))
    yield Problem("topk", (d // 2,))
    yield Problem("ranks")
    yield Problem("grid_path", (side, side, 8, zero), places, minimises=True)


def compare(small: bool = False):
    """All cases, one after another."""
    import cupy

    rows, m = (2, 5) if small else (7, 700)
    for d, dtype, family in it.product((36,) if small else (36, 1024), ("f4", "f8"), range(3)):
        rng = np.random.default_rng(0)
        theta = rng.uniform(0.5, 2, (rows, d)).astype(dtype)
        v = rng.standard_normal((rows, d)).astype(dtype)
        epsilon, draws = np.full((rows, 1), 0.5, dtype), Draws(family, (1, 2), m)
        on_gpu = cupy.asarray(v)
        for problem, (name, operation) in it.product(problems(d, rows), OPERATIONS.items()):
            expected = cpu.launch(
                problem, theta, epsilon, draws, operation, direction=v, mean=v, squares=True
            )
            ours = cuda.launch(
                problem, cupy.asarray(theta), cupy.asarray(epsilon), draws, operation,
                direction=on_gpu, mean=on_gpu, squares=True,
            )  # fmt: skip
            counts, totals = ours.counts.get(), ours.totals.get()
            equal = bool((counts[:, 0] == expected.counts[:, 0]).all())
            worst = 0.0
            if operation != VALUE:
                scale = np.abs(expected.totals).max()
                worst = float(np.abs(totals - expected.totals).max() / scale)
            yield Result(f"{problem.oracle} {name} {dtype} d={d} noise={family}", equal, worst)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--small", action="store_true")
    failed = 0
    for result in compare(parser.parse_args().small):
        failed += not result.counts_equal
        print(f"{'ok' if result.counts_equal else 'DIFFERS':8} {result.worst:8.1e} {result.case}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
