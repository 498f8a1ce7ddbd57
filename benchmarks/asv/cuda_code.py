"""The machine code of the CUDA kernels, which shows a regression without a GPU.

Needs ``cuda-bindings``, ``nvidia-cuda-nvrtc`` and ``nvidia-cuda-nvdisasm``; skipped without.
"""

from __future__ import annotations

from typing import NamedTuple

from .common import NOISES

try:
    import cuda.bindings.nvrtc  # noqa: F401
    from dpo.kernels.cuda import offline
except ImportError:
    offline = None

KINDS = {"normal": "NORMAL, ADDITIVE", "gumbel": "GUMBEL, RACE", "logistic": "LOGISTIC, ADDITIVE"}


class Code(NamedTuple):
    """One instance of ``decide``."""

    instructions: float
    """Of the inner loop, a perturbed coordinate."""
    registers: int
    seconds: float
    """Of compilation."""


def argmax_code(noise: str, precision: str, architecture: str = "sm_90") -> Code:
    """The argmax of independent float32 samples with one temperature a row."""
    fast = str(precision == "fast").lower()
    kernel = f"decide<Draw<float, {KINDS[noise]}, INDEPENDENT, SCORE, false, {fast}>>"
    compiled = offline.compile_kernels("argmax.cu", [kernel], architecture)
    (registers,) = (k.registers for k in compiled.kernels if k.name == kernel)
    instructions = offline.instructions_per_coordinate("argmax.cu", kernel, architecture)
    return Code(instructions, registers, compiled.seconds)


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
