"""What training calls, compiled into JAX programs on the CPU: no Python, no interpreter lock.

An operation with independent samples, or pairs of them, becomes a call of an XLA handler
(``_jax_ffi.py``). A handler launches the kernels of ``kernels/cpu``, in the machine code that
NumPy's calls have compiled (``_jax_cpu_kernels.py``), on XLA's own threads
(``_jax_cpu_threads.py``), and repeats around them the float64 arithmetic of the engine
(``_jax_cpu_handler.py``): the bits are NumPy's. Whatever it cannot vouch for (a NaN, a bad seed or
temperature, a target that may be none) is shown to Python, which raises what a call of the layer
raises, and the handler returns that as XLA's error; or takes it; or, beside an infinite maximum,
answers (``_jax_cpu_checks.py``).

There are four handlers for each of float32 and float64, by what they write, and each is registered
under a name for every kernel that it may launch. One is compiled when a program first needs it and
kept on disk; it has no state.
"""

from __future__ import annotations

import functools as ft
import hashlib
import math
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types
from numba.core.ccallback import CFunc

from . import _jax_cpu_checks, _jax_cpu_frames, _jax_cpu_handler, _jax_cpu_kernels, _jax_cpu_threads
from . import _jax_ffi as ffi
from ._engine import _OUTER_BYTES, _SMALL, _is_small, _outer_bytes, are_samples, mean_words
from ._jax_cpu_frames import ENTROPY, NONE, OPERATIONS, OPTIONS, ORACLES, TOTAL, Parameters
from ._jax_cpu_handler import WRITES
from ._jax_cpu_kernels import form, kernel_index, load_kernel, module
from ._jax_operands import is_shared
from ._noise import as_noise
from ._oracles import Argmax, Ranks, ShortestPath, TopK
from .kernels.codes import ANTITHETIC, FEW, INDEPENDENT, VALUE, Draws, Problem
from .kernels.cpu import launch
from .kernels.cpu._jit import source_stamp
from .kernels.cpu.argmax_rows import fills_lanes
from .kernels.noise import GUMBEL

if TYPE_CHECKING:
    from ._jax_operations import Spec


# ------------------------------------------------------------------------------------ registration

_FLOATS = {"float32": np.empty(0, np.float32), "float64": np.empty(0, np.float64)}
_SOURCES = (
    _jax_cpu_checks, _jax_cpu_frames, _jax_cpu_handler, _jax_cpu_kernels, _jax_cpu_threads, ffi,
)  # fmt: skip


@ft.cache
def _stamp() -> str:
    """A hash of all that handlers are compiled from."""
    digest = hashlib.sha256(source_stamp().encode())
    for source in _SOURCES:
        digest.update(Path(str(source.__file__)).read_bytes())
    return digest.hexdigest()


_kept: list[CFunc] = []
"""Functions that XLA holds the addresses of."""


def _compiled(function) -> int:
    """The address of the machine code of ``int64 -> int64``, kept on disk where that can be."""
    compiled: Any = CFunc(function, ((types.intp,), types.intp), {}, {"error_model": "numpy"})
    try:
        compiled.enable_caching()
        compiled._cache._cache_file._source_stamp = _stamp()
    except RuntimeError:  # no directory can be written: compiled in every process
        pass
    compiled.compile()
    _kept.append(compiled)
    return compiled.address


@ft.cache
def _load_task(dtype: str) -> None:
    """What all handlers need for scores of a type."""
    _jax_cpu_kernels.set_addresses(dtype, _compiled(_jax_cpu_threads.task(_FLOATS[dtype])))


@ft.cache
def _handler(writes: str, dtype: str) -> int:
    """The address of a handler for scores of a type."""
    return _compiled(_jax_cpu_handler.handler(WRITES[writes], _FLOATS[dtype]))


_lock = threading.Lock()


def registered(kernel: str, writes: str, dtype: str) -> str | None:
    """The name by which XLA knows a handler, registered on first use, or None."""
    with _lock:
        return _register(kernel, writes, dtype)


@ft.cache
def _register(kernel: str, writes: str, dtype: str) -> str | None:
    _load_task(dtype)
    load_kernel(kernel, dtype)
    name = f"dpo_{kernel}_{writes}_{dtype}"
    return name if ffi.register(name, _handler(writes, dtype)) else None


# -------------------------------------------------------------------------------------------- plan


def plan(spec: Spec, exact: bool, theta, seeds, offsets, epsilon, *arrays):
    """The handler of an operation and its constants, or None: it is Python's.

    Operands are abstract: shapes and dtypes.
    """
    if exact or not _serves(spec, theta, seeds, offsets, epsilon, *arrays):
        return None
    layer, mapped, event = spec.layer, theta.ndim - spec.axes, spec.layer.oracle.event_ndim
    shape, m = theta.shape[mapped:], layer.num_samples
    assert isinstance(m, int)
    calls, rows = math.prod(theta.shape[:mapped]), math.prod(shape[:-event])
    problem, d = layer.oracle.problem(shape), math.prod(shape[-event:])
    by_jacobian = _recalls(spec) and d <= _SMALL and m > FEW
    if calls * rows == 0:
        return None
    ends = _ends(problem)
    if len(ends) > _MOST_ENDS:
        return None
    if by_jacobian and calls * _outer_bytes(rows, d) > _OUTER_BYTES:
        return None  # Python goes through such sums a block at a time
    family = as_noise(layer.noise).family
    paired = layer.variance_reduction == "antithetic" and m > 1
    multiplicative = layer.perturbation == "multiplicative"
    draws = Draws(family, (0, 0), m, ANTITHETIC if paired else INDEPENDENT, multiplicative)
    columns = 1 if is_shared(layer, epsilon) else d
    given = problem, np.empty((1, columns)), draws
    kernel = _kernel(spec, *given, rows, d, theta.dtype, by_jacobian)
    memo_words, solution_words = 0, 1
    centred = layer.variance_reduction != "none"
    keeps_samples = are_samples(spec.kept, draws, centred, d, theta.dtype)
    if _recalls(spec) and not by_jacobian and not keeps_samples:
        memo_words, solution_words = _memo(spec, *given, centred, rows, d, theta.dtype)
    handler = registered(kernel, _written(spec.operation), theta.dtype.name)
    ns_per_coordinate = getattr(module(kernel), "NS_PER_COORDINATE", 1.0)
    parameters = Parameters(
        operation=OPERATIONS.index(spec.operation),
        calls=calls,
        rows=rows,
        d=d,
        family=family,
        num_samples=m,
        columns=columns,
        multiplicative=multiplicative,
        centred=centred,
        paired=paired,
        words=seeds.shape[-1] if seeds.ndim > mapped else 1,
        by_theta="theta" in spec.slopes,
        by_epsilon="epsilon" in spec.slopes,
        offset=_offset(spec, problem, family) if columns == 1 else NONE,
        kept=spec.kept,
        by_jacobian=by_jacobian,
        memo_words=memo_words,
        solution_words=solution_words,
        keeps_samples=keeps_samples,
        oracle=ORACLES.index(problem.oracle),
        sign=-1 if problem.minimises else 1,
        ends=len(ends),
        kernel=kernel_index(kernel, theta.dtype.name),
        form=form(kernel),
        cost=int(min(ns_per_coordinate * calls * rows * m * d, 2**62)),
    )
    options = (*problem.options, *[0] * OPTIONS)[:OPTIONS]
    constants = np.array((*parameters, *options), np.int64)
    return handler and (handler, np.concatenate((constants, ends.ravel())))


_MOST_ENDS = 4096
"""They are part of a program's text."""


def _ends(problem: Problem) -> np.ndarray:
    """Source and target of the rows of a call, (n, 2) int64: none, one for all, or one each."""
    if problem.places is None:
        return np.empty((0, 2), np.int64)
    shared = (problem.places == problem.places[:1]).all()
    return problem.places[:1] if shared else problem.places


def _serves(spec: Spec, theta, seeds, offsets, epsilon, *arrays) -> bool:
    """Whether handlers know how."""
    layer, oracle = spec.layer, spec.layer.oracle
    if spec.kept and spec.operation != "value":
        arrays = arrays[:-1]  # words
    return (
        spec.operation in OPERATIONS
        and type(oracle) in (Argmax, TopK, Ranks, ShortestPath)
        and isinstance(layer.num_samples, int)
        and layer.variance_reduction != "qmc"
        and isinstance(as_noise(layer.noise).family, int)
        and theta.dtype in (np.float32, np.float64)
        and all(x.dtype == theta.dtype for x in (epsilon, *arrays))
        and {seeds.dtype, offsets.dtype} <= set(ffi.DTYPES.values())
    )


def _offset(spec: Spec, problem: Problem, family: int) -> int:
    """What ``_dual.py`` says of it: of noise of mean zero there is none."""
    if spec.operation != "loss" or not spec.options[0] or family != GUMBEL:
        return NONE
    if problem.oracle == "argmax":
        return ENTROPY
    return NONE if problem.total is None else TOTAL


def _written(operation: str) -> str:
    """A key of ``WRITES``."""
    return "maximum" if operation in ("max", "loss") else operation.removeprefix("epsilon_")


def _recalls(spec: Spec) -> bool:
    """Whether an operation leaves what it found out, or uses that."""
    return spec.kept > 0 if spec.operation == "value" else "adjoint" in spec.operation


def _kernel(
    spec: Spec, problem: Problem, epsilon: np.ndarray, draws: Draws, rows: int, d: int, dtype,
    by_jacobian: bool,
) -> str:  # fmt: skip
    """What an operation launches: see ``kernels/cpu/launch.py``."""
    if problem.oracle == "argmax":
        if not launch.is_plain(problem, epsilon, draws, VALUE):
            return "argmax_dense"
        if by_jacobian and dtype == np.float32:
            return "argmax_jacobian"
        if by_jacobian or _written(spec.operation) == "product":
            return "argmax_dense"
        return "argmax_rows" if fills_lanes(rows, draws.num_samples) else "argmax"
    is_plain = not by_jacobian and _written(spec.operation) in ("value", "adjoint")
    sparse = is_plain and launch.is_sparse_topk(problem, epsilon, draws, d)
    return "topk_sparse" if sparse else problem.oracle


def _memo(
    spec: Spec, problem: Problem, epsilon: np.ndarray, draws: Draws, centred: bool, rows: int,
    d: int, dtype,
) -> tuple[int, int]:  # fmt: skip
    """Words of the memo of a call, 0 where it has none, and of a solution in it."""
    of_a_row = problem, epsilon, draws, d, dtype
    words = rows * launch.memo_words(*of_a_row)
    of_mean = mean_words(draws, centred, d)
    if spec.kept:
        has_memo = spec.kept > of_mean
    else:  # an adjoint that decides first
        has_memo = of_mean > 0 and _is_small(4 * words, rows * d * dtype.itemsize)
    return (words, max(1, launch.solution_words(*of_a_row))) if has_memo else (0, 1)
