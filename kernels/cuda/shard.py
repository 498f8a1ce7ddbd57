"""A shard on a GPU: some of the coordinates of an argmax or a top-k, as ``kernels/cpu/shard.py``.

The same functions of device arrays. Decisions are the CPU's bit for bit (``precision="portable"``);
of the sums of scores those of few samples differ in the last bits, which the CPU adds in order.

**Workspace.** Scores padded to quads and, for an argmax with early rejection, a limit of random
words each; lists of at most 64 MB for a top-k; partial sums of at most 64 MB, of as many
coordinates at a time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..codes import ADDITIVE, SCORE, VALUE, Draws, Problem
from ..noise import GUMBEL
from .calls import MAX_THREADS, Array, Call, Device, quads, template
from .launch import decide, kind_for, rejecting_plan
from .solvers import WORKSPACE_BYTES

_BLOCKS = 2**10
"""That keep a large GPU busy."""
_PART = 2**11
"""Quads of a row that are worth a block of their own."""
_BLOCK = 2**24
"""Scores that are searched for the largest at a time."""


class Best(NamedTuple):
    """The best of a shard's coordinates for every sample, in the order of their numbers."""

    values: Array
    """(rows, num_samples, k or more), what decisions compare."""
    indices: Array
    """Likewise, int64: coordinates as the whole problem numbers them."""


def largest_scores(theta: Array, device: Device | None = None) -> Array:
    """The largest finite score of each row, (rows,); -inf if there is none."""
    xp = _or_current(device).xp
    rows, d = theta.shape
    largest = xp.full((rows,), -np.inf, theta.dtype)
    if rows == 0:
        return largest
    width = max(1, _BLOCK // rows)
    for first in range(0, d, width):
        part = theta[:, first : first + width]
        part = xp.where(xp.isfinite(part), part, theta.dtype.type(-np.inf))
        largest = xp.maximum(largest, part.max(axis=1))
    return largest


def best(
    problem: Problem,
    theta: Array,
    epsilon: Array,
    draws: Draws,
    largest: Array | None = None,
    *,
    precision: str = "portable",
    device: Device | None = None,
) -> Best:
    """The best coordinates of the shard ``theta``, (rows, d), for every sample.

    Of a "topk" of k the k best and, where parts of a row are searched side by side, those of every
    part. ``largest`` is ``largest_scores`` of the whole problem, by default of the shard.
    """
    call = Call(problem, theta, epsilon, draws, SCORE, precision, _or_current(device))
    xp, offset = call.device.xp, np.int64(draws.coordinate_offset)
    if problem.oracle == "topk":
        values, indices = _best_k(call, problem.options[0])
        return Best(values, indices.astype(np.int64) + offset)
    shape = call.rows, call.num_samples
    winners, values = xp.empty(shape, np.int32), xp.empty(shape, call.dtype)
    if call.rows > 0:
        kind = kind_for(call, VALUE)
        plan = rejecting_plan(call, kind)
        call.prepare(kind, plan.depth, largest if draws.family == GUMBEL else None)
        decide(call, kind, winners, None, plan)
        kernel = template("perturbed_values", call.draw(kind), call.real)
        given = call.record, winners, call.scores, np.int64(4 * quads(call.d))
        call.by_sample(kernel, values, *given)
    return Best(values[:, :, None], winners[:, :, None].astype(np.int64) + offset)


def _best_k(call: Call, k: int) -> tuple[Array, Array]:
    """Values and indices in the shard, (rows, num_samples, parts k)."""
    xp, problems = call.device.xp, call.rows * call.num_samples
    parts = max(1, min(_BLOCKS // max(1, problems), quads(call.d) // max(k, _PART)))
    shape = call.rows, call.num_samples, parts, k
    values, indices = xp.empty(shape, call.dtype), xp.empty(shape, np.int32)
    if call.rows > 0:
        call.prepare(ADDITIVE)
        capacity = 1 << (max(2 * k, k + 4 * MAX_THREADS) - 1).bit_length()
        words_of_item = 1 if call.real == "float" else 2
        fitting = max(1, WORKSPACE_BYTES // (8 * words_of_item * capacity))
        blocks = min(problems * parts, fitting)
        lists = xp.empty((blocks, words_of_item * capacity), np.uint64)
        given = call.record, *map(np.int32, (k, parts, capacity)), lists, values, indices
        call.run(template("best_k", call.draw(ADDITIVE)), blocks, MAX_THREADS, *given)
    order = xp.argsort(indices, axis=-1)
    found = (xp.take_along_axis(x, order, axis=-1) for x in (values, indices))
    values, indices = (x.reshape(*shape[:2], parts * k) for x in found)
    return values, indices


def perturbed_scores(
    theta: Array,
    epsilon: Array,
    draws: Draws,
    winners: Array,
    *,
    precision: str = "portable",
    device: Device | None = None,
) -> Array:
    """``theta_w + eps z_w``, (rows, num_samples), of ``w = winners``, coordinates of the shard."""
    call = Call(Problem(), theta, epsilon, draws, SCORE, precision, _or_current(device))
    return _perturbed(call, call.theta, winners)


def noise_at(
    theta: Array,
    draws: Draws,
    winners: Array,
    *,
    precision: str = "portable",
    device: Device | None = None,
) -> Array:
    """``z_w``, (rows, num_samples), of coordinates of a shard of scores like ``theta``."""
    device = _or_current(device)
    ones = device.xp.full((len(theta), 1), 1, theta.dtype)
    call = Call(Problem(), theta, ones, draws, SCORE, precision, device)
    return _perturbed(call, None, winners)


def _perturbed(call: Call, scores: Array | None, winners: Array) -> Array:
    xp = call.device.xp
    values = xp.empty(winners.shape, call.dtype)
    if call.rows > 0:
        kernel = template("perturbed_values", call.draw(ADDITIVE), call.real)
        won = xp.ascontiguousarray(winners.astype(np.int32))
        call.by_sample(kernel, values, call.record, won, scores, np.int64(call.d))
    return values


def score_sums(
    draws: Draws,
    weights: Array,
    d: int,
    *,
    precision: str = "portable",
    device: Device | None = None,
) -> Array:
    """``sum_m weights[b, m] s(z_mi)`` of the shard's ``d`` coordinates, (rows, d) float64."""
    device = _or_current(device)
    xp, rows = device.xp, len(weights)
    no_scores, ones = xp.empty((rows, 0), weights.dtype), xp.full((rows, 1), 1, weights.dtype)
    call = Call(Problem(), no_scores, ones, draws, SCORE, precision, device)
    sums, weights = xp.empty((rows, d), np.float64), xp.ascontiguousarray(weights)
    if rows == 0:
        return sums
    width = max(4, WORKSPACE_BYTES // (8 * rows * call.parts) // 4 * 4)
    for first in range(0, d, width):
        part = call.columns(first, min(width, d - first))
        totals = sums.reshape(rows, 1, d)
        if part.d < d:
            totals = xp.empty((rows, 1, part.d), np.float64)
        strands = part.strands(totals, whole=True)
        part.add_vjp(weights, False, strands)
        part.join(strands, totals)
        if part.d < d:
            sums[:, first : first + width] = totals[:, 0]
    return sums


def _or_current(device: Device | None) -> Device:
    if device is None:
        from .device import current

        return current()
    return device
