"""The machine code of the CUDA kernels, which shows a regression without a GPU.

Needs ``cuda-bindings``, ``nvidia-cuda-nvrtc`` and ``nvidia-cuda-nvdisasm``; skipped without.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from .common import NOISES

try:
    import cuda.bindings.nvrtc  # noqa: F401
    from dpo.kernels.cuda import offline
except ImportError:
    offline = None

KINDS = {"normal": "NORMAL, ADDITIVE", "gumbel": "GUMBEL, RACE", "logistic": "LOGISTIC, ADDITIVE"}


DEPTH = 6.0
"""Of early rejection: as launches choose it."""


def busiest(mean: float, samples: int = 32) -> float:
    """The expected maximum of Poisson numbers: candidates of the busiest sample of a warp."""
    chances = [math.exp(-mean) * mean**n / math.factorial(n) for n in range(64)]
    return sum(1 - sum(chances[: n + 1]) ** samples for n in range(64))


class Code(NamedTuple):
    """One instance of ``decide``."""

    instructions: float
    """Of the inner loop, a perturbed coordinate."""
    registers: int
    seconds: float
    """Of compilation."""


def instance(noise: str, precision: str, rejects: bool) -> str:
    """``decide`` of independent samples with one temperature a row."""
    real, fast = "double" if precision == "float64" else "float", str(precision == "fast").lower()
    draw = f"Draw<{real}, {KINDS[noise]}, INDEPENDENT, SCORE, false, {fast}>"
    return f"decide<{draw}, {str(rejects).lower()}>"


def argmax_code(noise: str, precision: str, architecture: str = "sm_90") -> Code:
    """The argmax that evaluates every coordinate."""
    kernel = instance(noise, precision, rejects=False)
    compiled = offline.compile_kernels("argmax.cu", [kernel], architecture)
    (registers,) = (k.registers for k in compiled.kernels if k.name == kernel)
    instructions = offline.instructions_per_coordinate("argmax.cu", kernel, architecture)
    blocks = 2 if precision == "float64" else 1  # of Philox, a quad
    return Code(blocks * instructions, registers, compiled.seconds)


def rejecting_code(noise: str, precision: str, d: int, architecture: str = "sm_90") -> Code:
    """The argmax that rejects early: instructions a coordinate of rows of ``d``, by a model.

    A warp has a sample a thread, and candidates are ``DEPTH`` of ``d`` coordinates, anywhere. It
    lists a quad where any thread has a candidate, evaluates as often as its busiest thread, and
    evaluates in full, all threads together, what falls short of the level::

        coordinate + quad (1 - exp(-32 4 depth / d)) / 4 + candidate busiest / d + full exp(-depth)
    """
    parts = offline.rejection(instance(noise, precision, rejects=True), architecture)
    full = argmax_code(noise, precision, architecture)
    listed = 1 - math.exp(-32 * 4 * DEPTH / d)
    instructions = (
        parts.coordinate
        + parts.quad * listed / 4
        + parts.candidate * busiest(DEPTH) / d
        + full.instructions * math.exp(-DEPTH)
    )
    return Code(instructions, parts.registers, full.seconds)


class Argmax:
    """The inner loop of the argmax: what bounds its speed once nothing is loaded or stored."""

    params = [NOISES, ["fast", "portable"], ["sm_80", "sm_90", "sm_120"]]
    param_names = ["noise", "precision", "architecture"]

    def setup(self, noise, precision, architecture):
        if offline is None or offline.nvdisasm() is None:
            raise NotImplementedError("needs NVRTC and nvdisasm")

    def track_instructions_per_coordinate(self, noise, precision, architecture):
        return argmax_code(noise, precision, architecture).instructions

    def track_registers(self, noise, precision, architecture):
        return argmax_code(noise, precision, architecture).registers

    def track_compile_seconds(self, noise, precision, architecture):
        return argmax_code(noise, precision, architecture).seconds

    track_instructions_per_coordinate.unit = "instructions"
    track_registers.unit = "registers"
    track_compile_seconds.unit = "s"


class EarlyRejection:
    """The same for rows of 1000 coordinates by early rejection."""

    params = [NOISES, ["portable", "float64"], ["sm_80", "sm_90", "sm_120"]]
    param_names = ["noise", "precision", "architecture"]

    setup = Argmax.setup

    def track_instructions_per_coordinate(self, noise, precision, architecture):
        return rejecting_code(noise, precision, 1000, architecture).instructions

    track_instructions_per_coordinate.unit = "instructions"
