"""Perturbed top-k of a few of many: as ``topk.py``, but a solution is its ``k`` indices.

    counts    sum_m y_m                          exact integers
    vjp       sum_m <v, y_m - mean> s(z_m)       and of its square

These are what training calls, for independent samples, one ``eps`` a row and ``k`` that is found by
insertion; ``fused.py`` does everything else, on the same decisions. There a solution is ``d``
integers, written and read again beside ``d`` scores; here nothing of that size leaves the
registers.

**Early rejection**, as in ``kernels/cuda/reject.cuh``. A row has a level that most samples' k-th
largest score reaches. The quantile is monotone in the word, so by an integer comparison with the
coordinate's limit most coordinates are known to stay below the level: the others are the sample's
candidates. Where k of them reach the level they are the k largest; where not, nothing has been
learnt, and every coordinate is evaluated.

**Mapping.** A lane is a sample, a task a row or one strand of it. Candidates are listed lane by
lane in the order of their indices, and evaluated thirty-two at a time, one a lane.

**Memory.** O(32 d) a thread, of which as many rows are touched as a sample has candidates.

**Determinism.** As in ``argmax.py``. Nothing depends on the level.

Measured on one Zen 4 core, float32, k = 10, 200 samples, nanoseconds a coordinate, and in brackets
what ``topk.py`` takes: with d = 1000 a value 0.8 (1.7), its VJP 1.1 (1.6) for normal noise and 0.9
(1.5) for Gumbel; with d = 10,000 they are 0.4 (1.3), 1.0 (1.4) and 0.7 (1.3). At d = 160 values
take the same time. A VJP without a memo decides first: 1.8 (1.8) and 1.6 (1.9) with d = 1000.
"""

from __future__ import annotations

import numpy as np

from ..bits import float32, fma, select, uint32
from ..codes import VJP
from . import topk
from ._jit import jitable, kernel
from .accumulate import CHUNK, STRANDS, add_scores
from .exceed import exceedance
from .perturb import consecutive, noise_words, perturb_tile, quantile_at, quantiles
from .simd import (
    LANES,
    any_lane,
    broadcast,
    lane_array,
    lane_bits,
    lane_indices,
    load,
    lowest_bit,
    store,
    tree_sum,
)

NS_PER_COORDINATE = 1.0
_F32 = np.float32
_COORDINATES_A_CANDIDATE = 6
"""How many there must be for rejection to pay."""
_HALFWORDS = 65536
"""Coordinates whose indices are kept two in a word."""


@jitable
def enough(k):
    """How many candidates to expect, for fewer than k in a few of 10,000 samples.

    Their number is about a Poisson variable, whose square root has standard deviation 1 / 2.
    """
    return (np.sqrt(k) + 1.8) ** 2


def serves(k: int, d: int) -> bool:
    """Whether this is faster than ``topk.py``."""
    return k <= topk.INSERTED and d >= _COORDINATES_A_CANDIDATE * enough(k)


def memo_words(k: int, d: int) -> int:
    """Words of a solution in a memo."""
    return k if d > _HALFWORDS else (k + 1) // 2


# ------------------------------------------------------------------------------ levels and limits


@jitable
def reaching(family, a, epsilon, level):
    """About how many scores reach the level: a chance above 1 / 2 is one less a chance below."""
    zero, half, one = _F32(0.0), _F32(0.5), _F32(1.0)
    total = broadcast(zero)
    for i in range(0, a.size, LANES):
        t = float32((level - load(a, i)) / epsilon)
        below = t < zero
        p, _ = exceedance(family, select(below, -t, t))
        p = select(p < half, p, half)
        total = total + select(below, one - p, p)
    return tree_sum(total)


@jitable
def noise_of(family, like, word):
    """The noise of one word."""
    words = word, word, word, word
    return quantiles(family, like, words, words, 2)[0]


@jitable
def find_level(family, a, epsilon, wanted):
    """The highest level that about ``wanted`` scores reach, to eps / 8; -inf if there is none."""
    infinity = a.dtype.type(np.inf)
    low, high = infinity, -infinity
    for i in range(a.size):
        if -infinity < a[i] < infinity:
            low, high = min(low, a[i]), max(high, a[i])
    low += epsilon * noise_of(family, a, np.uint32(0))
    high += epsilon * noise_of(family, a, np.uint32(0xFFFFFFFF))
    level = -infinity
    while high - low > epsilon * a.dtype.type(0.125):
        middle = low + a.dtype.type(0.5) * (high - low)
        if not low < middle < high:
            break
        if reaching(family, a, epsilon, middle) >= wanted:
            low = level = middle
        else:
            high = middle
    return level


@jitable
def find_limits(family, a, epsilon, level, limits):
    """Words below a coordinate's limit leave its score strictly below the level.

    With ``p`` at least the chance of reaching it that is ``2^32 (1 - p)``, less a margin for every
    rounding on the way; 0 where no word is ruled out.
    """
    slack = fma(abs(level), a.dtype.type(2.0**-20), a.dtype.type(2.0**-120))
    for i in range(0, a.size, LANES):
        p, useful = exceedance(family, float32((level - slack - load(a, i)) / epsilon))
        reach = fma(p, _F32(2.0**32 * 1.0001), _F32(2.0))
        reach = select(useful & (reach < _F32(2.0**31)), reach, _F32(0.0))
        store(limits, i, np.uint32(0) - uint32(reach))


# ------------------------------------------------------------------------------------- candidates


@kernel
def list_candidates(limits, quads, first_sample, row, key, listed, length):
    """``listed[: length[lane], lane]``, the candidates of a lane; returns the greatest length."""
    samples = consecutive(first_sample)
    length[:] = 0
    for q in range(quads):
        i = 4 * q
        w = noise_words(q, samples, row, key)
        hits = (
            w[0] >= limits[i], w[1] >= limits[i + 1], w[2] >= limits[i + 2], w[3] >= limits[i + 3]
        )  # fmt: skip
        if any_lane(hits[0] | hits[1] | hits[2] | hits[3]):
            for r in range(4):
                bits = lane_bits(hits[r])
                while bits != 0:
                    lane = lowest_bit(bits)
                    bits &= bits - 1
                    listed[length[lane], lane] = i + r
                    length[lane] += 1
    return length.max()


@kernel
def evaluate(family, a, epsilon, first_sample, row, key, listed, length, longest, values):
    """``values[j]``, the perturbed scores of ``listed[j]``; -inf in lanes whose list is shorter."""
    samples, lengths = consecutive(first_sample), load(length, 0)
    for j in range(longest):
        listed_here = np.int32(j) < lengths
        i = select(listed_here, load(listed, j * LANES), np.int32(0))
        store(listed, j * LANES, i)
        for lane in range(LANES):
            values[j, lane] = a[listed[j, lane]]
        z = quantile_at(family, a, i, samples, row, key)
        x = fma(z, epsilon, load(values, j * LANES))
        store(values, j * LANES, select(listed_here, x, -a.dtype.type(np.inf)))


@kernel
def choose(listed, count, complete, values, threshold, space, taken, chosen):
    """``chosen[:, lane]``, the indices of the k largest, in order, as ``topk.mark`` has them.

    Where ``complete``, ``values`` are of all coordinates and not of those listed.
    """
    t, room = load(threshold, 0), load(space, 0)
    taken[:] = 0
    for j in range(count):
        is_chosen, room = topk.chosen(load(values, j * LANES), t, room)
        bits = lane_bits(is_chosen)
        while bits != 0:
            lane = lowest_bit(bits)
            bits &= bits - 1
            chosen[taken[lane], lane] = j if complete else listed[j, lane]
            taken[lane] += 1


@jitable
def solve(family, theta, plan, epsilon, first_sample, row, key, work, chosen):
    """The k largest of thirty-two samples."""
    a, level, limits = plan
    listed, length, values, kept, threshold, space, taken = work
    d, quads = theta.size, (theta.size + 3) // 4
    complete, count = True, d
    if level > -np.inf:
        count = list_candidates(limits, quads, first_sample, row, key, listed, length)
        evaluate(family, a, epsilon, first_sample, row, key, listed, length, count, values)
        topk.insert(values, count, LANES, kept, threshold, space)
        complete = any_lane(load(threshold, 0) < level)
    if complete:
        count = d
        perturb_tile(theta, epsilon, 0, family, consecutive(first_sample), row, key, values)
        topk.insert(values, count, LANES, kept, threshold, space)
    choose(listed, count, complete, values, threshold, space, taken, chosen)


# ------------------------------------------------------------------------------------ accumulation


@jitable
def add_counts(chosen, count, counts):
    """``counts[i]`` plus the samples that chose ``i``."""
    for lane in range(count):
        for j in range(chosen.shape[0]):
            counts[chosen[j, lane]] += 1


@kernel
def project(chosen, direction, centred, chosen_by, weights, at):
    """``weights[at + lane] = <direction, y - mean>``, coordinates in order by fused multiply-add.

    ``centred`` is ``0 - mean`` and ``1 - mean``; ``chosen_by``, a bit a lane, is zero before and
    after.
    """
    for j in range(chosen.shape[0]):
        for lane in range(LANES):
            chosen_by[chosen[j, lane]] |= np.uint32(1) << np.uint32(lane)
    own = broadcast(np.uint32(1)) << uint32(lane_indices())
    total = broadcast(weights.dtype.type(0.0))
    for i in range(direction.size):
        y_centred = broadcast(centred[0, i])
        if chosen_by[i] != 0:
            is_chosen = (own & chosen_by[i]) != np.uint32(0)
            y_centred = select(is_chosen, centred[1, i], y_centred)
            chosen_by[i] = 0
        total = fma(direction[i], y_centred, total)
    store(weights, at, total)


@jitable
def note(chosen, d, memo):
    """Keep the indices, two in a word where they fit."""
    k = chosen.shape[0]
    for j in range(memo.shape[0]):
        for lane in range(LANES):
            if d > _HALFWORDS:
                memo[j, lane] = chosen[j, lane]
            else:
                second = chosen[2 * j + 1, lane] if 2 * j + 1 < k else 0
                memo[j, lane] = chosen[2 * j, lane] | second << 16


@jitable
def recall(memo, d, chosen):
    """And back."""
    for j in range(chosen.shape[0]):
        for lane in range(LANES):
            if d > _HALFWORDS:
                chosen[j, lane] = memo[j, lane]
            else:
                chosen[j, lane] = memo[j // 2, lane] >> 16 * (j % 2) & 0xFFFF


@kernel
def run(
    task_begin, task_end, parts, operation, squares, k, theta, epsilons, family, key, num_samples,
    first_sample, row_ids, direction, mean, memo, counts, sums,
):  # fmt: skip
    """Tasks ``task_begin .. task_end - 1``; arguments as in ``argmax.run``.

    Where ``memo`` (groups of lanes, words, lanes) has room, VALUE leaves its solutions there and
    VJP reads them.
    """
    d = theta.shape[1]
    size = (d + LANES - 1) // LANES * LANES
    infinity, zero, one = theta.dtype.type(np.inf), theta.dtype.type(0.0), theta.dtype.type(1.0)
    a, level, limits = np.full(size, -infinity), -infinity, np.empty(size, np.uint32)
    listed, length = np.empty((size, LANES), np.int32), np.empty(LANES, np.int32)
    values, kept = lane_array(size, LANES, theta), lane_array(k, LANES, theta)
    threshold, space = np.empty(LANES, theta.dtype), np.empty(LANES, np.int32)
    work = listed, length, values, kept, threshold, space, np.empty(LANES, np.int64)
    chosen, chosen_by = np.empty((k, LANES), np.int32), np.zeros(d, np.uint32)
    centred, weights = np.empty((2, d), theta.dtype), np.empty(CHUNK, theta.dtype)
    strand = np.empty(sums.shape[1:], np.float64)
    known = operation == VJP and memo.size > 0
    groups = (num_samples + LANES - 1) // LANES
    for task in range(task_begin, task_end):
        b, part = divmod(task, parts)
        row, epsilon = row_ids[b], epsilons[b]
        if not known:
            a[:d] = theta[b]
            level = find_level(family, a, epsilon, enough(k))
            find_limits(family, a, epsilon, level, limits)
        if operation == VJP:
            for i in range(d):
                centred[0, i], centred[1, i] = zero - mean[b, i], one - mean[b, i]
        for first_chunk in range(part, STRANDS, parts):
            if first_chunk * CHUNK >= num_samples:
                break
            strand[...] = 0.0
            for m in range(first_chunk * CHUNK, num_samples, STRANDS * CHUNK):
                sample, n = first_sample + m, min(CHUNK, num_samples - m)
                for j in range(0, n, LANES):
                    group = b * groups + (m + j) // LANES
                    if known:
                        recall(memo[group], d, chosen)
                    else:
                        plan = a, level, limits
                        solve(family, theta[b], plan, epsilon, sample + j, row, key, work, chosen)
                        if memo.size > 0:
                            note(chosen, d, memo[group])
                    if operation == VJP:
                        project(chosen, direction[b], centred, chosen_by, weights, j)
                    else:
                        add_counts(chosen, min(LANES, n - j), counts[task])
                if operation == VJP:
                    weights[n:] = zero
                    add_scores(family, d, weights, n, sample, row, key, squares, strand)
            sums[task] += strand
