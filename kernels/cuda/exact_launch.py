"""Launch the CUDA kernels of exact expectations: each oracle by the method that suits a GPU.

``launch`` has the signature of ``kernels/exact/launch.py``, with device arrays in and out, and
equals it to the rounding of the sums. The rules of the quadrature, which the host finds, are copied
to the device once and kept there. With one temperature a row nothing waits for the device, and a
graph can capture a launch that was made before; where each coordinate has its own, the host looks
at how far apart they are, unless it is given an array on the device to note it in.

    argmax   Gumbel noise, one temperature a row: the softmax, by array functions; else a trapezoid
             rule (``exact_argmax.cu``)
    ranks    pairs of coordinates at every d; a trapezoid rule if each has its own temperature
             (``exact_ranks.cu``)
    top-k    a dynamic programme at the nodes of a trapezoid rule, in float64 (``exact_topk.cu``)

The Jacobian of top-k, and of ranks with a temperature each, is ``d`` products a row.

**Workspace.** At most 64 MB, or one row's share, for some rows at a time. Argmax: ``x`` and ``a``
of each coordinate and, beyond 1024 coordinates, eight partial results. Top-k: the chances of four
warps a row, 2 kB times ``sqrt(d) min(k, d - k)`` (twice that for a derivative, four times for
SECOND). Ranks: none. Jacobians by products: as large as the result.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..codes import Problem
from ..exact import nodes
from ..exact.codes import JACOBIAN, MOMENTS, PRODUCT, SCALE, SECOND, VALUE
from ..noise import FAMILIES, GUMBEL
from .calls import MAX_THREADS, TYPES, WARP, Array, Device, or_current, template

WORKSPACE_BYTES = 2**26
_OPERATIONS = ("VALUE", "MOMENTS", "PRODUCT", "SCALE", "SECOND", "JACOBIAN")
_PARTS, _LONG = 8, 1024
"""Into how many blocks rows beyond how many coordinates are split: whatever the number of rows, so
that a row's bits do not depend on its neighbours."""
_TOPK_PARTS = 4
"""Warps of a row of top-k."""
_TOPK_BYTES = 2**32
"""What a row of top-k may take."""
_CHUNK, _BAND = 64, 16
"""Of ``exact_argmax.cu``."""


class Request:
    """What a launch is asked for, on the device."""

    def __init__(
        self,
        problem: Problem,
        theta: Array,
        epsilon: Array,
        family: int,
        operation: int,
        v: Array | None,
        w: Array | None,
        tolerance: float | None,
        device: Device,
        threads: int | None,
    ):
        xp = device.xp
        self.problem, self.family, self.operation, self.device = problem, family, operation, device
        self.theta = xp.ascontiguousarray(theta)
        self.rows, self.d = self.theta.shape
        self.dtype = self.theta.dtype.type
        self.real = TYPES[self.dtype]
        self.epsilon = xp.ascontiguousarray(xp.asarray(epsilon, self.dtype))
        self.per_coordinate = self.epsilon.shape[1] > 1
        self.v, self.w = (None if x is None else xp.ascontiguousarray(x) for x in (v, w))
        self.tolerance = tolerance or nodes.default_tolerance(self.theta.dtype)
        self.order = {SECOND: 2, PRODUCT: 1, SCALE: 1, JACOBIAN: 1}.get(operation, 0)
        self.slots = 1 + (operation == MOMENTS)
        self.size = self.d**2 if operation == JACOBIAN else self.d
        self.threads = threads

    def in_float64(self) -> Request:
        """The same, widened."""
        wide = copy.copy(self)
        wide.theta, wide.epsilon = (x.astype(np.float64) for x in (self.theta, self.epsilon))
        wide.v, wide.w = (None if x is None else x.astype(np.float64) for x in (self.v, self.w))
        return wide

    def windows(self, bytes_of_row: int) -> Iterator[slice]:
        """Rows whose workspace fits."""
        rows = max(1, WORKSPACE_BYTES // bytes_of_row)
        for first in range(0, self.rows, rows):
            yield slice(first, min(self.rows, first + rows))

    def directions(self, here: slice) -> tuple[Any, ...]:
        """``v`` and ``w`` as kernels take them: a row, or one for all; and how far rows are
        apart."""
        given: list[Any] = []
        for x in (self.v, self.w):
            own = x is not None and len(x) > 1
            given += x[here] if x is not None and own else x, np.int64(self.d * own)
        return tuple(given)

    def run(self, file: str, kernel: str, blocks: int, threads: int, *arguments: Any) -> None:
        self.device.function(file, kernel)((blocks,), (threads,), arguments)


def launch(
    problem: Problem,
    theta: Array,
    epsilon: Array,
    family: int,
    operation: int,
    *,
    v: Array | None = None,
    w: Array | None = None,
    tolerance: float | None = None,
    device: Device | None = None,
    threads: int | None = None,
    failed: Array | None = None,
) -> Array:
    """The integrals of ``kernels/exact/codes.py``, (rows, slots, size) float64.

    ``kernels/exact/launch.py`` says what the arguments are. ``device`` is CuPy's current one unless
    given; ``threads``, of a block, are chosen unless given, and no result depends on them.
    ``failed``, (1,) int32 on the device, is set to 1 where a row's temperatures are too far apart
    for a rule, whose integrals are then void, instead of an error that would have to wait.
    """
    device = or_current(device)
    request = Request(problem, theta, epsilon, family, operation, v, w, tolerance, device, threads)
    if request.rows == 0:
        return device.xp.zeros((0, request.slots, request.size), np.float64)
    if request.per_coordinate:
        _check_spread(request, failed)
    if problem.oracle == "argmax":
        softmax = family == GUMBEL and not request.per_coordinate
        return _softmax(request) if softmax else _argmax(request)
    if operation == JACOBIAN and (problem.oracle == "topk" or request.per_coordinate):
        return _by_columns(request, failed)
    return _ranks(request) if problem.oracle == "ranks" else _topk(request)


def _check_spread(request: Request, failed: Array | None) -> None:
    """Wait for the device and raise, or note it there and let such rows do no work without end."""
    epsilon, device = request.epsilon, request.device
    if failed is not None:
        far = epsilon.max(1, keepdims=True) > nodes.WIDEST * epsilon.min(1, keepdims=True)
        failed |= far.any()
        request.epsilon = device.xp.where(far, epsilon.max(1, keepdims=True), epsilon)
        return
    if device.capturing:
        raise RuntimeError(
            "a graph is being captured, and how far apart temperatures are cannot be told before "
            "it runs: pass failed=, an int32 array on the device that is set to 1 where they are "
            "too far apart for method='exact', and look at it after a replay"
        )
    nodes.check_spread(epsilon)


def _by_columns(request: Request, failed: Array | None) -> Array:
    """The Jacobian, from its products with unit vectors: a row for each."""
    xp, rows, d = request.device.xp, request.rows, request.d
    jacobian = xp.empty((rows, d, d), np.float64)
    for here in request.windows(4 * d * d * request.theta.itemsize):
        theta, epsilon = (xp.repeat(x[here], d, 0) for x in (request.theta, request.epsilon))
        units = xp.tile(xp.eye(d, dtype=request.dtype), (here.stop - here.start, 1))
        columns = launch(
            request.problem, theta, epsilon, request.family, PRODUCT, v=units,
            tolerance=request.tolerance, device=request.device, threads=request.threads,
            failed=failed,
        )  # fmt: skip
        jacobian[here] = columns.reshape(-1, d, d)
    return jacobian.reshape(rows, 1, d * d)


# ------------------------------------------------------------------------------------- the argmax


def _argmax(request: Request) -> Array:
    """By quadrature."""
    xp, d, operation = request.device.xp, request.d, request.operation
    rules = nodes.rules(request.family, d, request.tolerance, request.order)
    parts = _PARTS if d > _LONG and operation != JACOBIAN else 1
    rules_there = request.device.constant(rules)
    out = xp.zeros((request.rows, request.slots, request.size), np.float64)
    threads = request.threads or _threads(d)
    work = 2 * d * request.theta.itemsize + (parts > 1) * 8 * parts * request.slots * d
    for here in request.windows(work):
        rows = here.stop - here.start
        x, a = (xp.empty((rows, d), request.dtype) for _ in range(2))
        where = xp.empty((rows, 5), np.float64)
        sums = xp.zeros((rows, parts, request.slots, d), np.float64) if parts > 1 else out[here]
        request.run(
            "exact_argmax.cu", template("locate_winners", request.real), rows, threads,
            request.theta[here], request.epsilon[here], np.int32(d),
            np.int32(request.per_coordinate), rules_there, np.int32(len(rules)), x, a, where,
            np.int32(operation <= MOMENTS), np.int64(parts * request.slots * request.size), sums,
        )  # fmt: skip
        given = x, a, where, np.int32(d)
        negligible = np.float64(request.tolerance / 10)
        if operation == JACOBIAN:
            kernel = template("exact_argmax_jacobian", request.real, request.family)
            blocks = rows * -(-d // _BAND)
            request.run("exact_argmax.cu", kernel, blocks, threads, *given, negligible, sums)
            continue
        kernel = template("exact_argmax", request.real, request.family, _OPERATIONS[operation])
        given = *given, np.int32(parts), negligible, *request.directions(here)
        request.run("exact_argmax.cu", kernel, rows * parts, threads, *given, sums)
        if parts > 1:
            out[here] = _in_order(sums)
    return out


def _ranks(request: Request) -> Array:
    """Over pairs, or by quadrature where coordinates have their own temperatures."""
    d, operation = request.d, request.operation
    out = request.device.xp.zeros((request.rows, request.slots, request.size), np.float64)
    method = "nodes" if request.per_coordinate else "pairs"
    kernel = template(f"exact_ranks_{method}", request.real, request.family, _OPERATIONS[operation])
    items, threads = request.rows * d, request.threads or MAX_THREADS
    mean = np.float64(FAMILIES[request.family].mean)
    given = [request.theta, request.epsilon, np.int32(d), np.int64(items), mean]
    if request.per_coordinate:
        given += map(np.float64, nodes.rule(request.family, 2, 0, request.tolerance, request.order))
    everywhere = slice(0, request.rows)
    blocks = -(-items // (threads // WARP))
    given += request.directions(everywhere)
    request.run("exact_ranks.cu", kernel, blocks, threads, *given, out)
    return out


# -------------------------------------------------------------------------------------------- top-k


def _topk(request: Request) -> Array:
    """In float64, whatever the dtype."""
    xp, d, operation, rows = request.device.xp, request.d, request.operation, request.rows
    (k,) = request.problem.options
    most, span = max(1, min(k, d - k)), math.isqrt(d)
    number = 4 if operation == SECOND else 2 if operation in (PRODUCT, SCALE) else 1
    size = (2 + span + -(-d // span)) * most * number * WARP
    work = 8 * (_TOPK_PARTS * (size + request.slots * d) + 6 * d)
    if work > _TOPK_BYTES:
        raise ValueError(
            f"method='exact' would take {work / 2**30:.1f} GB a row for the top {k} of {d} "
            "coordinates; use method='mc'"
        )
    law = request.family, d, request.tolerance, request.order, min(k, d - k)
    rules = np.stack([nodes.rules(*law, mirrored) for mirrored in (False, True)])
    rules_there = request.device.constant(rules)
    mean = np.float64(FAMILIES[request.family].mean)
    request = request.in_float64()
    out = xp.empty((rows, request.slots, d), np.float64)
    for here in request.windows(work):
        count = here.stop - here.start
        located = xp.empty((2, count, d), np.float64)
        x, a = (xp.empty((count, d), np.float64) for _ in range(2))
        where = xp.empty((count, d), np.int32)
        judged = xp.empty((count, 8), np.float64)
        sums = xp.zeros((count, _TOPK_PARTS, request.slots, d), np.float64)
        request.run(
            "exact_topk.cu", "settle", count, request.threads or _threads(d),
            request.theta[here], request.epsilon[here], np.int32(d),
            np.int32(request.per_coordinate), np.int32(k), np.int32(operation), mean, rules_there,
            np.int32(rules.shape[1]), located, x, a, where, judged,
            np.int64(_TOPK_PARTS * request.slots * d), sums,
        )  # fmt: skip
        memory = xp.empty((count * _TOPK_PARTS, size), np.float64)
        request.run(
            "exact_topk.cu", template("exact_topk", request.family, number), count * _TOPK_PARTS,
            WARP, x, a, where, judged, np.int32(d), np.int32(_TOPK_PARTS), np.int32(operation),
            *request.directions(here), np.int32(most), np.int32(span), np.int64(size), memory, sums,
        )  # fmt: skip
        out[here] = _in_order(sums)
    return out


def _in_order(parts: Array) -> Array:
    """The sum over axis 1, in order."""
    total = parts[:, 0]
    for k in range(1, parts.shape[1]):
        total = total + parts[:, k]
    return total


def _threads(d: int) -> int:
    """Of a block: a warp a chunk of coordinates."""
    threads = WARP
    while threads < min(MAX_THREADS, WARP * -(-d // _CHUNK)):
        threads *= 2
    return threads


def _softmax(request: Request) -> Array:
    """Gumbel noise and one temperature a row: ``kernels/exact/softmax.py``, on the device."""
    xp, operation, rows = request.device.xp, request.operation, request.rows
    inverse = 1 / request.epsilon.astype(np.float64)
    p = _probabilities(request, inverse)
    if operation == VALUE:
        return p[:, None]
    if operation == MOMENTS:
        return xp.stack([p, p * (np.euler_gamma - xp.log(xp.where(p > 0, p, 1)))], 1)
    if operation == JACOBIAN:
        jacobian = -p[:, :, None] * p[:, None] * inverse[:, None]
        i = xp.arange(request.d)
        jacobian[:, i, i] = p * (1 - p) * inverse
        return jacobian.reshape(rows, 1, request.size)
    centred = request.v - (p * request.v).sum(1, keepdims=True)
    if operation == PRODUCT:
        return (p * centred * inverse)[:, None]
    products = centred * (request.w - (p * request.w).sum(1, keepdims=True))
    return (p * (products - (p * products).sum(1, keepdims=True)) * inverse**2)[:, None]


def _probabilities(request: Request, inverse: Array) -> Array:
    """In float64; the first of infinite scores gets all, of scores that are all -inf too."""
    xp, theta = request.device.xp, request.theta
    top = theta.max(1, keepdims=True)
    certain = xp.isinf(top)
    theta = xp.where(certain, 0, theta).astype(np.float64)
    x = xp.exp((theta - xp.where(certain, 0, top)) * inverse)
    first = xp.arange(request.d) == request.theta.argmax(1)[:, None]
    x = xp.where(certain, first, x)
    return x / x.sum(1, keepdims=True)
