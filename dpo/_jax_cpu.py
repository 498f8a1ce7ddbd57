"""What training calls, compiled into JAX programs on the CPU: no Python, no interpreter lock.

An operation on the argmax with independent samples and one temperature a row becomes a call of an
XLA handler (``_jax_ffi.py``), where it is small enough to stay on one thread. Handlers launch the
kernels of ``kernels/cpu``, already compiled for NumPy, and repeat around them, in the same order,
the float64 arithmetic of ``_engine.py`` and ``_losses.py``: the bits are NumPy's. Whatever they
cannot vouch for (a NaN, a bad seed or temperature, a target off the simplex) is shown to Python,
which raises what a call of the layer raises; the handler returns that as XLA's error.

There are three handlers for each of float32 and float64, by the kernel they launch. A handler is
compiled when a program first needs it and kept on disk; it has no state.
"""

from __future__ import annotations

import ctypes
import functools as ft
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from llvmlite import binding
from numba import carray, types
from numba.core.ccallback import CFunc
from numba.extending import intrinsic

from . import _jax_ffi as ffi
from ._arrays import as_companion, as_scores
from ._checks import check_temperatures
from ._engine import _SMALL
from ._losses import check_targets
from ._noise import as_noise
from ._oracles import Argmax
from ._perturbed import Perturbed
from ._seeds import as_place, as_seed
from .kernels.codes import (
    ADDITIVE,
    FEW,
    INDEPENDENT,
    JACOBIAN,
    JVP,
    MAXIMUM,
    RACE,
    SCORE,
    VALUE,
    VJP,
)
from .kernels.cpu import argmax_dense
from .kernels.cpu import contract as contraction
from .kernels.cpu._jit import jitable, source_stamp
from .kernels.cpu.argmax_rows import fills_lanes
from .kernels.cpu.simd import LANES
from .kernels.cpu.small import (
    MAX_COORDINATES,
    Call,
    adjoint,
    coordinates,
    is_loo,
    launch_by_rows,
    launch_by_samples,
    means,
    row_sum,
    slope_of,
)
from .kernels.cpu.threads import get_num_threads
from .kernels.noise import GUMBEL

if TYPE_CHECKING:
    from ._jax_operations import Spec

OPERATIONS = ("value", "max", "loss", "adjoint", "product", "epsilon_adjoint", "epsilon_product")
VALUE_OF, MAX_OF, LOSS_OF, ADJOINT, PRODUCT, EPSILON_ADJOINT, EPSILON_PRODUCT = range(7)


class Parameters(NamedTuple):
    """The constants of a call, all integers."""

    operation: int
    """An index into ``OPERATIONS``."""
    calls: int
    """Independent ones, of ``rows`` rows each."""
    rows: int
    d: int
    family: int
    num_samples: int
    centred: int
    """Whether derivatives leave one sample out."""
    words: int
    """Of a seed: 1 or 2."""
    by_theta: int
    """Whether the slope in theta is a result, for ``max`` and ``loss``."""
    by_epsilon: int
    entropy: int
    """Whether the loss has the offset of Gumbel noise."""


# ------------------------------------------------------------------------- memory, as XLA has it

_FRAME, _BUFFER = (ctypes.sizeof(s) // ffi.WORD for s in (ffi.CallFrame, ffi.Buffer))
_FRAME_BYTES = ctypes.sizeof(ffi.CallFrame)
_EXTENSION = ffi.at(ffi.CallFrame, "extension")
_API = ffi.at(ffi.CallFrame, "api")
_OPERANDS = ffi.at(ffi.CallFrame, "operands", "values")
_RESULTS = ffi.at(ffi.CallFrame, "results", "values")
_ATTRIBUTES = ffi.at(ffi.CallFrame, "attributes", "values")
_METADATA = ffi.at(ffi.MetadataExtension, "metadata")
_ASKED = ffi.at(ffi.Metadata, "version", "major")
_VERSION = ffi.at(ffi.Api, "version", "major")
_DTYPE, _DATA = ffi.at(ffi.Buffer, "dtype"), ffi.at(ffi.Buffer, "data")
_CONSTANTS = ffi.at(ffi.Constants, "data")
_MAJOR = ffi.MAJOR
_INT32, _INT64, _UINT32, _UINT64 = (
    next(code for code, dtype in ffi.DTYPES.items() if dtype == of)
    for of in (np.int32, np.int64, np.uint32, np.uint64)
)
_LOW = 2**32 - 1


def _as_pointer(typing_context, address):
    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.intp), codegen


_pointer: Any = intrinsic(_as_pointer)


@jitable
def words(address, n):
    """The first ``n`` words of a record."""
    return carray(_pointer(address), (n,), np.int64)


@jitable
def buffer(frame, kind, k):
    """Operand or result ``k``."""
    return words(words(frame[kind], k + 1)[k], _BUFFER)


@jitable
def array(frame, kind, k, p, columns, like):
    """Operand or result ``k`` as an array, (calls, rows, columns)."""
    shape = (p.calls, p.rows, columns)
    return carray(_pointer(buffer(frame, kind, k)[_DATA]), shape, like.dtype)


@jitable
def parameters(frame):
    """The constants of the call."""
    array = words(words(frame[_ATTRIBUTES], 1)[0], _CONSTANTS + 1)
    p = words(array[_CONSTANTS], 11)
    return Parameters(p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9], p[10])


@jitable
def integer(integers, i):
    """Entry ``i`` of an operand of any integer type, and whether it is one of an unsigned type."""
    kind, address = integers[_DTYPE] & _LOW, integers[_DATA]
    if kind == _UINT32:
        return np.uint64(carray(_pointer(address), (i + 1,), np.uint32)[i]), True
    if kind == _UINT64:
        return carray(_pointer(address), (i + 1,), np.uint64)[i], True
    if kind == _INT32:
        signed = np.int64(carray(_pointer(address), (i + 1,), np.int32)[i])
    else:
        signed = carray(_pointer(address), (i + 1,), np.int64)[i]
    return np.uint64(signed), signed >= 0


@jitable
def key_of(frame, p, call):
    """A call's key, as ``perturb.words`` takes it, and whether its seed is good."""
    first_quad = np.uint64(0)
    seeds = buffer(frame, _OPERANDS, 1)
    low, good = integer(seeds, call * p.words)
    if p.words == 1:
        return (low & np.uint64(_LOW), low >> np.uint64(32), first_quad), good
    high, too = integer(seeds, call * p.words + 1)
    good = good and too and low <= np.uint64(_LOW) and high <= np.uint64(_LOW)
    return (low, high, first_quad), good


@jitable
def first_of(frame, p, call):
    """The numbers of a call's first row and first sample, and whether they are good."""
    offsets = buffer(frame, _OPERANDS, 2)
    row, good = integer(offsets, 2 * call)
    sample, too = integer(offsets, 2 * call + 1)
    too = too and sample <= np.uint64(_LOW + 1 - p.num_samples)
    return row, sample, good and too and row <= np.uint64(_LOW)


# ------------------------------------------------------------------------------- what may be wrong


@jitable
def looks_wrong(frame, p, like):
    """Whether Python is to look at the operands: it decides, this only must not miss anything."""
    theta = array(frame, _OPERANDS, 0, p, p.d, like)
    epsilon = array(frame, _OPERANDS, 3, p, 1, like)
    wrong = False
    for call in range(p.calls):
        wrong |= not (key_of(frame, p, call)[1] and first_of(frame, p, call)[2])
        for b in range(p.rows):
            wrong |= not (epsilon[call, b, 0] > 1.001e-30 and epsilon[call, b, 0] < 0.999e30)
            for i in range(p.d):
                wrong |= np.isnan(theta[call, b, i])
    if p.operation >= LOSS_OF:
        beside = array(frame, _OPERANDS, 4, p, columns_beside(p), like)
        wrong |= off_simplex(beside) if p.operation == LOSS_OF else not_finite(beside)
    return wrong


@jitable
def columns_beside(p):
    """Of the array beside the scores."""
    return 1 if p.operation == EPSILON_PRODUCT else p.d


@jitable
def not_finite(x):
    """Whether any entry is NaN or infinite."""
    wrong = False
    for call in range(x.shape[0]):
        for b in range(x.shape[1]):
            for i in range(x.shape[2]):
                wrong |= not np.isfinite(x[call, b, i])
    return wrong


@jitable
def off_simplex(y):
    """Whether a row may not be a mean of one-hot rows."""
    wrong = False
    for call in range(y.shape[0]):
        for b in range(y.shape[1]):
            total = 0.0
            for i in range(y.shape[2]):
                wrong |= not (y[call, b, i] > -0.9e-3 and y[call, b, i] < 1.0009)
                total += y[call, b, i]
            wrong |= not abs(total - 1.0) < 0.9e-3
    return wrong


def _complain(p: Parameters, theta, seeds, offsets, epsilon, *arrays) -> None:
    """Raise what a call of the layer with these operands raises."""
    scores = as_scores(theta, "theta")
    check_temperatures(epsilon)
    for words in seeds.reshape(p.calls, p.words):
        as_seed(words if p.words == 2 else words[0], "numpy")
    layer = Perturbed(num_samples=p.num_samples)
    for pair in offsets.reshape(p.calls, 2):
        layer._check_sample_offset(as_place(None, *pair).sample_offset)
    for array in arrays:
        is_target = p.operation == LOSS_OF
        rows = as_companion(array, "y_true" if is_target else "a tangent", scores)
        if is_target:
            check_targets(array, rows, Argmax(), scores.shape)


@ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
def _explain(frame):
    """The error that the operands call for; None if there is nothing wrong with them."""
    try:
        _complain(Parameters(*ffi.constants(frame)), *ffi.operands(frame))
    except Exception as error:
        return ffi.error(frame, str(error))
    return None


binding.add_symbol("dpo_explain", ctypes.cast(_explain, ctypes.c_void_p).value)
explain = types.ExternalFunction("dpo_explain", types.intp(types.intp))
"""As a symbol, not an address, so that machine code which calls it can be kept on disk."""


# ------------------------------------------------------------------------------------- one call


@jitable
def row_product(theta, weight, x):
    """``<theta, weight>`` in float64, a score without weight counting as 0; ``x`` is room."""
    for i in range(x.size):
        x[i] = 0.0 if weight[i] == 0 else np.float64(theta[i]) * np.float64(weight[i])
    return row_sum(x)


@jitable
def entropy(y, x):
    """``sum y log y - gamma``: the offset of Gumbel noise over the temperature."""
    for i in range(x.size):
        p = max(np.float64(y[i]), 0.0)
        x[i] = p * np.log(p) if p > 0 else 0.0
    return row_sum(x) - np.euler_gamma


@jitable
def call_of(frame, p, call, like):
    """Call number ``call``."""
    theta = array(frame, _OPERANDS, 0, p, p.d, like)[call]
    epsilon = array(frame, _OPERANDS, 3, p, 1, like)
    beside = 4 if p.operation >= LOSS_OF else 0
    columns = columns_beside(p)
    row, sample, _ = first_of(frame, p, call)
    epsilons, ids = np.ones(p.rows + LANES, like.dtype), np.zeros(p.rows + LANES, np.uint64)
    for b in range(p.rows):
        epsilons[b], ids[b] = epsilon[call, b, 0], row + np.uint64(b)
    return Call(
        theta, epsilons, ids, key_of(frame, p, call)[0], np.int64(sample),
        array(frame, _OPERANDS, beside, p, columns, like)[call],
    )  # fmt: skip


@jitable
def write_maximum(frame, p, call, c, counts, sums, like):
    """The maximum or the loss of every row, and its slopes."""
    value = array(frame, _RESULTS, 0, p, 1, like)[call]
    mean, x = np.empty((p.rows, p.d)), np.empty(p.d)
    means(counts, p, mean)
    for b in range(p.rows):
        maximum, offset, epsilon = sums[b, 0, 0] / p.num_samples, 0.0, np.float64(c.epsilons[b])
        value[b, 0] = maximum
        if p.operation == LOSS_OF:
            if p.entropy:
                offset = entropy(c.beside[b], x)
            value[b, 0] = maximum - row_product(c.theta[b], c.beside[b], x) + offset * epsilon
        if p.by_theta:
            array(frame, _RESULTS, 1, p, p.d, like)[call, b] = mean[b]
        if p.by_epsilon:
            slope = (maximum - row_product(c.theta[b], mean[b], x)) / epsilon + offset
            array(frame, _RESULTS, 1 + p.by_theta, p, 1, like)[call, b, 0] = slope


@jitable
def write_adjoint(frame, p, call, c, totals, like):
    """``v^T J``, or what it makes ``v^T dy / d epsilon``, of every row."""
    columns = p.d if p.operation == ADJOINT else 1
    product = array(frame, _RESULTS, 0, p, columns, like)[call]
    x = np.empty(p.d)
    for b in range(p.rows):
        adjoint(p, c, totals, b, x)
        if p.operation == ADJOINT:
            for i in range(p.d):
                product[b, i] = x[i]
        else:
            for i in range(p.d):
                x[i] = 0.0 if x[i] == 0 else x[i] * np.float64(c.theta[b, i])
            product[b, 0] = -row_sum(x) / np.float64(c.epsilons[b])


@jitable
def fill_direction(p, c, direction):
    """What scores are multiplied by: a tangent, of theta or of the temperature."""
    for b in range(p.rows):
        epsilon = np.float64(c.epsilons[b])
        for i in range(p.d):
            t = np.float64(c.beside[b, i if p.operation == PRODUCT else 0])
            if p.operation != PRODUCT:
                t = -(t / epsilon) * (0.0 if np.isinf(c.theta[b, i]) else c.theta[b, i])
            direction[b, i] = t * slope_of(c.theta[b, i], epsilon)[1]


@jitable
def write_product(frame, p, call, c, mean, totals, like):
    """``J t`` of every row."""
    product = array(frame, _RESULTS, 0, p, p.d, like)[call]
    for b in range(p.rows):
        scale = 1.0 / np.float64(c.epsilons[b]) / (p.num_samples - is_loo(p))
        for i in range(p.d):
            product[b, i] = (totals[b, i] - mean[b, i] * totals[b, p.d]) * scale


# -------------------------------------------------------------------------------------- handlers


@jitable
def opening(address, frame, like):
    """What to return at once: -1 for nothing, else 0 or the address of an error."""
    if frame[_EXTENSION] != 0:
        version = words(frame[_API], _VERSION + 1)[_VERSION]
        if frame[0] >= _FRAME_BYTES and version & _LOW == _MAJOR:
            words(words(frame[_EXTENSION], _METADATA + 1)[_METADATA], _ASKED + 1)[_ASKED] = version
        return 0
    error = explain(address) if looks_wrong(frame, parameters(frame), like) else 0
    return error if error != 0 else -1


def plain(few, like):
    """Value, max, loss and adjoint, by ``argmax.py`` or, for a few samples, ``argmax_rows.py``."""

    def handler(address):
        frame = words(address, _FRAME)
        returned = opening(address, frame, like)
        if returned != -1:
            return returned
        p = parameters(frame)
        is_maximum = p.operation == MAX_OF or p.operation == LOSS_OF
        is_adjoint = p.operation == ADJOINT or p.operation == EPSILON_ADJOINT
        operation = MAXIMUM if is_maximum else VJP if is_adjoint else VALUE
        slots, size = (2, 1) if is_maximum else (1, p.d if is_adjoint else 0)
        memo = np.empty((p.rows, p.num_samples) if is_adjoint and is_loo(p) else (0, 0), np.int32)
        centre = np.zeros((p.rows, p.d), like.dtype)
        for call in range(p.calls):
            c = call_of(frame, p, call, like)
            counts, sums = np.zeros((p.rows, p.d), np.int64), np.zeros((p.rows, slots, size))
            if few:
                launch_by_rows(p, c, operation, False, centre, memo, counts, sums)
            else:
                launch_by_samples(p, c, operation, False, centre, memo, counts, sums)
            if is_maximum:
                write_maximum(frame, p, call, c, counts, sums, like)
            elif is_adjoint:
                write_adjoint(frame, p, call, c, sums[:, 0], like)
            else:
                means(counts, p, array(frame, _RESULTS, 0, p, p.d, like)[call])
        return 0

    return handler


def dense(like):
    """Products, and adjoints of few coordinates, by ``argmax_dense.py``."""

    def handler(address):
        frame = words(address, _FRAME)
        returned = opening(address, frame, like)
        if returned != -1:
            return returned
        p = parameters(frame)
        zero, one, no = np.int64(0), np.int64(1), p.rows < 0
        is_product = p.operation == PRODUCT or p.operation == EPSILON_PRODUCT
        op, size = np.int64(JVP if is_product else JACOBIAN), p.d + 1
        kind = np.int64(RACE if p.family == GUMBEL else ADDITIVE)
        none, no_memo = np.empty((0, 0), like.dtype), np.empty((0, 0, 0), np.int32)
        direction = np.empty((p.rows, p.d) if is_product else (0, 0), like.dtype)
        mean, totals = np.zeros((p.rows, p.d)), np.empty((p.rows, p.d))
        for call in range(p.calls):
            c = call_of(frame, p, call, like)
            if is_product:
                fill_direction(p, c, direction)
            counts = np.zeros((p.rows, 1, p.d), np.int64)
            sums = np.zeros((p.rows, 1, size if is_product else size * p.d))
            argmax_dense.run(
                no, zero, p.rows, (one, one), op,
                (
                    (p.family, kind, np.int64(INDEPENDENT), np.int64(SCORE)), c.key,
                    np.empty((0, 0), np.uint32), c.theta,
                    c.epsilons[: p.rows].reshape((p.rows, 1)), c.ids, (p.num_samples, c.first),
                    direction, none, none.dtype.type(0.0), np.empty(0, np.int64),
                    np.empty((0, 0), np.int64),
                ),
                no_memo, no_memo, counts, sums,
            )  # fmt: skip
            if is_loo(p):
                means(counts[:, 0], p, mean)
            if is_product:
                write_product(frame, p, call, c, mean, sums[:, 0], like)
            else:
                outer = sums.reshape((p.rows, size, p.d))
                contraction.contract(c.beside, mean, outer, totals)
                write_adjoint(frame, p, call, c, totals, like)
        return 0

    return handler


_FLOATS = {"float32": np.empty(0, np.float32), "float64": np.empty(0, np.float64)}
_KERNELS: dict[str, Callable] = {
    "argmax": ft.partial(plain, False),
    "argmax_rows": ft.partial(plain, True),
    "argmax_dense": dense,
}


@ft.cache
def _stamp() -> str:
    """A hash of all that handlers are compiled from."""
    digest = hashlib.sha256(source_stamp().encode())
    for module in (__file__, ffi.__file__):
        digest.update(Path(module).read_bytes())
    return digest.hexdigest()


_kept: list[CFunc] = []
"""Handlers that XLA holds the addresses of."""


_lock = threading.Lock()


def registered(kernel: str, dtype: str) -> str | None:
    """The name by which XLA knows a handler, compiled and registered on first use, or None."""
    with _lock:
        return _register(kernel, dtype)


@ft.cache
def _register(kernel: str, dtype: str) -> str | None:
    name = f"dpo_{kernel}_{dtype}"
    signature = (types.intp,), types.intp
    handler: Any = CFunc(_KERNELS[kernel](_FLOATS[dtype]), signature, {}, {"error_model": "numpy"})
    try:
        handler.enable_caching()
        handler._cache._cache_file._source_stamp = _stamp()
    except RuntimeError:  # no directory can be written: compiled in every process
        pass
    handler.compile()
    _kept.append(handler)
    return name if ffi.register(name, handler.address) else None


def plan(spec: Spec, exact: bool, theta, seeds, offsets, epsilon, *arrays):
    """The handler of an operation and its constants, or None: it is Python's.

    Operands are abstract: shapes and dtypes.
    """
    layer = spec.layer
    family = as_noise(layer.noise).family
    if (
        spec.operation not in OPERATIONS
        or exact
        or spec.kept
        or not isinstance(layer.oracle, Argmax)
        or not isinstance(layer.num_samples, int)
        or layer.perturbation != "additive"
        or layer.variance_reduction not in ("loo", "none")
        or not isinstance(family, int)
        or theta.dtype not in (np.float32, np.float64)
        or any(x.dtype != theta.dtype for x in (epsilon, *arrays))
        or epsilon.shape[-1] != 1
        or not {seeds.dtype, offsets.dtype} <= set(ffi.DTYPES.values())
    ):
        return None
    d, m, mapped = theta.shape[-1], layer.num_samples, theta.ndim - spec.axes
    calls = int(np.prod(theta.shape[:mapped]))
    rows = int(np.prod(theta.shape[mapped:-1]))
    work = calls * coordinates(rows, d, m)
    if work == 0 or (work > MAX_COORDINATES and get_num_threads() > 1):
        return None
    is_small = d <= _SMALL and m > FEW
    kernel = "argmax_rows" if fills_lanes(rows, m) else "argmax"
    if "product" in spec.operation or ("adjoint" in spec.operation and is_small):
        kernel = "argmax_dense"
    handler = registered(kernel, theta.dtype.name)
    parameters = Parameters(
        operation=OPERATIONS.index(spec.operation),
        calls=calls,
        rows=rows,
        d=d,
        family=family,
        num_samples=m,
        centred=layer.variance_reduction == "loo",
        words=seeds.shape[-1] if seeds.ndim > mapped else 1,
        by_theta="theta" in spec.slopes,
        by_epsilon="epsilon" in spec.slopes,
        entropy=spec.operation == "loss" and spec.options[0] and family == GUMBEL,
    )
    return handler and (handler, np.array(parameters, np.int64))
