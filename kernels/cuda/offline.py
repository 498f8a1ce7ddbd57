"""What the compilers make of the kernels, on a machine without a GPU.

    compiled = offline.compile_kernels("argmax.cu", ["decide<Draw<float, ...>>"], "sm_90")
    compiled.kernels[0].registers, compiled.kernels[0].spilled

NVRTC compiles to machine code for any architecture with no driver (packages ``cuda-bindings`` and
``nvidia-cuda-nvrtc``); ``nvdisasm`` (package ``nvidia-cuda-nvdisasm``) reads it back. For tests and
benchmarks: the library itself compiles through CuPy.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import util
from pathlib import Path
from typing import NamedTuple

from . import sources

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
"""Turing, Ampere (data centre, desktop), Hopper, Blackwell (data centre, desktop)."""

ADDED_BY_CUPY = ("-ftz=true", "--device-as-default-execution-space")


class Kernel(NamedTuple):
    """What ptxas says of one kernel."""

    name: str
    registers: int
    spilled: int
    """Bytes."""
    stack: int
    """Bytes: arrays that are not in registers."""
    shared: int
    """Bytes of static shared memory."""


class Compiled(NamedTuple):
    """A compiled file."""

    kernels: tuple[Kernel, ...]
    cubin: bytes
    seconds: float


def compile_kernels(file: str, kernels: Sequence[str], architecture: str) -> Compiled:
    """Compile instances of a file's templates with CuPy's own options; raises what NVRTC says."""
    return compile_text(sources.expanded(file), file, kernels, architecture)


def compile_text(text: str, file: str, kernels: Sequence[str], architecture: str) -> Compiled:
    """As ``compile_kernels``, from the text that ``file`` stands for."""
    from cuda.bindings import nvrtc

    def checked(result):
        error, *values = result
        if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise RuntimeError(f"{file} for {architecture}: {error.name}\n{log_of(program)}")
        return values[0] if values else None

    def log_of(program) -> str:
        log = b" " * nvrtc.nvrtcGetProgramLogSize(program)[1]
        nvrtc.nvrtcGetProgramLog(program, log)
        return log.decode().rstrip("\0")

    start = time.perf_counter()
    _, program = nvrtc.nvrtcCreateProgram(text.encode(), file.encode(), 0, [], [])
    for kernel in kernels:
        checked(nvrtc.nvrtcAddNameExpression(program, kernel.encode()))
    options = [*sources.OPTIONS, *ADDED_BY_CUPY, f"-arch={architecture}", "-Xptxas=-v"]
    checked(nvrtc.nvrtcCompileProgram(program, len(options), [o.encode() for o in options]))
    seconds = time.perf_counter() - start
    names = {checked(nvrtc.nvrtcGetLoweredName(program, k.encode())).decode(): k for k in kernels}
    cubin = b" " * checked(nvrtc.nvrtcGetCUBINSize(program))
    checked(nvrtc.nvrtcGetCUBIN(program, cubin))
    return Compiled(tuple(_reports(log_of(program), names)), cubin, seconds)


def _reports(log: str, names: dict[str, str]):
    """ptxas prints a paragraph a kernel."""
    for paragraph in log.split("Compiling entry function '")[1:]:
        lowered = paragraph.partition("'")[0]
        spilled = sum(map(int, re.findall(r"(\d+) bytes spill", paragraph)))
        stack = re.search(r"(\d+) bytes stack frame", paragraph)
        shared = re.search(r"(\d+) bytes smem", paragraph)
        registers = re.search(r"Used (\d+) registers", paragraph)
        assert registers is not None, paragraph
        yield Kernel(
            names.get(lowered, lowered),
            int(registers[1]),
            spilled,
            int(stack[1]) if stack else 0,
            int(shared[1]) if shared else 0,
        )


# -------------------------------------------------------------------------------- machine code


def nvdisasm() -> str | None:
    """The disassembler: on the path, or where its Python package puts it."""
    spec = util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec else ():
        for found in Path(folder).glob("cu*/bin/nvdisasm*"):
            return str(found)
    return shutil.which("nvdisasm")


class Loop(NamedTuple):
    """A loop in machine code, from the target of a backward branch to the branch."""

    instructions: int
    philox_products: int
    """32 x 32 -> 64 bit products with Philox's multipliers."""
    storing: int
    """Instructions of blocks that write shared memory: where candidates are listed, few passes run
    them."""
    lists: int
    """How many such blocks there are."""

    @property
    def coordinates(self) -> float:
        """Perturbed coordinates of one pass: eighteen products a quad, as two are
        loop-invariant."""
        return 4 * round(self.philox_products / 18)


_MULTIPLIERS = ("-0x2daee0ad", "-0x326172a9", "0xd2511f53", "0xcd9e8d57")
_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+([^;]*);")
_LABEL = re.compile(r"^\s*(\.L_x_\d+):", re.MULTILINE)


def loops(cubin: bytes) -> list[Loop]:
    """The loops of a cubin that has one kernel."""
    program = nvdisasm()
    assert program is not None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        out = subprocess.run(
            [program, "-c", file.name], capture_output=True, text=True, check=True
        ).stdout
    labels: dict[str, int] = {}
    code: list[str] = []
    found = []
    for line in out.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(code)
        elif instruction := _INSTRUCTION.search(line):
            code.append(instruction[2])
            branch = re.search(r"BRA.*`\((\.L_x_\d+)\)", code[-1])
            if branch and branch[1] in labels:
                first = labels[branch[1]]
                body = code[first:]
                products = sum(any(m in i for m in _MULTIPLIERS) for i in body)
                storing = list(_storing_blocks(code, first, set(labels.values())))
                found.append(Loop(len(body), products, sum(storing), len(storing)))
    return found


def _storing_blocks(code: list[str], first: int, targets: set[int]) -> Iterator[int]:
    """Sizes of the basic blocks from ``first`` on that write shared memory."""
    begin = first
    for end in range(first + 1, len(code) + 1):
        if end == len(code) or end in targets or "BRA" in code[end - 1]:
            if any("STS" in instruction for instruction in code[begin:end]):
                yield end - begin
            begin = end


def instructions_per_coordinate(file: str, kernel: str, architecture: str = "sm_90") -> float:
    """Of the innermost loop that draws noise and has the most of it unrolled."""
    drawing = [
        x for x in loops(compile_kernels(file, [kernel], architecture).cubin) if x.coordinates
    ]
    inner = min(drawing, key=lambda loop: loop.instructions / loop.coordinates)
    return inner.instructions / inner.coordinates


class Rejection(NamedTuple):
    """Instructions of early rejection (``reject.cuh``), and registers."""

    coordinate: float
    """A word and a comparison."""
    quad: float
    """One that has candidates is listed."""
    candidate: float
    """One is evaluated, its words drawn again."""
    registers: int


def rejection(kernel: str, architecture: str = "sm_90") -> Rejection:
    """Of an instance ``decide<..., true>`` of ``argmax.cu``."""
    compiled = compile_kernels("argmax.cu", [kernel], architecture)
    (registers,) = (k.registers for k in compiled.kernels if k.name == kernel)
    drawing = [loop for loop in loops(compiled.cubin) if loop.coordinates]
    listing = min((x for x in drawing if x.lists), key=lambda x: x.instructions)
    candidate = min((x for x in drawing if not x.lists), key=lambda x: x.instructions)
    always = (listing.instructions - listing.storing) / listing.coordinates
    return Rejection(always, listing.storing / listing.lists, candidate.instructions, registers)


def main() -> None:
    """``python -m dpo.kernels.cuda.offline FILE KERNEL [ARCHITECTURE]``: registers and loops."""
    file, kernel, *rest = sys.argv[1:]
    compiled = compile_kernels(file, [kernel], *(rest or ["sm_90"]))
    print(*compiled.kernels, *loops(compiled.cubin), sep="\n")


if __name__ == "__main__":
    main()
