"""The Jacobian's sums of the plain argmax of few coordinates: scores, added up by winner.

    counts[i] = sum_m y_mi      sums[i d + k] = sum_m y_mi s_mk      sums[d d + k] = sum_m s_mk

What training with few coordinates calls, in float32, for independent samples and one ``eps`` a
row: value and every VJP are products with these. Other Jacobians are ``argmax_dense.py``'s, whose
bits are the same: a multiply-add by a one-hot solution adds a score or nothing.

**Mapping.** A lane is a sample. A chunk of 256 samples passes through four short loops, of words,
noise, winners and sums, and between them lies in the L1 cache: in one long loop the constants and
states of all of them do not fit the registers, and the reloads cost more.

**Memory.** O(512 d) a thread, independent of M.

**Determinism.** As in ``argmax.py``.
"""

from __future__ import annotations

import numpy as np

from ..bits import fma, int32, select
from ..noise import GUMBEL, NORMAL
from ._jit import jitable, kernel
from .accumulate import CHUNK, STRANDS, add_counts, add_quad
from .argmax import largest_finite, race_weights
from .perturb import consecutive, decision_noise, is_family, is_race, noise_words, scores_beside
from .simd import LANES, broadcast, lane_array, load, store

MAX_COORDINATES = LANES
"""Beyond, most of the time goes to adding one score in ``d``."""


@jitable
def load_four(x, i, at):
    """Lanes ``at ...`` of rows ``i .. i + 3``."""
    first = i * CHUNK + at
    return (
        load(x, first),
        load(x, first + CHUNK),
        load(x, first + 2 * CHUNK),
        load(x, first + 3 * CHUNK),
    )


@jitable
def store_first(x, i, at, four, live):
    """Lanes ``at ...`` of rows ``i .. i + live - 1``."""
    for r in range(live):
        store(x, (i + r) * CHUNK + at, four[r])


@jitable
def draw_words(words, d, count, first_sample, row, key):
    """The words of a chunk."""
    for at in range(0, count, LANES):
        samples = consecutive(first_sample + at)
        for q in range((d + 3) // 4):
            # Two copies of the code: the last quad's missing coordinates cost nothing.
            if d - 4 * q > 2:
                store_first(words, 4 * q, at, noise_words(q, samples, row, key), 4)
            else:
                store_first(words, 4 * q, at, noise_words(q, samples, row, key), 2)


@jitable
def draw_noise(family, words, d, count, z, s):
    """What decisions compare, ``z``, and, where that is another array, the scores ``s``."""
    for q in range((d + 3) // 4):
        if d - 4 * q > 2:
            draw_quad(family, words, 4 * q, 4, count, z, s)
        else:
            draw_quad(family, words, 4 * q, 2, count, z, s)


@jitable
def draw_quad(family, words, i, live, count, z, s):
    """``draw_noise`` of coordinates ``i .. i + live - 1``."""
    for at in range(0, count, LANES):
        w = load_four(words, i, at)
        noise = decision_noise(family, z, w, w, live)
        store_first(z, i, at, noise, live)
        if not is_family(family, NORMAL):
            store_first(s, i, at, scores_beside(family, noise, z, w, w, live), live)


@jitable
def find_winners(race, z, a, epsilon, count, won):
    """The argmax of every sample, the lowest index on a tie; -1 in lanes without a sample."""
    for at in range(0, count, LANES):
        best, winner = broadcast(a.dtype.type(-np.inf)), broadcast(np.int32(0))
        for i in range(a.size):
            x = load(z, i * CHUNK + at)
            x = x * a[i] if race else fma(x, epsilon, a[i])
            better = x > best
            best, winner = select(better, x, best), select(better, int32(i), winner)
        store(won, at, winner)
    won[count : (count + LANES - 1) // LANES * LANES] = -1


@jitable
def plus_where(mask, x, totals):
    """``totals[r] + x[r]`` where the mask holds, for r < 4."""
    return (
        select(mask, totals[0] + x[0], totals[0]),
        select(mask, totals[1] + x[1], totals[1]),
        select(mask, totals[2] + x[2], totals[2]),
        select(mask, totals[3] + x[3], totals[3]),
    )


@jitable
def plus_times(y, x, totals):
    """``totals[r] + y x[r]`` for r < 4."""
    return (
        fma(y, x[0], totals[0]),
        fma(y, x[1], totals[1]),
        fma(y, x[2], totals[2]),
        fma(y, x[3], totals[3]),
    )


@jitable
def list_winners(chosen, rows):
    """The coordinates that won at all, and -2, which nothing is; how many. Others add nothing."""
    n = 0
    for i in range(chosen.size):
        if chosen[i] > 0:
            rows[n] = i
            n += 1
    rows[n] = -2
    return n


@jitable
def add_winners(won, s, d, count, rows, n, sums):
    """``sums[i d + k] += tree of s_k where i won``, of the ``n`` listed i, and for i = d of all.

    Two rows at a time share the loads. One adds under a mask, the other multiplies by 0 or 1: many
    processors have units for additions beside those for multiply-adds.
    """
    zero, one = broadcast(s.dtype.type(0.0)), broadcast(s.dtype.type(1.0))
    for k in range(0, d, 4):
        all_four = zero, zero, zero, zero
        for at in range(0, count, LANES):
            all_four = plus_where(load(won, at) >= np.int32(0), load_four(s, k, at), all_four)
        add_quad(sums[d * d :], k // 4, all_four)
        for j in range(0, n, 2):
            i, next_i = rows[j], rows[j + 1]
            first = second = zero, zero, zero, zero
            for at in range(0, count, LANES):
                winner, x = load(won, at), load_four(s, k, at)
                first = plus_where(winner == int32(i), x, first)
                second = plus_times(select(winner == int32(next_i), one, zero), x, second)
            add_quad(sums[i * d : (i + 1) * d], k // 4, first)
            if next_i >= 0:
                add_quad(sums[next_i * d : (next_i + 1) * d], k // 4, second)


@kernel
def run(
    task_begin, task_end, parts, theta, epsilons, family, key, num_samples, first_sample, row_ids,
    counts, sums,
):  # fmt: skip
    """Tasks ``task_begin .. task_end - 1``, as in ``argmax.run``: a row each, or a strand of one.

    ``counts`` is (tasks, d) and ``sums`` (tasks, (d + 1) d).
    """
    d = theta.shape[1]
    size = (d + 3) // 4 * 4
    a = np.empty(d, theta.dtype)
    z = lane_array(size, CHUNK, a)
    words = z.view(np.uint32)  # noise takes the place of its words
    s = z if is_family(family, NORMAL) else lane_array(size, CHUNK, a)
    won = lane_array(1, CHUNK, np.empty(0, np.int32))[0]
    chosen, rows = np.empty(d, np.int64), np.empty(d + 1, np.int64)
    strand = np.empty(sums.shape[1], np.float64)
    s[...] = 0
    for task in range(task_begin, task_end):
        b, part = divmod(task, parts)
        row, epsilon = row_ids[b], epsilons[b]
        a[:] = theta[b]
        if is_race(family):
            race_weights(a, epsilon, largest_finite(a))
        for first_chunk in range(part, STRANDS, parts):
            if first_chunk * CHUNK >= num_samples:
                break
            strand[:] = 0.0
            for m in range(first_chunk * CHUNK, num_samples, STRANDS * CHUNK):
                n = min(CHUNK, num_samples - m)
                draw_words(words, d, n, first_sample + m, row, key)
                # Codes that the compiler knows: loops without the constants of other families.
                if is_family(family, NORMAL):
                    draw_noise(NORMAL, words, d, n, z, s)
                elif is_family(family, GUMBEL):
                    draw_noise(GUMBEL, words, d, n, z, s)
                else:
                    draw_noise(family, words, d, n, z, s)
                find_winners(is_race(family), z, a, epsilon, n, won)
                chosen[:] = 0
                add_counts(won, n, chosen)
                counts[task] += chosen
                add_winners(won, s, d, n, rows, list_winners(chosen, rows), strand)
            sums[task] += strand
