"""A shard on a GPU: some of the coordinates of an argmax or a top-k, as ``kernels/cpu/shard.py``.

The same functions of device arrays. Decisions are the CPU's bit for bit (``precision="portable"``);
float sums differ in the last bits where the CPU adds in another order.

**Workspace.** Scores padded to quads and, for an argmax with early rejection, a limit of random
words each; lists of at most 64 MB, or two of the k best, for a top-k; partial sums of at most
64 MB, of as many coordinates at a time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..codes import ADDITIVE, SCORE, VALUE, Draws, Problem
from ..noise import GUMBEL
from .arrays import apply_slope, divided
from .calls import MAX_THREADS, TYPES, Array, Call, Device, or_current, quads, template
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
    """(rows, num_samples, k), what decisions compare."""
    indices: Array
    """Likewise, int64: coordinates as the whole problem numbers them."""


# ------------------------------------------------------------------------------------- decisions


def largest_scores(theta: Array, device: Device | None = None) -> Array:
    """The largest finite score of each row, (rows,); -inf if there is none."""
    xp = or_current(device).xp
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
    """The k best coordinates of the shard ``theta``, (rows, d), for every sample.

    ``epsilon`` is (rows, 1); ``problem`` is an "argmax" (k = 1) or a "topk" of at most d.
    ``largest`` is ``largest_scores`` of the whole problem, by default of the shard.
    """
    call = Call(problem, theta, epsilon, draws, SCORE, precision, or_current(device))
    if problem.oracle == "topk":
        return _best_k(call, problem.options[0])
    xp, shape = call.device.xp, (call.rows, call.num_samples)
    winners, values = xp.empty(shape, np.int32), xp.empty(shape, call.dtype)
    if call.rows > 0:
        kind = kind_for(call, VALUE)
        plan = rejecting_plan(call, kind)
        call.prepare(kind, plan.depth, largest if draws.family == GUMBEL else None)
        decide(call, kind, winners, None, plan)
        kernel = template("perturbed_values", call.draw(kind), call.real)
        given = call.record, winners, call.scores, np.int64(4 * quads(call.d))
        call.by_sample(kernel, values, *given)
    numbers = winners.astype(np.int64) + np.int64(draws.coordinate_offset)
    return Best(values[:, :, None], numbers[:, :, None])


def _best_k(call: Call, k: int) -> Best:
    """Of every part of a row, and then of those."""
    problems = call.rows * call.num_samples
    parts = max(1, min(_BLOCKS // max(1, problems), quads(call.d) // max(k, _PART)))
    found = _room(call.device, (call.rows, call.num_samples, parts * k), call.dtype)
    if call.rows > 0:
        call.prepare(ADDITIVE)
        blocks, capacity, words = _lists(
            call.device, call.theta.dtype, problems * parts, k, k + 4 * MAX_THREADS
        )
        given = call.record, *map(np.int32, (k, parts, capacity)), words, *found
        call.run(template("best_k", call.draw(ADDITIVE)), blocks, MAX_THREADS, *given)
    return found if parts == 1 else merged(*found, k, device=call.device)


def merged(values: Array, numbers: Array, k: int, device: Device | None = None) -> Best:
    """The k best of lists that are joined along the last axis, in the order of numbers.

    A coordinate that does not exist has the value -inf and the last number, 2^32 - 1.
    """
    device = or_current(device)
    *shape, size = values.shape
    problems = int(np.prod(shape))
    found = _room(device, (*shape, k), values.dtype)
    if problems > 0:
        blocks, capacity, words = _lists(device, values.dtype, problems, k, size)
        lists = map(device.xp.ascontiguousarray, (values, numbers))
        sizes = np.int64(problems), *map(np.int32, (size, k, capacity))
        kernel = device.function("shard.cu", template("merge_best", TYPES[values.dtype.type]))
        kernel((blocks,), (MAX_THREADS,), (*lists, *sizes, words, *found))
    return found


def _room(device: Device, shape: tuple[int, ...], dtype: type) -> Best:
    return Best(device.xp.empty(shape, dtype), device.xp.empty(shape, np.int64))


def _lists(device: Device, dtype: np.dtype, tasks: int, k: int, listed: int):
    """Blocks for so many tasks, what a list of each can hold, and room for the lists."""
    capacity = 1 << (max(2 * k, listed) - 1).bit_length()
    if capacity >= 2**31:
        raise ValueError(f"k may be at most 2**29 on a GPU, got {k}: pass theta in CPU memory")
    words = capacity * dtype.itemsize // 4  # a word is a score's bits and a number, aligned
    blocks = min(tasks, max(1, WORKSPACE_BYTES // (8 * words)))
    return blocks, capacity, device.xp.empty((blocks, words), np.uint64)


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
    call = Call(Problem(), theta, epsilon, draws, SCORE, precision, or_current(device))
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
    device = or_current(device)
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


# ------------------------------------------------------------------------ what winners add up to


def mean_of(winners: Array, draws: Draws, like: Array, device: Device | None = None) -> Array:
    """``ybar`` of the coordinates of a shard, in the shape and dtype of scores ``like`` them.

    ``winners`` is (rows, num_samples, k), coordinates as the whole problem numbers them.
    """
    device = or_current(device)
    xp, d = device.xp, like.shape[1]
    count = np.uint32 if like.dtype == np.float32 else np.uint64
    counts = xp.zeros(like.shape, count)
    if winners.size > 0:
        kernel = device.function("shard.cu", template("count_winners", TYPES[count]))
        of_row = winners.shape[1] * winners.shape[2]
        sizes = map(np.int64, (winners.size, of_row, draws.coordinate_offset, d))
        blocks = -(-winners.size // MAX_THREADS)
        kernel((blocks,), (MAX_THREADS,), (xp.ascontiguousarray(winners), *sizes, counts))
    result = counts.view(like.dtype)  # in place: a shard may fill the memory
    return divided(counts, winners.shape[1], like.dtype.type, result, device)


def projections(v: Array, winners: Array, draws: Draws, device: Device | None = None) -> Array:
    """``<v, y_m>`` over the coordinates of a shard, (rows, num_samples) in the dtype of v."""
    device = or_current(device)
    xp, (rows, num_samples, k) = device.xp, winners.shape
    products, problems = xp.empty((rows, num_samples), v.dtype), rows * num_samples
    if problems > 0:
        kernel = device.function("shard.cu", template("project", TYPES[v.dtype.type]))
        arrays = xp.ascontiguousarray(v), xp.ascontiguousarray(winners)
        sizes = np.int64(problems), np.int64(num_samples), np.int32(k)
        columns = np.int64(draws.coordinate_offset), np.int64(v.shape[1])
        given = *arrays, *sizes, *columns, products
        kernel((-(-problems // MAX_THREADS),), (MAX_THREADS,), given)
    return products


def vjp(
    theta: Array,
    epsilon: Array,
    draws: Draws,
    weights: Array,
    divisor: int,
    *,
    precision: str = "portable",
    device: Device | None = None,
) -> Array:
    """``sum_m weights[b, m] s(z_mi) / (divisor eps)``, (rows, d) in the dtype of the scores; 0
    where a score is infinite."""
    call = Call(Problem(), theta, epsilon, draws, SCORE, precision, or_current(device))
    xp, rows, d = call.device.xp, call.rows, call.d
    result, weights = xp.empty((rows, d), call.dtype), xp.ascontiguousarray(weights)
    if rows == 0:
        return result
    width = max(4, WORKSPACE_BYTES // (8 * rows * call.parts) // 4 * 4)
    for first in range(0, d, width):
        part, here = call.columns(first, min(width, d - first)), slice(first, first + width)
        totals = xp.empty((rows, 1, part.d), np.float64)
        strands = part.strands(totals, whole=True)
        part.add_vjp(weights, False, strands)
        part.join(strands, totals)
        own = xp.ascontiguousarray(call.theta[:, here])
        result[:, here] = apply_slope(totals, divisor, own, call.scale, 1.0, False, call.device)
    return result
