"""CUDA kernels on a machine without a GPU: compiled by g++, unmodified, and run in fibers.

    simt.Simulator(seed=0).function("argmax.cu", "decide<Draw<float, ...>>")(grid, block, arguments)

is called just as the CuPy function of the same name, with NumPy arrays in place of CuPy's. What
goes wrong in a kernel (``runtime.cpp`` lists what is seen) raises ``SimtError``. So does an
argument that is not exactly of the parameter's type: on the device it would be read as garbage.

``Simulator(sanitize=True)`` compiles with the address and undefined-behaviour sanitizers in place
of the simulator's own look at memory. Their library must come first in a process: see ``tests/
test_cuda_sanitizers.py``.
"""

from __future__ import annotations

import ctypes
import functools as ft
import hashlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from dpo.kernels.cuda.calls import Record, layout

HERE = Path(__file__).parent
KERNELS = HERE.parents[1] / "kernels" / "cuda"
BUILD = HERE / "build"

_COMMON = [
    "g++",
    "-std=c++17",
    "-O1",
    "-fPIC",
    "-ffp-contract=off",
    "-Wall",
    "-Wno-unknown-pragmas",
]
_FMA = ["-mfma"] if os.uname().machine == "x86_64" else []
_CHECKED = ["-fsanitize=thread", "--param", "tsan-instrument-func-entry-exit=0"]
_SANITIZED = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


class SimtError(RuntimeError):
    """A kernel did what no kernel may do."""


class Arrays:
    """NumPy, but new memory is NaN (or -1): what a kernel does not write cannot pass for a zero."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def empty(shape, dtype) -> np.ndarray:
        result = np.empty(shape, dtype)
        result.reshape(-1).view(np.uint8).fill(0xFF)
        return result


class Flag:
    """``calls.Flag`` of NumPy's."""

    def __init__(self, array: Any):
        self.array = array

    def raised(self) -> bool:
        if not self.array[0]:
            return False
        self.array[0] = 0
        return True


class OnHost:
    """What a device does besides launching, with arrays of NumPy's."""

    capturing = False

    def constant(self, values: np.ndarray) -> np.ndarray:
        return values.copy()

    def filled(self, shape: tuple[int, ...], value: float, dtype: type) -> np.ndarray:
        return np.full(shape, value, dtype)

    @ft.cached_property
    def _flag(self) -> Flag:
        return Flag(np.zeros(1, np.int32))

    def flag(self) -> Flag:
        return self._flag


class Simulator(OnHost):
    """A device to launch on; ``seed`` orders the threads."""

    def __init__(self, seed: int = 0, sanitize: bool = False, folder: Path = KERNELS):
        self.xp = Arrays()
        self.seed = seed
        self.sanitize = sanitize
        self.folder = folder
        self.launches: list[str] = []

    def function(self, file: str, kernel: str) -> Function:
        return Function(self, kernel, _library(self.folder / file, kernel, self.sanitize))

    def linked(self, kernel: str, solver) -> Function:
        """A kernel of ``user.cu``, with the user's function as compiled for the CPU in it."""
        from dpo.kernels.cpu import user_function

        solve = ctypes.c_uint64.in_dll(_runtime(self.sanitize), "simt_solve")
        solve.value = user_function.address(solver)
        return self.function("user.cu", kernel)


class Function:
    """One kernel, called as CuPy's are."""

    def __init__(self, simulator: Simulator, kernel: str, library: ctypes.CDLL):
        self.simulator, self.kernel, self.library = simulator, kernel, library
        text = ctypes.create_string_buffer(1000)
        library.simt_describe(text)
        self.parameters = _parameters(text.value.decode().split())

    def __call__(self, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any]) -> None:
        self.simulator.launches.append(self.kernel)
        if len(arguments) != len(self.parameters):
            raise SimtError(f"{len(arguments)} arguments for {self.parameters}")
        values = list(map(self._value, self.parameters, arguments))
        pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        fields = [x for a in arguments for x in (a if isinstance(a, Record) else (a,))]
        arrays = [a for a in fields if isinstance(a, np.ndarray)]
        spans = [n for a in arrays for n in (a.ctypes.data, a.nbytes)]
        image = (ctypes.c_void_p * 3)()
        self.library.simt_image(image)
        error = _runtime(self.simulator.sanitize).simt_launch(
            ctypes.cast(self.library.simt_call, ctypes.c_void_p),
            pointers,
            image,
            (ctypes.c_uint32 * 3)(*_three(grid)),
            (ctypes.c_uint32 * 3)(*_three(block)),
            len(arrays),
            (ctypes.c_uint64 * len(spans))(*spans),
            ctypes.c_uint64(self.simulator.seed),
        )
        if error:
            raise SimtError(f"{self.kernel}: {error.decode()}")

    def _value(self, parameter: str | list[str], argument: Any) -> Any:
        """The argument's bytes, if it is exactly what the parameter wants."""
        if isinstance(argument, Record) and isinstance(parameter, list):
            return self._struct(parameter, argument)
        if isinstance(argument, np.generic) and _code(argument.dtype) == parameter:
            return ctypes.create_string_buffer(argument.tobytes(), argument.itemsize)
        return ctypes.c_void_p(self._address(parameter, argument))

    def _struct(self, parameter: list[str], argument: Record) -> Any:
        size, *fields = parameter
        if len(fields) != len(argument):
            raise SimtError(f"{self.kernel}: {len(argument)} fields for {fields}")
        for field, x in zip(fields, argument, strict=True):
            self._value(field, x)
        values = (x if isinstance(x, np.generic) else _address(x) for x in argument)
        packed = layout([argument]).pack(*values)
        if len(packed) != int(size):
            raise SimtError(f"{self.kernel}: {len(packed)} bytes for a struct of {size}")
        return ctypes.create_string_buffer(packed, len(packed))

    def _address(self, parameter: str | list[str], argument: Any) -> int:
        if parameter[0] == "*" and argument is None:
            return 0
        fits = isinstance(argument, np.ndarray) and f"*{_code(argument.dtype)}" == parameter
        if not fits:
            raise SimtError(f"{self.kernel}: {argument!r} for a parameter of type {parameter}")
        if not argument.flags.c_contiguous:
            raise SimtError(f"{self.kernel}: an array that is not contiguous")
        return _address(argument)


def _address(x: np.ndarray | None) -> int:
    return 0 if x is None else x.ctypes.data


def _parameters(words: list[str]) -> list[Any]:
    """What ``entry.cpp`` says of parameters; of a struct, a list."""
    found: list[Any] = []
    into = found
    for word in words:
        if word.startswith("("):
            into = [word[1:]]
            found.append(into)
        elif word == ")":
            into = found
        else:
            into.append(word)
    return found


def _code(dtype: Any) -> str:
    return f"{dtype.kind}{dtype.itemsize}"


def _three(shape: Sequence[int]) -> list[int]:
    return [*shape, 1, 1][:3]


# ------------------------------------------------------------------------------------- compilation


def _compiled(
    name: str, flags: list[str], sources: list[Path], steps: list[list[str]], folder: Path = BUILD
) -> Path:
    """``name-hash.so``, made by ``steps`` unless sources and flags are those of last time."""
    stamp = hashlib.sha256(repr(flags).encode())
    for source in sources:
        stamp.update(source.read_bytes())
    folder.mkdir(exist_ok=True)
    library = folder / f"{name}-{stamp.hexdigest()[:20]}.so"
    if not library.exists():
        scratch = str(folder / f"{library.stem}-{os.getpid()}")
        for step in steps:
            command = [part.format(scratch=scratch) for part in step]
            out = subprocess.run(command, capture_output=True, text=True, check=False)
            if out.returncode:
                raise SimtError(f"{' '.join(command)}\n{out.stderr[-4000:]}")
        Path(f"{scratch}.o").unlink(missing_ok=True)
        Path(f"{scratch}.so").replace(library)
    return library


@ft.cache
def _runtime_path(sanitize: bool) -> Path:
    flags = [*_COMMON, *(_SANITIZED if sanitize else ["-O2"])]
    build = [*flags, "-shared", str(HERE / "runtime.cpp"), "-o", "{scratch}.so"]
    return _compiled("runtime", flags, sorted(HERE.glob("*.?pp")), [build])


@ft.cache
def _runtime(sanitize: bool) -> ctypes.CDLL:
    library = ctypes.CDLL(str(_runtime_path(sanitize)), mode=ctypes.RTLD_GLOBAL)
    library.simt_launch.restype = ctypes.c_char_p
    return library


@ft.cache
def _library(source: Path, kernel: str, sanitize: bool) -> ctypes.CDLL:
    _runtime(sanitize)
    checks = _SANITIZED if sanitize else _CHECKED
    flags = [*_COMMON, *_FMA, *checks, f"-DSIMT_KERNEL={kernel}", f'-DSIMT_SOURCE="{source}"']
    compile_ = [*flags, f"-I{source.parent}", f"-I{KERNELS}", f"-I{HERE}", "-fno-gnu-unique", "-c"]
    compile_ += [str(HERE / "entry.cpp"), "-o", "{scratch}.o"]
    link = ["g++", "-shared", *(checks if sanitize else []), "{scratch}.o", "-o", "{scratch}.so"]
    link += [str(_runtime_path(sanitize)), "-Wl,-Bsymbolic"]
    headers = [*source.parent.glob("*.cuh"), *KERNELS.glob("*.cuh"), *HERE.glob("*.?pp")]
    ours = source.parent in (KERNELS, HERE)
    folder = BUILD if ours else source.parent / "build"
    sources = [source, *sorted(set(headers))]
    path = _compiled(source.stem, flags, sources, [compile_, link], folder)
    return ctypes.CDLL(str(path))
