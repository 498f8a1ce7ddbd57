"""A user's solver on a GPU: its function as device code, linked to ``user.cu``.

Numba-CUDA (package ``numba-cuda``) compiles the function to PTX, NVRTC the kernel around it to PTX
that leaves ``dpo_solve`` open, and nvJitLink joins the two to machine code. Two things differ from
the CPU: arrays cannot be made inside the function (declare a ``workspace``), and indices are not
checked.
"""

from __future__ import annotations

import functools as ft
from typing import Any

import numpy as np

from ..user import Solver
from . import sources
from .offline import ADDED_BY_CUPY

FILE = "user.cu"
THREADS = 128
"""Of a block, at most."""


def _numba_cuda() -> Any:
    remedy = (
        "pip install 'perturbed-optimizers[cuda13]' (cuda12 for CUDA 12), or pass arrays in CPU "
        "memory"
    )
    try:
        import numba.cuda.np.arrayobj  # noqa: F401
        from numba import cuda
        from numba.cuda.extending import intrinsic  # noqa: F401, numba's own cuda is too old
    except ImportError:
        raise ImportError(
            "an oracle of your own runs on a GPU through numba-cuda, which is not installed: "
            + remedy
        ) from None
    except AttributeError as error:  # numba-cuda 0.30 uses what NumPy 2.5 has removed
        raise ImportError(
            "an oracle of your own runs on a GPU through numba-cuda, and the one installed does "
            f"not work with NumPy {np.__version__} ({error}): {remedy}"
        ) from error
    return cuda


@ft.cache
def device_function(solver: Solver, architecture: tuple[int, int]) -> str:
    """PTX of ``dpo_solve`` (``user.cu``); ``TypeError`` if Numba cannot compile the function."""
    cuda = _numba_cuda()
    from numba.cuda import cgutils, types
    from numba.cuda.extending import intrinsic
    from numba.cuda.np.arrayobj import make_array, populate_array

    from ..arguments import Toolbox, all_arguments

    toolbox = Toolbox(types, intrinsic, cgutils, make_array, populate_array)
    _, arguments_at = all_arguments(toolbox, solver)
    solve = cuda.jit(device=True)(solver.function)

    @cuda.jit(device=True)
    def guarded(solved, *arguments):
        solve(*arguments)
        solved[0] = 1  # an exception returns before this

    def dpo_solve(scores, solution, shared, row, work, layout):
        solved = cuda.local.array(1, types.int64)
        solved[0] = 0
        guarded(solved, *arguments_at(scores, solution, shared, row, work, layout))
        return solved[0]

    signature = types.int64(*[types.int64] * 6)
    try:
        ptx, _ = cuda.compile(
            dpo_solve, signature, device=True, abi="c", cc=architecture, output="ptx"
        )
    except Exception as error:  # Numba's kinds of errors have no common base
        raise TypeError(
            f"oracle {solver.name} cannot be compiled for a GPU: arrays to work in must be "
            "declared (workspace=...), not made; or pass arrays in CPU memory. Numba says:\n"
            f"{error}"
        ) from None
    return ptx


@ft.cache
def _kernel_ptx(kernel: str, architecture: tuple[int, int]) -> tuple[bytes, str]:
    """PTX of the kernel, ``dpo_solve`` left open, and the kernel's name in it."""
    from cuda.bindings import nvrtc

    def checked(result):
        error, *values = result
        if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = b" " * nvrtc.nvrtcGetProgramLogSize(program)[1]
            nvrtc.nvrtcGetProgramLog(program, log)
            raise RuntimeError(f"{FILE}: {error.name}\n{log.decode()}")
        return values[0] if values else None

    _, program = nvrtc.nvrtcCreateProgram(sources.expanded(FILE).encode(), FILE.encode(), 0, [], [])
    checked(nvrtc.nvrtcAddNameExpression(program, kernel.encode()))
    target = f"-arch=compute_{architecture[0]}{architecture[1]}"
    options = [*sources.OPTIONS, *ADDED_BY_CUPY, "--relocatable-device-code=true", target]
    checked(nvrtc.nvrtcCompileProgram(program, len(options), [o.encode() for o in options]))
    ptx = b" " * checked(nvrtc.nvrtcGetPTXSize(program))
    checked(nvrtc.nvrtcGetPTX(program, ptx))
    return ptx, checked(nvrtc.nvrtcGetLoweredName(program, kernel.encode())).decode()


@ft.cache
def linked(solver: Solver, kernel: str, architecture: tuple[int, int]) -> tuple[bytes, str]:
    """Machine code of the kernel with the user's function in it, and the kernel's name."""
    from cuda.bindings import nvjitlink

    ptx, name = _kernel_ptx(kernel, architecture)
    options = [f"-arch=sm_{architecture[0]}{architecture[1]}", "-ftz=true", "-fma=0"]
    handle = nvjitlink.create(len(options), options)
    try:
        for text in (ptx, device_function(solver, architecture).encode()):
            nvjitlink.add_data(handle, nvjitlink.InputType.PTX, text, len(text), FILE)
        nvjitlink.complete(handle)
        cubin = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, cubin)
    except nvjitlink.nvJitLinkError as error:
        log = bytearray(nvjitlink.get_error_log_size(handle))
        nvjitlink.get_error_log(handle, log)
        raise RuntimeError(f"{solver.name}: {error}\n{log.decode()}") from None
    finally:
        nvjitlink.destroy(handle)
    return bytes(cubin), name
