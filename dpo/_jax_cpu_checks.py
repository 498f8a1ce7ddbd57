"""What may be wrong with a call of XLA's, or beyond handlers: compiled code suspects, Python
decides, and explains or answers."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from llvmlite import binding
from numba import types

from . import _jax_ffi as ffi
from ._arrays import as_companion, as_scores
from ._checks import check_temperatures
from ._jax_cpu_frames import (
    GRID_PATH,
    LOSS_OF,
    LOW,
    NONE,
    OPERANDS,
    OPERATIONS,
    OPTIONS,
    ORACLES,
    RANKS,
    Parameters,
    array,
    array_beside,
    ends_of,
    first_of,
    parameters,
    seed_of,
    temperatures,
    total_of,
    words,
)
from ._jax_operations import Spec, run
from ._losses import check_loss_scores, check_targets
from ._noise import Gumbel, Logistic, Normal
from ._oracles import Argmax, Oracle, Ranks, ShortestPath, TopK
from ._perturbed import Perturbed
from ._seeds import as_place, as_seed
from .kernels.cpu._jit import jitable
from .kernels.cpu.arrays import _has_nan, _has_not_finite

_FRAME_BYTES, _API_BYTES = ctypes.sizeof(ffi.CallFrame), ctypes.sizeof(ffi.Api)
_EXTENSION, _API = (ffi.at(ffi.CallFrame, name) for name in ("extension", "api"))
_METADATA = ffi.at(ffi.MetadataExtension, "metadata")
_ASKED = ffi.at(ffi.Metadata, "version", "major")
_VERSION = ffi.at(ffi.Api, "version", "major")
_MAJOR = ffi.MAJOR


# ------------------------------------------------------------------------------------- suspicions


@jitable
def looks_wrong(frame, p, like):
    """Whether Python is to look at the operands: it decides, this only must not miss anything."""
    theta = array(frame, OPERANDS, 0, p, p.d, like)
    epsilon = temperatures(frame, p, like)
    wrong = _has_nan(theta)
    for call in range(p.calls):
        wrong |= not (seed_of(frame, p, call)[2] and first_of(frame, p, call)[2])
    for b in range(theta.shape[0]):
        for i in range(p.columns):
            wrong |= not (epsilon[b, i] > 1.001e-30 and epsilon[b, i] < 0.999e30)
    if p.operation >= LOSS_OF:
        beside = array_beside(frame, p, like)
        if p.operation != LOSS_OF:
            return wrong | _has_not_finite(beside)
        if p.oracle == RANKS:
            return wrong | _has_not_finite(theta) | no_ranks(beside)
        wrong |= outside(beside)
        if p.oracle == GRID_PATH:
            return wrong | astray(beside, ends_of(frame, p), p.rows)
        return wrong | off_total(beside, total_of(frame, p))
    return wrong


_CLOSE = 0.9e-3
"""A little less than the tolerance of ``Oracle.check_targets``."""


@jitable
def outside(y):
    """Whether an entry may lie outside 0 .. 1."""
    wrong = False
    for b in range(y.shape[0]):
        for i in range(y.shape[1]):
            wrong |= not (y[b, i] > -_CLOSE and y[b, i] < 1.0 + _CLOSE)
    return wrong


@jitable
def off_total(y, total):
    """Whether a row may not add up to that."""
    wrong = False
    for b in range(y.shape[0]):
        sum_of_row = 0.0
        for i in range(y.shape[1]):
            sum_of_row += y[b, i]
        wrong |= not abs(sum_of_row - total) < _CLOSE * max(1.0, total)
    return wrong


@jitable
def astray(y, ends, rows):
    """Whether a path may miss one of its ends; ``rows`` are those of a call."""
    wrong = False
    for b in range(y.shape[0]):
        own = min(b % rows, ends.shape[0] - 1)
        for k in range(2):
            wrong |= not abs(y[b, ends[own, k]] - 1.0) < _CLOSE
    return wrong


@jitable
def no_ranks(y):
    """Whether a row is no permutation of 1 .. d: a mean of several is for Python to judge."""
    d, wrong = y.shape[1], False
    met = np.full(d + 1, -1, np.int64)
    for b in range(y.shape[0]):
        for i in range(d):
            if not (y[b, i] >= 1 and y[b, i] <= d):
                return True
            rank = np.int64(y[b, i])
            wrong |= rank != y[b, i] or met[rank] == b
            met[rank] = b
    return wrong


# ------------------------------------------------------------------------------------ explanations


def _oracle(p: Parameters, integers: np.ndarray) -> Oracle:
    """The oracle of a call, from its integers."""
    name, (options, ends) = ORACLES[p.oracle], np.split(integers, [OPTIONS])
    if name == "topk":
        return TopK(int(options[0]))
    if name == "grid_path":
        _, width, neighbors, least = options
        cells = np.stack(np.divmod(ends.reshape(p.ends, 2), width), -1)
        source, target = np.moveaxis(cells[0] if p.ends == 1 else cells, -2, 0).tolist()
        return ShortestPath(int(neighbors), source, target, float(least.view(np.float64)))
    return Ranks() if name == "ranks" else Argmax()


def _layer(p: Parameters, oracle: Oracle) -> Perturbed:
    """The layer of a call, as far as values and complaints depend on it; at temperature 1."""
    noise = next(n for n in (Normal(), Gumbel(), Logistic()) if n.family == p.family)
    design = "antithetic" if p.paired else "loo"
    perturbation = "multiplicative" if p.multiplicative else "additive"
    layer = Perturbed(
        oracle, num_samples=p.num_samples, noise=noise, variance_reduction=design,
        perturbation=perturbation,
    )  # fmt: skip
    return layer._at(1.0)


def _complain(p: Parameters, oracle: Oracle, theta, seeds, offsets, epsilon, *arrays) -> None:
    """Raise what a call of the layer with these operands raises."""
    layer = _layer(p, oracle)
    scores = as_scores(theta, "theta", oracle.event_ndim)
    check_temperatures(epsilon)
    for seed in seeds.reshape(p.calls, p.words):
        as_seed(seed if p.words == 2 else seed[0], "numpy")
    for pair in offsets.reshape(p.calls, 2):
        layer._check_sample_offset(as_place(None, *pair).sample_offset)
    if p.operation == LOSS_OF:
        check_loss_scores(oracle, scores.rows)
        shape = p.calls, p.rows, *theta.shape[theta.ndim - oracle.event_ndim :]
        check_targets(arrays[0], as_companion(arrays[0], "y_true", scores), oracle, shape)
    elif arrays:
        as_companion(arrays[0], "a tangent", scores)


def _again(p: Parameters, oracle: Oracle, theta, seeds, offsets, epsilon, *arrays, **spec) -> tuple:
    """An operation of the layer's, by NumPy; ``spec`` are fields of a ``Spec``."""
    event = theta.shape[theta.ndim - oracle.event_ndim :]
    return run(
        theta.reshape(p.calls, p.rows, *event),
        seeds.reshape((p.calls, 2) if p.words == 2 else p.calls),
        offsets.reshape(p.calls, 2),
        epsilon.reshape(p.calls, p.rows, *(n if p.columns > 1 else 1 for n in event)),
        *(x.reshape(p.calls, p.rows, *event) for x in arrays),
        spec=Spec(layer=_layer(p, oracle), axes=1 + len(event), **spec),
    )


def _solve_again(p: Parameters, oracle: Oracle, *operands) -> None:
    """Raise what a kernel raised."""
    _again(p, oracle, *operands[:4], operation="value")
    raise RuntimeError(f"the solver of {oracle} failed, but not when it was called again")


def _answer(p: Parameters, oracle: Oracle, operands, results) -> None:
    """Write the results of ``max`` or ``loss``."""
    slopes = (name for name, wanted in (("theta", p.by_theta), ("epsilon", p.by_epsilon)) if wanted)
    is_loss = p.operation == LOSS_OF
    answers = _again(
        p, oracle, *operands,
        operation=OPERATIONS[p.operation], slopes=tuple(slopes),
        options=(p.offset != NONE,) if is_loss else (),
    )  # fmt: skip
    for result, answer in zip(results, answers, strict=True):
        result[...] = answer.reshape(result.shape)


NOTHING, SUSPECTED, RAISED, UNKNOWN = range(4)
"""What Python is asked: that operands look wrong, that a kernel raised, or that a result takes more
than handlers know."""


@ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
def _explain(frame, what):
    """The error that the operands call for; None if there is nothing wrong with them, and results
    are right if they were ``UNKNOWN``."""
    try:
        constants, integers = np.split(ffi.constants(frame), [len(Parameters._fields)])
        p, operands = Parameters(*constants.tolist()), ffi.operands(frame)
        oracle = _oracle(p, integers)
        _complain(p, oracle, *operands)
        if what == RAISED:
            _solve_again(p, oracle, *operands)
        if what == UNKNOWN:
            _answer(p, oracle, operands, ffi.results(frame))
    except Exception as error:
        return ffi.error(frame, str(error))
    return None


binding.add_symbol("dpo_explain", ctypes.cast(_explain, ctypes.c_void_p).value)
explain: Any = types.ExternalFunction("dpo_explain", types.intp(types.intp, types.int64))
"""As a symbol, not an address, so that machine code which calls it can be kept on disk."""


@jitable
def opening(address, frame, like):
    """What to return at once: -1 for nothing, else 0 or the address of an error."""
    if frame[_EXTENSION] != 0:
        api = words(frame[_API], _VERSION + 1)
        knows = frame[0] >= _FRAME_BYTES and api[0] >= _API_BYTES
        if knows and api[_VERSION] & LOW == _MAJOR:
            metadata = words(frame[_EXTENSION], _METADATA + 1)[_METADATA]
            words(metadata, _ASKED + 1)[_ASKED] = api[_VERSION]
        return 0
    error = explain(address, SUSPECTED) if looks_wrong(frame, parameters(frame), like) else 0
    return error if error != 0 else -1
