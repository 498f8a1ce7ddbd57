"""A shard: some of the coordinates of an argmax or a top-k that is too large for one memory.

    values[b, m], indices[b, m]    the k best of the shard's coordinates, as sample m decides
    sums[b, i] = sum_m w[b, m] s(z_mi)    of the shard's coordinates, for any weights w

The noise of a coordinate is that of its number in the whole problem (``Draws.coordinate_offset``).
So the best of all shards' best, lowest index first among equals, are the unsharded decision bit for
bit; ``w = <v, y_m> - c`` makes a VJP of the sums.

**Argmax.** As ``argmax.py`` and ``argmax_rows.py`` decide. What a Gumbel argmax compares are
weights relative to the largest finite score of the row, so that is an argument: of all shards.

**Top-k.** The k best so far, in the order of indices, are followed by the perturbed scores of a
tile of coordinates; ``topk.py`` finds the threshold of both together, and what lies above it moves
to the front.

**Mapping.** Lanes are samples, or rows where samples are few. A task is a row's samples or, where
rows are few, a part of them; for the sums, a row's coordinates or a part.

**Memory.** A thread: O(d) for the argmax (O(32 d) where lanes are rows), 32 (k + 1024) scores for
top-k, O(1) for the sums. Results: k values and indices a sample.

**Determinism.** Sums follow the tree of ``argmax.py``, those of few samples that of
``argmax_rows.py``: with their weights they are their VJP.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..codes import NO_COORDINATE, Draws, Problem
from ..noise import GUMBEL
from . import argmax_rows, topk
from ._jit import jitable, kernel
from .accumulate import CHUNK, STRANDS, add_scores
from .argmax import TILE, perturbed_values, prepare, winners
from .launch import compiled_family, compiled_key, padded_row_ids
from .layout import compiled_layout
from .perturb import consecutive, perturb_tile
from .simd import LANES, lane_array, lane_bits, load, lowest_bit, store
from .threads import get_num_threads, run_tasks

_TILE = 1024  # coordinates that top-k looks at together, and of a task of the sums
_NS_PER_COORDINATE = 0.3
_TOPK_NS_PER_COORDINATE = 2.0


@jitable
def key_of_tile(key, first):
    """The key under which coordinates ``first, ...`` are a problem of their own."""
    return key[0], key[1], key[2] + np.uint64(first // 4)


# ---------------------------------------------------------------------------------- the argmax


@kernel
def best_by_samples(
    begin, end, parts, theta, epsilons, largest, family, key, num_samples, first_sample, row_ids,
    values, indices,
):  # fmt: skip
    """Tasks ``begin .. end - 1``: a row each (``parts`` = 1), or a part of its samples.

    ``values`` and ``indices`` are (rows, num_samples rounded up to whole vectors).
    """
    d = theta.shape[1]
    quads = (d + 3) // 4
    padded = np.empty(4 * quads, theta.dtype)
    plan = padded, np.empty(quads, np.int64), np.empty((quads + TILE - 1) // TILE, theta.dtype)
    groups = (num_samples + LANES - 1) // LANES
    for task in range(begin, end):
        b, part = divmod(task, parts)
        prepare(theta[b], epsilons[b], family, largest[b], plan)
        for group in range(groups * part // parts, groups * (part + 1) // parts):
            samples = consecutive(first_sample + group * LANES)
            winner, best = winners(plan, d, epsilons[b], family, samples, row_ids[b], key)
            at = (b * groups + group) * LANES
            store(values, at, best)
            store(indices, at, winner)


@kernel
def best_by_rows(
    begin, end, theta, epsilons, largest, family, key, num_samples, first_sample, row_ids, values,
    indices,
):  # fmt: skip
    """Blocks ``begin .. end - 1`` of thirty-two rows of few samples; lanes are rows.

    ``epsilons``, ``largest`` and ``row_ids`` are long enough to load whole blocks.
    """
    d = theta.shape[1]
    quads = (d + 3) // 4
    a = lane_array(4 * quads, LANES, theta)
    plan = a, np.arange(quads), np.empty(((quads + TILE - 1) // TILE, LANES), theta.dtype)
    won, decided = np.empty(LANES, np.int32), np.empty(LANES, theta.dtype)
    for block in range(begin, end):
        first = block * LANES
        rows = min(LANES, theta.shape[0] - first)
        lanes, epsilon = load(row_ids, first), load(epsilons, first)
        argmax_rows.transpose_scores(theta[first : first + rows], a)
        argmax_rows.prepare_lanes(d, epsilon, family, load(largest, first), a, plan[2])
        for m in range(num_samples):
            winner, best = winners(
                plan, d, epsilon, family, np.uint64(first_sample + m), lanes, key
            )
            store(won, 0, winner)
            store(decided, 0, best)
            for lane in range(rows):
                values[first + lane, m] = decided[lane]
                indices[first + lane, m] = won[lane]


@kernel
def perturbed_at(
    begin, end, theta, epsilons, family, key, num_samples, first_sample, row_ids, winners, values
):  # fmt: skip
    """Rows ``begin .. end - 1``: ``values[b, m] = theta_w + eps z_w``, ``w = winners[b, m]``."""
    for b in range(begin, end):
        perturbed_values(
            theta[b], epsilons[b], family, winners[b], num_samples, first_sample, row_ids[b], key,
            values[b],
        )  # fmt: skip


# ----------------------------------------------------------------------------------------- top-k


@jitable
def keep_best(p, index, size, listed, first, threshold, space):
    """Move what reaches the threshold to the front, in order; returns how many that is a lane.

    Of ``p[:size]`` the first ``listed`` are coordinates ``index``, the others ``first, ...``. What
    moves never overtakes what is still to be read.
    """
    count = np.zeros(LANES, np.int64)
    t, room = load(threshold, 0), load(space, 0)
    for i in range(size):
        is_chosen, room = topk.chosen(load(p, i * LANES), t, room)
        bits = lane_bits(is_chosen)
        while bits != 0:
            lane = lowest_bit(bits)
            bits &= bits - 1
            j = count[lane]
            p[j, lane] = p[i, lane]
            index[j, lane] = index[i, lane] if i < listed else first + i - listed
            count[lane] += 1
    return count[0]


@kernel
def best_k(
    begin, end, parts, theta, epsilons, family, key, num_samples, first_sample, row_ids, values,
    indices,
):  # fmt: skip
    """Tasks as in ``best_by_samples``; ``values`` and ``indices`` are (rows, num_samples, k)."""
    d, k = theta.shape[1], values.shape[2]
    p = lane_array(k + _TILE, LANES, theta)
    kept = np.empty((k if k <= topk.INSERTED else 0, LANES), theta.dtype)
    index = np.empty((k, LANES), np.int32)
    threshold, space = np.empty(LANES, theta.dtype), np.empty(LANES, np.int32)
    groups = (num_samples + LANES - 1) // LANES
    for task in range(begin, end):
        b, part = divmod(task, parts)
        for group in range(groups * part // parts, groups * (part + 1) // parts):
            at = group * LANES
            samples, listed = consecutive(first_sample + at), 0
            for first in range(0, d, _TILE):
                size = min(_TILE, d - first)
                perturb_tile(
                    theta[b, first : first + size], epsilons[b], listed, family, samples,
                    row_ids[b], key_of_tile(key, first), p,
                )  # fmt: skip
                wanted = min(k, listed + size)
                if k <= topk.INSERTED:
                    topk.insert(p, listed + size, LANES, kept[:wanted], threshold, space)
                else:
                    topk.bisect(p, listed + size, LANES, wanted, threshold, space)
                listed = keep_best(p, index, listed + size, listed, first, threshold, space)
            for lane in range(min(LANES, num_samples - at)):
                for j in range(k):
                    values[b, at + lane, j] = p[j, lane]
                    indices[b, at + lane, j] = index[j, lane]


# ------------------------------------------------------------------------------------------ sums


@kernel
def sums_by_samples(
    begin, end, parts, family, key, num_samples, first_sample, row_ids, weights, sums
):  # fmt: skip
    """Tasks ``begin .. end - 1``: a tile each of the coordinates of a row.

    ``weights`` is (rows, num_samples rounded up to whole vectors), zero where there is no sample.
    """
    strand = np.empty(_TILE, np.float64)
    for task in range(begin, end):
        b, part = divmod(task, parts)
        first = part * _TILE
        size = min(_TILE, sums.shape[1] - first)
        tile_key = key_of_tile(key, first)
        for chunk in range(STRANDS):
            if chunk * CHUNK >= num_samples:
                break
            strand[:] = 0.0
            for m in range(chunk * CHUNK, num_samples, STRANDS * CHUNK):
                n, sample = min(CHUNK, num_samples - m), first_sample + m
                add_scores(
                    family, size, weights[b, m:], n, sample, row_ids[b], tile_key, False,
                    strand[:size].reshape((1, size)),
                )  # fmt: skip
            for i in range(size):
                sums[b, first + i] += strand[i]


@kernel
def sums_by_rows(
    begin, end, parts, family, key, num_samples, first_sample, row_ids, weights, sums
):  # fmt: skip
    """Tasks ``begin .. end - 1``: a tile of the coordinates of thirty-two rows; lanes are rows.

    ``sums`` is (rows, 1, d); ``row_ids`` is long enough to load whole blocks.
    """
    rows, _, d = sums.shape
    w = np.zeros((argmax_rows.MAX_SAMPLES, LANES), weights.dtype)
    terms = np.empty((4 * argmax_rows.MAX_SAMPLES, LANES), weights.dtype)
    result = np.empty((1, _TILE, LANES), weights.dtype)
    for task in range(begin, end):
        block, part = divmod(task, parts)
        b, first = block * LANES, part * _TILE
        b_end, end_of_tile = min(b + LANES, rows), min(first + _TILE, d)
        w[:num_samples, : b_end - b] = weights[b:b_end, :num_samples].T
        argmax_rows.sum_scores(
            family, end_of_tile - first, w, num_samples, first_sample, load(row_ids, b),
            key_of_tile(key, first), False, terms, result,
        )  # fmt: skip
        argmax_rows.transpose_back(result, sums[b:b_end, :, first:end_of_tile])


# -------------------------------------------------------------------------------------- launches


class Best(NamedTuple):
    """The best of a shard's coordinates for every sample, in the order of their numbers."""

    values: np.ndarray
    """(rows, num_samples, k), what decisions compare."""
    indices: np.ndarray
    """Likewise, int64: coordinates as the whole problem numbers them."""


def largest_scores(theta: np.ndarray) -> np.ndarray:
    """The largest finite score of each row, (rows,); -inf if there is none."""
    return np.max(theta, axis=1, initial=-np.inf, where=np.isfinite(theta))


def best(
    problem: Problem,
    theta: np.ndarray,
    epsilon: np.ndarray,
    draws: Draws,
    largest: np.ndarray | None = None,
) -> Best:
    """The k best coordinates of the shard ``theta``, (rows, d), for every sample.

    ``epsilon`` is (rows, 1); ``problem`` is an "argmax" (k = 1) or a "topk" of at most d; samples
    are independent and additive. ``largest`` is ``largest_scores`` of the whole problem, by default
    of the shard, for a Gumbel argmax.
    """
    theta = compiled_layout(theta)
    rows, d = theta.shape
    num_samples = draws.num_samples
    whole = -(-num_samples // LANES) * LANES
    family, key = compiled_family(draws, theta.dtype), compiled_key(draws)
    place = num_samples, draws.sample_offset, padded_row_ids(draws, rows)
    parts = _parts(rows, whole // LANES)
    work = rows * num_samples * d
    if problem.oracle == "topk":
        shape = rows, num_samples, problem.options[0]
        values, indices = np.empty(shape, theta.dtype), np.empty(shape, np.int32)
        given = parts, theta, _padded(epsilon, theta), family, key, *place, values, indices
        run_tasks(
            lambda begin, end: best_k(begin, end, *given),
            rows * parts, _TOPK_NS_PER_COORDINATE * work,
        )  # fmt: skip
        return Best(values, indices + np.int64(draws.coordinate_offset))
    values, indices = np.empty((rows, whole), theta.dtype), np.empty((rows, whole), np.int32)
    tops = np.full(rows + LANES, -np.inf, theta.dtype)
    if draws.family == GUMBEL:
        tops[:rows] = largest_scores(theta) if largest is None else largest
    given = theta, _padded(epsilon, theta), tops, family, key, *place, values, indices
    if argmax_rows.fills_lanes(rows, num_samples):
        run_tasks(
            lambda begin, end: best_by_rows(begin, end, *given),
            -(-rows // LANES), _NS_PER_COORDINATE * work,
        )  # fmt: skip
    else:
        run_tasks(
            lambda begin, end: best_by_samples(begin, end, parts, *given),
            rows * parts, _NS_PER_COORDINATE * work,
        )  # fmt: skip
    numbers = indices[:, :num_samples, None] + np.int64(draws.coordinate_offset)
    return Best(values[:, :num_samples, None], numbers)


def merged(values: np.ndarray, numbers: np.ndarray, k: int) -> Best:
    """The k best of lists that are joined along the last axis, in the order of numbers.

    Lowest number first among equals; the result is in the order of numbers, too.
    """
    kth = -np.partition(-values, k - 1, axis=-1)[..., k - 1 : k]
    above, ties = values > kth, (values == kth) & (numbers != NO_COORDINATE)
    room = k - above.sum(-1, keepdims=True)
    chosen = above | (ties & (np.cumsum(ties, axis=-1) <= room))
    shape = (*values.shape[:-1], k)
    return Best(values[chosen].reshape(shape), numbers[chosen].reshape(shape))


def perturbed_scores(
    theta: np.ndarray, epsilon: np.ndarray, draws: Draws, winners: np.ndarray
) -> np.ndarray:
    """``theta_w + eps z_w``, (rows, num_samples), of ``w = winners``, coordinates of the shard."""
    theta = compiled_layout(theta)
    rows, num_samples = winners.shape
    won = np.zeros((rows, -(-num_samples // LANES) * LANES), np.int32)
    won[:, :num_samples] = winners
    values = np.empty(won.shape, theta.dtype)
    given = (
        theta, _padded(epsilon, theta), compiled_family(draws, theta.dtype), compiled_key(draws),
        num_samples, draws.sample_offset, padded_row_ids(draws, rows), won, values,
    )  # fmt: skip
    run_tasks(lambda begin, end: perturbed_at(begin, end, *given), rows, 10.0 * winners.size)
    return values[:, :num_samples]


def noise_at(theta: np.ndarray, draws: Draws, winners: np.ndarray) -> np.ndarray:
    """``z_w``, (rows, num_samples), of coordinates of a shard of scores like ``theta``."""
    none, ones = np.zeros(theta.shape, theta.dtype), np.ones((len(theta), 1), theta.dtype)
    return perturbed_scores(none, ones, draws, winners)  # zeros take no memory


def mean_of(winners: np.ndarray, draws: Draws, like: np.ndarray) -> np.ndarray:
    """``ybar`` of the coordinates of a shard, in the shape and dtype of scores ``like`` them.

    ``winners`` is (rows, num_samples, k), coordinates as the whole problem numbers them.
    """
    rows, d = like.shape
    own, place = draws.own(winners, d)
    place += d * np.arange(rows)[:, None, None]
    chosen, counts = np.unique(place[own], return_counts=True)
    mean = np.zeros(like.size, like.dtype)  # mostly 0: winners are few beside coordinates
    mean[chosen] = counts / winners.shape[1]
    return mean.reshape(like.shape)


def projections(v: np.ndarray, winners: np.ndarray, draws: Draws) -> np.ndarray:
    """``<v, y_m>`` over the coordinates of a shard, (rows, num_samples) in the dtype of v."""
    own, place = draws.own(winners, v.shape[1])
    row = np.arange(len(v))[:, None, None]
    return np.where(own, v[row, place], v.dtype.type(0)).sum(-1)


def vjp(
    theta: np.ndarray, epsilon: np.ndarray, draws: Draws, weights: np.ndarray, divisor: int
) -> np.ndarray:
    """``sum_m weights[b, m] s(z_mi) / (divisor eps)``, (rows, d) float64; 0 where a score is
    infinite."""
    sums = score_sums(draws, weights, theta.shape[1])
    sums /= divisor * epsilon.astype(np.float64)
    sums[np.isinf(theta)] = 0  # in place: a shard may fill the memory
    return sums


def score_sums(draws: Draws, weights: np.ndarray, d: int) -> np.ndarray:
    """``sum_m weights[b, m] s(z_mi)`` of the shard's ``d`` coordinates, (rows, d) float64."""
    rows, num_samples = weights.shape
    padded = np.zeros((rows, -(-num_samples // LANES) * LANES), weights.dtype)
    padded[:, :num_samples] = weights
    sums = np.zeros((rows, d), np.float64)
    parts = -(-d // _TILE)
    given = (
        parts, compiled_family(draws, weights.dtype), compiled_key(draws), num_samples,
        draws.sample_offset, padded_row_ids(draws, rows), padded,
    )  # fmt: skip
    work = _NS_PER_COORDINATE * rows * num_samples * d
    if argmax_rows.fills_lanes(rows, num_samples):
        blocks = -(-rows // LANES)
        run_tasks(
            lambda begin, end: sums_by_rows(begin, end, *given, sums[:, None]), blocks * parts, work
        )
    else:
        run_tasks(lambda begin, end: sums_by_samples(begin, end, *given, sums), rows * parts, work)
    return sums


def _parts(rows: int, groups: int) -> int:
    """Into how many tasks the samples of a row are split: where rows cannot keep threads busy."""
    threads = get_num_threads()
    return min(groups, -(-4 * threads // rows)) if threads > 1 and 0 < rows < 2 * threads else 1


def _padded(epsilon: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """A temperature a row, long enough to load whole blocks of lanes."""
    epsilons = np.ones(len(theta) + LANES, theta.dtype)
    epsilons[: len(theta)] = epsilon[:, 0]
    return epsilons
