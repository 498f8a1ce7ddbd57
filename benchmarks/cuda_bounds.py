"""What the compiler made of the CUDA kernels, and how fast a GPU could be with it at best.

    python -m benchmarks.cuda_bounds --out benchmarks/results/cuda-code.md

counts the machine instructions of the argmax's inner loops (no GPU is needed) and turns them into
two bounds on an H200: what it can issue, and what an unfused version could move through memory. For
early rejection (``reject.cuh``) the counts of its parts are put together by the model of
``asv/cuda_code.py``: from how many coordinates on it pays follows, as ``launch.py`` has it. Of
the solvers it says how many warps, or problems, an H200's multiprocessor can hold at a time. A
regression of the compiled code shows here before anyone runs it.
"""

from __future__ import annotations

import argparse
import datetime
from importlib.metadata import version
from pathlib import Path

from dpo.kernels.cuda import offline

from .asv.cuda_code import DEPTH, KINDS, argmax_code, instance, rejecting_code

PRECISIONS = ("fast", "portable", "float64")
LENGTHS = (32, 64, 100, 1000, 10_000)
"""Coordinates of rows."""

H200_LANES = 132 * 128
"""Instructions of one thread each that an H200 issues a clock: 132 multiprocessors of 128 lanes."""
H200_CLOCK = 1.785e9
"""Hertz."""
H200_BYTES = 4.8e12
"""A second, of its memory."""
UNFUSED_BYTES = 20
"""A coordinate that noise, scores and an argmax in separate float32 kernels read and write."""
UNFUSED_BOUND = H200_BYTES / UNFUSED_BYTES
"""Coordinates a second."""


DRAW = "Draw<float, NORMAL, ADDITIVE, INDEPENDENT, SCORE, false, false>"
SOLVERS = [
    (f"{oracle}<{DRAW}, {team}, {capacity}>", of)
    for oracle, team, capacity, of in [
        ("ranks", "OneWarp", 128, "128 coordinates"),
        ("ranks", "OneWarp", 1024, "1024 coordinates"),
        ("ranks", "WholeBlock", 4096, "4096 coordinates"),
        ("topk", "OneWarp", 128, "128 coordinates"),
        ("topk", "WholeBlock", 4096, "4096 coordinates"),
        ("grid_path", "OneWarp", 324, "16 x 16 cells"),
        ("grid_path", "OneWarp", 1156, "32 x 32 cells"),
        ("grid_path", "WholeBlock", 4356, "64 x 64 cells"),
    ]
]
"""Kernels, and the largest samples that they take."""
THREADS = {"OneWarp": 128, "WholeBlock": 256}
"""Of a block."""
H200_REGISTERS, H200_SHARED, H200_WARPS = 2**16, 227 * 1024, 64
"""Of a multiprocessor."""


def warps_at_a_time(registers: int, shared: int, threads: int) -> int:
    """Of a kernel, on a multiprocessor of an H200; registers are handed out by eights."""
    warps = threads // 32
    by_registers = H200_REGISTERS // (-(-registers // 8) * 8 * threads)
    return warps * min(H200_WARPS // warps, by_registers, H200_SHARED // (shared + 1024))


def bound(instructions: float, lanes: int = H200_LANES, clock: float = H200_CLOCK) -> float:
    """Perturbed coordinates a second, on an H200 by default, if only issue slots are short."""
    return lanes * clock / instructions


def _bound(precision: str, instructions: float) -> str:
    return "" if precision == "float64" else f"{bound(instructions):.2e}"


def table() -> str:
    """Markdown."""
    lines = [
        "# Machine code of the CUDA kernels, sm_90",
        "",
        f"{datetime.date.today()}, NVRTC {version('nvidia-cuda-nvrtc')}; compiled, not run.",
        "",
        "Argmax. The bound is what the issue slots of an H200 allow. An unfused version that moves",
        f"{UNFUSED_BYTES} bytes a coordinate cannot pass {UNFUSED_BOUND:.1e} a second. Of float64",
        "instructions an H200 issues half as many; there is no bound for it here.",
        "",
        "Every coordinate evaluated:",
        "",
        "| noise | precision | instructions a coordinate | registers | bound, coordinates/s |",
        "|---|---|---|---|---|",
    ]
    for noise in KINDS:
        for precision in PRECISIONS:
            code = argmax_code(noise, precision)
            lines.append(
                f"| {noise} | {precision} | {code.instructions:.1f} | {code.registers} "
                f"| {_bound(precision, code.instructions)} |"
            )
    lines += [
        "",
        f"Early rejection, depth {DEPTH:g}: what each part takes, and by the model of",
        "`benchmarks/asv/cuda_code.py` what that is a coordinate, for rows of `d`.",
        "",
        "| noise | precision | a coordinate | a listed quad | a candidate | registers "
        + "".join(f"| d = {d} " for d in LENGTHS)
        + f"| bound at {LENGTHS[-2]}, coordinates/s |",
        "|---|---|---|---|---|---|" + "---|" * len(LENGTHS) + "---|",
    ]
    for noise in KINDS:
        for precision in PRECISIONS:
            if (noise, precision) == ("normal", "fast"):
                continue  # Box-Muller
            parts = offline.rejection(instance(noise, precision, rejects=True))
            costs = [rejecting_code(noise, precision, d).instructions for d in LENGTHS]
            lines.append(
                f"| {noise} | {precision} | {parts.coordinate:.1f} | {parts.quad:.0f} "
                f"| {parts.candidate} | {parts.registers} "
                + "".join(f"| {cost:.1f} " for cost in costs)
                + f"| {_bound(precision, costs[-2])} |"
            )
    lines += [
        "",
        "Solvers, portable normal noise: what fits on one of an H200's multiprocessors. A team has",
        "one sample at a time.",
        "",
        "| oracle | up to | team | registers | shared memory, kB | warps | teams |",
        "|---|---|---|---|---|---|---|",
    ]
    for kernel, of in SOLVERS:
        oracle, team = kernel.partition("<")[0], kernel.split(", ")[-2]
        found = offline.compile_kernels(f"{oracle}.cu", [kernel], "sm_90").kernels
        (code,) = (k for k in found if k.name == kernel)
        warps = warps_at_a_time(code.registers, code.shared, THREADS[team])
        teams = warps if team == "OneWarp" else warps * 32 // THREADS[team]
        lines.append(
            f"| {oracle} | {of} | {team} | {code.registers} | {code.shared / 1024:.1f} "
            f"| {warps} | {teams} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="a Markdown file; printed by default")
    out = parser.parse_args().out
    if out is None:
        print(table(), end="")
    else:
        out.write_text(table(), encoding="utf-8")


if __name__ == "__main__":
    main()
