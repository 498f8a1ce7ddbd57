"""What may be wrong with a call of XLA's: compiled code suspects, Python decides and explains."""

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
    LOSS_OF,
    LOW,
    OPERANDS,
    ORACLES,
    Parameters,
    array,
    array_beside,
    first_of,
    parameters,
    seed_of,
    words,
)
from ._jax_operations import Spec, run
from ._losses import check_targets
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
    epsilon = array(frame, OPERANDS, 3, p, 1, like)
    wrong = _has_nan(theta)
    for call in range(p.calls):
        wrong |= not (seed_of(frame, p, call)[2] and first_of(frame, p, call)[2])
    for b in range(theta.shape[0]):
        wrong |= not (epsilon[b, 0] > 1.001e-30 and epsilon[b, 0] < 0.999e30)
    if p.operation >= LOSS_OF:
        beside = array_beside(frame, p, like)
        wrong |= off_simplex(beside) if p.operation == LOSS_OF else _has_not_finite(beside)
    return wrong


@jitable
def off_simplex(y):
    """Whether a row may not be a mean of one-hot rows."""
    wrong = False
    for b in range(y.shape[0]):
        total = 0.0
        for i in range(y.shape[1]):
            wrong |= not (y[b, i] > -0.9e-3 and y[b, i] < 1.0009)
            total += y[b, i]
        wrong |= not abs(total - 1.0) < 0.9e-3
    return wrong


# ------------------------------------------------------------------------------------ explanations


def _oracle(p: Parameters, options: np.ndarray) -> Oracle:
    """The oracle of a call, from its integers."""
    name = ORACLES[p.oracle]
    if name == "topk":
        return TopK(int(options[0]))
    if name == "grid_path":
        _, width, neighbors, least = options
        source, target = (divmod(cell, int(width)) for cell in (p.source, p.target))
        return ShortestPath(int(neighbors), source, target, float(least.view(np.float64)))
    return Ranks() if name == "ranks" else Argmax()


def _complain(p: Parameters, oracle: Oracle, theta, seeds, offsets, epsilon, *arrays) -> None:
    """Raise what a call of the layer with these operands raises."""
    layer = Perturbed(oracle, num_samples=p.num_samples)
    scores = as_scores(theta, "theta", oracle.event_ndim)
    check_temperatures(epsilon)
    for seed in seeds.reshape(p.calls, p.words):
        as_seed(seed if p.words == 2 else seed[0], "numpy")
    for pair in offsets.reshape(p.calls, 2):
        layer._check_sample_offset(as_place(None, *pair).sample_offset)
    if arrays and p.operation == LOSS_OF:
        check_targets(arrays[0], as_companion(arrays[0], "y_true", scores), oracle, scores.shape)
    elif arrays:
        as_companion(arrays[0], "a tangent", scores)


def _solve_again(p: Parameters, oracle: Oracle, theta, seeds, offsets, epsilon, *_) -> None:
    """Raise what a kernel raised."""
    event = theta.shape[theta.ndim - oracle.event_ndim :]
    noise = next(n for n in (Normal(), Gumbel(), Logistic()) if n.family == p.family)
    layer = Perturbed(oracle, num_samples=p.num_samples, noise=noise)._at(1.0)
    run(
        theta.reshape(p.calls, p.rows, *event),
        seeds.reshape((p.calls, 2) if p.words == 2 else p.calls),
        offsets.reshape(p.calls, 2),
        epsilon.reshape(p.calls, p.rows, *(1 for _ in event)),
        spec=Spec("value", layer, 1 + len(event)),
    )
    raise RuntimeError(f"the solver of {oracle} failed, but not when it was called again")


@ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
def _explain(frame, failed):
    """The error that the operands call for; None if there is nothing wrong with them."""
    try:
        constants, options = np.split(ffi.constants(frame), [len(Parameters._fields)])
        p, operands = Parameters(*constants.tolist()), ffi.operands(frame)
        oracle = _oracle(p, options)
        _complain(p, oracle, *operands)
        if failed:
            _solve_again(p, oracle, *operands)
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
    error = explain(address, 0) if looks_wrong(frame, parameters(frame), like) else 0
    return error if error != 0 else -1
