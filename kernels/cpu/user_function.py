"""Compile a user's solver: from a Python function to an address that solves rows of scores.

The function is compiled once, for any precision of the scores, and called through its address: the
kernel around it (``user.py``) is compiled with the library, not with the user's function, so a new
solver costs a fraction of a second and not a minute. Machine code is kept on disk, under a hash of
all that it was made from (``user_digest.py``), so another process loads it.
"""

from __future__ import annotations

import functools as ft
import threading
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.ccallback import CFunc
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

from ..arguments import Toolbox, all_arguments
from ..user import Solver
from ._jit import source_stamp
from .simd import LANES
from .user_digest import digest

_WORD = ir.IntType(64)
_ADDRESS = types.int64
ROWS_ARITY = 11


_TOOLBOX = Toolbox(types, intrinsic, cgutils, make_array, populate_array)


@intrinsic
def word_at(typing_context, address, index):
    """``((int64 *) address)[index]``."""

    def codegen(context, builder, sig, args):
        pointer = builder.inttoptr(args[0], _WORD.as_pointer())
        return builder.load(builder.gep(pointer, [args[1]]))

    return types.int64(_ADDRESS, types.int64), codegen


@intrinsic
def call_address(typing_context, address, arguments):
    """Call compiled code that takes and returns int64, by its address."""
    arity = len(arguments)

    def codegen(context, builder, sig, args):
        kind = ir.FunctionType(_WORD, [_WORD] * arity)
        function = builder.inttoptr(args[0], kind.as_pointer())
        values = [builder.extract_value(args[1], k) for k in range(arity)]
        return builder.call(function, values)

    return types.int64(_ADDRESS, arguments), codegen


# ------------------------------------------------------------------------------------ compilation


def _rows(solve, arguments_at, lanes):
    """The compiled loop over samples, as a Python function."""

    def rows(scores, stride, solutions, width, count, which, shared, places, words, work, layout):
        """Solve ``count`` samples; returns how many were solved, ``count`` unless one failed.

        Addresses, and lengths of rows in items: ``scores`` (count, stride) float64, ``solutions``
        (count, width) int32, ``which`` the row of each lane, ``places`` (rows, words).
        """
        for m in range(count):
            row = places + 8 * words * word_at(which, m % lanes)
            here = scores + 8 * stride * m, solutions + 4 * width * m
            arguments = arguments_at(here[0], here[1], shared, row, work, layout)
            try:
                solve(*arguments)
            except Exception:
                return m
        return count

    return rows


class _KeptImpl(CompileResultCacheImpl):
    """Files of one solver, named by its digest: nothing is shared, so nothing is raced for."""

    digest = ""

    def get_filename_base(self, fullname, abiflags):
        return f"{super().get_filename_base(fullname, abiflags)}.{self.digest[:24]}"


def _cache(function, key: str) -> FunctionCache | None:
    """A cache on disk beside the kernels' own; None where no directory can be written."""

    class Kept(FunctionCache):
        _impl_class = type("Impl", (_KeptImpl,), {"digest": key})

        def _index_key(self, sig, codegen):
            return sig, codegen.magic_tuple(), key

        def load_overload(self, sig, target_context):
            try:
                return super().load_overload(sig, target_context)
            except ImportError:  # what was kept refers to code that Numba had made in that process
                return None  # so it is compiled again, and replaced

    try:
        cache = Kept(function)
    except RuntimeError:  # "no locator available"
        return None
    cache._cache_file._source_stamp = key, source_stamp()
    return cache


_lock = threading.RLock()  # one compilation at a time, so that none is made twice


@ft.cache
def _compiled(solver: Solver, key: str | None) -> CFunc:
    """Machine code, made or loaded; it lives as long as the process."""
    kinds, arguments_at = all_arguments(_TOOLBOX, solver)
    settings: dict[str, Any] = dict(error_model="numpy", boundscheck=solver.check_bounds)
    solve = njit(**settings)(solver.function)
    rows = _rows(solve, arguments_at, LANES)
    signature = types.int64(*[types.int64] * ROWS_ARITY)
    code = CFunc(rows, (signature.args, signature.return_type), {}, {"error_model": "numpy"})
    cache = _cache(rows, key) if key else None
    if cache is not None:
        code._cache = cache
    try:
        code.compile()
    except Exception:
        _explain(solver, solve, tuple(kinds))
        raise
    return code


def _explain(solver: Solver, solve, argument_types) -> None:
    """Compile the user's function by itself, so that Numba speaks of that alone."""
    try:
        solve.compile(argument_types)
    except Exception as error:  # Numba's kinds of errors have no common base
        raise TypeError(
            f"oracle {solver.name} cannot be compiled by Numba; write it in the part of Python and "
            "NumPy that Numba compiles (helpers decorated by numba.extending.register_jitable), or "
            f"keep it as it is and use dpo.perturbed({solver.name}, ...). Numba says:\n{error}"
        ) from None


def address(solver: Solver) -> int:
    """The address of the compiled loop over samples (``_rows``), compiled on first use."""
    with _lock:
        return _compiled(solver, digest(solver)).address
