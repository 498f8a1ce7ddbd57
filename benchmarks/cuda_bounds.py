"""What the compiler made of the CUDA argmax, and how fast a GPU could be with it at best.

    python -m benchmarks.cuda_bounds --out benchmarks/results/cuda-code.md

counts the machine instructions of the inner loop (no GPU is needed) and turns them into two bounds
on an H200: what it can issue, and what an unfused version could move through memory. A regression
of the compiled code shows here before anyone runs it.
"""

from __future__ import annotations

import argparse
import datetime
from importlib.metadata import version
from pathlib import Path

from .asv.cuda_code import KINDS, argmax_code

PRECISIONS = ("fast", "portable")

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


def bound(instructions: float) -> float:
    """Perturbed coordinates a second on an H200, if nothing but issue slots is short."""
    return H200_LANES * H200_CLOCK / instructions


def table() -> str:
    """Markdown."""
    lines = [
        "# Machine code of the CUDA argmax, sm_90",
        "",
        f"{datetime.date.today()}, NVRTC {version('nvidia-cuda-nvrtc')}; compiled, not run.",
        "",
        "The bound is what the issue slots of an H200 allow. An unfused version that moves",
        f"{UNFUSED_BYTES} bytes a coordinate cannot pass {UNFUSED_BOUND:.1e} a second.",
        "",
        "| noise | precision | instructions a coordinate | registers | bound, coordinates/s |",
        "|---|---|---|---|---|",
    ]
    for noise in KINDS:
        for precision in PRECISIONS:
            code = argmax_code(noise, precision)
            lines.append(
                f"| {noise} | {precision} | {code.instructions:.1f} | {code.registers} "
                f"| {bound(code.instructions):.2e} |"
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
