"""Whether the GPU's results are the CPU's: ``python -m benchmarks.gpu.equality --write FILE``.

Counts with ``==``, float sums to a few roundings. The CPU's results depend on no machine, and its
kernels take minutes to compile: ``--write`` keeps them, for ``python -m benchmarks.gpu --expected
FILE`` to read where time is short.
"""

from __future__ import annotations

import argparse
import itertools as it
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from dpo.kernels.codes import JACOBIAN, JVP, MAXIMUM, MOMENTS, VALUE, VJP, Draws, Problem
from dpo.kernels.cuda import launch as cuda

from .devices import Machine, on_host

OPERATIONS = {
    "value": VALUE,
    "maximum": MAXIMUM,
    "vjp": VJP,
    "jvp": JVP,
    "moments": MOMENTS,
    "jacobian": JACOBIAN,
}
SIZES = {
    "tiny": [(1, 9, 3)],
    "small": [(2, 36, 40)],
    "full": [(7, 36, 700), (7, 400, 300), (3, 1024, 300), (2, 5184, 20)],
}
"""Rows, coordinates (a square number), samples. "small" is for compute-sanitizer."""
_MOST_ENTRIES = 2**16
"""Of a Jacobian that is compared."""


class Case(NamedTuple):
    """One launch."""

    name: str
    problem: Problem
    theta: np.ndarray
    draws: Draws
    operation: int
    v: np.ndarray

    def run(self, launch: Any, xp: Any, **parameters: Any) -> tuple[np.ndarray, np.ndarray]:
        """Counts and float sums."""
        theta, v = xp.asarray(self.theta), xp.asarray(self.v)
        epsilon = xp.asarray(np.full((len(theta), 1), 0.5, self.theta.dtype))
        counts, totals = launch(
            self.problem, theta, epsilon, self.draws, self.operation, direction=v, mean=v,
            squares=True, **parameters,
        )  # fmt: skip
        return on_host(counts)[:, 0], on_host(totals)


def problems(rows: int, d: int) -> Iterator[Problem]:
    """Every oracle."""
    side, zero = int(d**0.5), 0  # the bits of min_cost = 0.0
    places = np.tile([0, d - 1], (rows, 1))
    yield Problem()
    yield Problem("topk", (3,))
    yield Problem("topk", (d // 2,))
    yield Problem("ranks")
    yield Problem("grid_path", (side, side, 8, zero), places, minimises=True)


def cases(size: str) -> Iterator[Case]:
    """Every oracle, operation, family and precision."""
    for (rows, d, m), dtype, family in it.product(SIZES[size], ("f4", "f8"), range(3)):
        rng = np.random.default_rng(0)
        theta = rng.uniform(0.5, 2, (rows, d)).astype(dtype)
        v = rng.standard_normal((rows, d)).astype(dtype)
        for problem, (name, operation) in it.product(problems(rows, d), OPERATIONS.items()):
            if operation == JACOBIAN and rows * d * d > _MOST_ENTRIES:
                continue
            options = problem.options[:1] if problem.oracle == "topk" else ()
            title = " ".join(map(str, (problem.oracle, *options, name, dtype, f"d={d}", family)))
            yield Case(title, problem, theta, Draws(family, (1, 2), m), operation, v)


def write(path: Path, size: str = "full") -> None:
    """What the CPU finds."""
    from dpo.kernels.cpu.launch import launch

    found = {}
    for case in cases(size):
        found[f"{case.name} counts"], found[f"{case.name} totals"] = case.run(launch, np)
    np.savez_compressed(path, **found)


def compare(machine: Machine, size: str, expected: Path | None) -> Iterator[dict[str, Any]]:
    """One result a case."""
    kept = np.load(expected) if expected else None
    for case in cases(size):
        counts, totals = case.run(cuda.launch, machine.xp, device=machine.kernels)
        if kept is not None:
            theirs = kept[f"{case.name} counts"], kept[f"{case.name} totals"]
        else:
            from dpo.kernels.cpu.launch import launch

            theirs = case.run(launch, np)
        worst = 0.0
        if case.operation != VALUE:
            worst = float(np.abs(totals - theirs[1]).max() / np.abs(theirs[1]).max())
        yield {
            "case": case.name,
            "counts_equal": bool((counts == theirs[0]).all()),
            "worst": worst,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", type=Path, required=True, help="an .npz file")
    parser.add_argument("--size", choices=SIZES, default="full")
    arguments = parser.parse_args()
    write(arguments.write, arguments.size)


if __name__ == "__main__":
    main()
