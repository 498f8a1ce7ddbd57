"""Perturb, solve, accumulate: the pass that every oracle but the plain argmax runs through.

    y_m = solution of the scores p_m that sample m sees (``codes.py``),    m < M

    value     counts[0] = sum y                    counts[1] = sum y^2            exact integers
    maximum   sums[0] = sum <y, p>                 sums[1] = sum <y, p>^2
    vjp       sums[0] = sum a s                    sums[1] = sum (a s)^2          a = <v, y - mean>
    jvp       sums[0] = sum y b                    sums[1], [2] = sum X B, X^2    b = <s, t>
    jacobian  sums[0] = sum y s^T                  sums[1], [2] = sum X B, X^2
    moments   sums[0] = sum y w                    sums[1] = sum y w z            w = 1 or p

The last entry (row) of jvp (jacobian) is of y = 1. Squares and the second count are there if asked
for; ``sums.py`` says what they are of when samples come in pairs.

**Mapping.** A lane is a sample, thirty-two at a time. What is left of several rows' samples shares
a group of lanes, (row, sample) each: see ``solve_remainders``. Where the samples are few (``FEW``)
all lanes are such: see ``run_few``. A VJP of solutions that are known adds scores up as it draws
them: see ``add_known``. A task is a row, the rows that share a group, one strand of a row, or a
block of thirty-two rows.

**Memory.** O(32 d) a thread; O(256 d) where d is small and for Jacobians. Independent of M.

**Determinism.** As in ``argmax.py``: chunks of 256 samples, lanes joined by a tree, sixteen
strands. With at most eight samples a row sums run over the samples in order, in float64.

**Oracles.** Each is a file with five functions, which the compiler inlines or calls, and with
``RECALL_READS_SCORES``, whether the last of them needs ``p``:

    workspace(theta, options, lanes)                     arrays that live as long as a launch
    prepare(theta, scale, d, kind)                       once a row that is read; may rewrite theta
    solve(p, d, count, places, which, options, work, y)  y, (d, lanes), of rows which[lane]
    note(y, d, count, work, memo, group)                 a solution to a few words a lane
    recall(p, d, count, memo, group, work, y)            and back, given the same p
"""

from __future__ import annotations

import numpy as np

from ..bits import int32
from ..codes import (
    ANTITHETIC,
    INDEPENDENT,
    JACOBIAN,
    JVP,
    MAXIMUM,
    MOMENTS,
    MULTIPLICATIVE,
    SCALE_SCORE,
    SCORE,
    VALUE,
    VJP,
)
from . import sums as add
from ._jit import inlined, jitable
from .accumulate import CHUNK, STRANDS, add_drawn_scores
from .perturb import fill
from .simd import LANES, lane_array, lane_indices, lane_rows, load, row_width, store

WIDE = 32
"""Coordinates up to which a whole chunk is a block."""


@jitable
def room(wanted, rows, columns, like):
    """A (rows, columns) array, or one without room."""
    return lane_array(rows if wanted else 0, columns, like)


@jitable
def copy_row(row, room):
    """``room[: row.size] = row``, in a third of the time that Numba's copy of a slice takes."""
    for i in range(row.size):
        room[i] = row[i]


@jitable
def add_to(total, values):
    """``total += values`` of two dimensions, which NumPy's way would compile error messages for."""
    for k in range(total.shape[0]):
        for i in range(total.shape[1]):
            total[k, i] += values[k, i]


@jitable
def load_row(prepare, theta, scale, b, kind, padded, scales):
    """Row ``b``'s scores and temperatures, as the solver's noise will meet them."""
    d = theta.shape[1]
    copy_row(theta[b], padded)
    if scale.shape[1] > 1:
        copy_row(scale[b], scales)
    else:
        for i in range(d):
            scales[i] = scale[b, 0]
    prepare(padded, scales, d, kind)


@jitable
def decide(
    solve, note, recall, operation, p, d, count, places, which, options, memo, group, work, y
):
    """Solutions of a block: recalled where a VJP can, else solved, and noted if there is room."""
    if operation == VJP and memo.size > 0:
        recall(p, d, count, memo, group, work, y)
        return
    solve(p, d, count, places, which, options, work, y)
    if memo.size > 0:
        note(y, d, count, work, memo, group)


@jitable
def copy_solutions(y, d, count, solutions):
    """``solutions[m, i] = y[i, m]``."""
    for m in range(count):
        for i in range(d):
            solutions[m, i] = y[i, m]


@jitable
def is_zero(values):
    """Whether all entries of a two-dimensional array are."""
    found = False
    for b in range(values.shape[0]):
        for i in range(values.shape[1]):
            found |= values[b, i] != 0
    return not found


@jitable
def transpose(rows, lanes):
    """``lanes[i, lane] = rows[lane, i]``, of rows that are padded to whole ``row_width``s."""
    width = row_width(lanes)
    table = rows.reshape((rows.size // width, width))
    first = int32(lane_indices()) * np.int32(rows.shape[1] // width)
    for j in range(rows.shape[1] // width):
        columns = lane_rows(table, first + np.int32(j))
        for r in range(width):
            store(lanes, (j * width + r) * LANES, columns[r])


@jitable
def gather(values, which, rows, lanes):
    """``lanes[i, lane] = values[which[lane], i]``; ``rows`` is scratch."""
    for lane in range(LANES):
        copy_row(values[which[lane]], rows[lane])
    transpose(rows, lanes)


@jitable
def new_seats(wanted, theta):
    """What ``take_seats`` fills: scores, temperatures, samples and rows of lanes; scratch."""
    size = (theta.shape[1] + 7) // 8 * 8 if wanted else 0  # a whole ``row_width``
    x, e = lane_array(size, LANES, theta), lane_array(size, LANES, theta)
    samples, rows = np.zeros(LANES, np.uint64), np.zeros(LANES, np.uint64)
    which = np.zeros(LANES, np.int64)
    padded, scales = np.zeros((LANES, size), theta.dtype), np.ones((LANES, size), theta.dtype)
    return x, e, samples, rows, which, padded, scales


@jitable
def take_seats(
    prepare, seats, theta, scale, row_ids, kind, first_row, window, n, problems, wants_scores
):  # fmt: skip
    """Lane ``l`` gets problem ``k = n + l`` of ``problems``; lanes beyond repeat the last.

    With ``window``'s number of samples a row, and first sample, problem ``k`` is sample ``k % M``
    of row ``first_row + k // M``. Scores and temperatures come along if wanted.
    """
    x, e, samples, rows, which, padded, scales = seats
    for lane in range(LANES):
        b, m = divmod(min(n + lane, problems - 1), window[0])
        b += first_row
        which[lane], rows[lane], samples[lane] = b, row_ids[b], window[1] + m
        if not wants_scores:
            continue
        if lane > 0 and b == which[lane - 1]:
            copy_row(padded[lane - 1], padded[lane])
            copy_row(scales[lane - 1], scales[lane])
        else:
            load_row(prepare, theta, scale, b, kind, padded[lane], scales[lane])
    if not wants_scores:
        return
    transpose(padded, x)
    if scale.shape[1] > 1:
        transpose(scales, e)
    else:
        for lane in range(LANES):
            e[0, lane] = scales[lane, 0]
        for i in range(1, e.shape[0]):
            store(e, i * LANES, load(e, 0))


@jitable
def rooms_beyond(wanted, p, s, z, y, memo):
    """Room for what ``solve_remainders`` leaves: as ``p``, ``s``, ``z`` and ``y`` of one group of
    lanes, and its memo.

    Each has a row more, so that 32 lanes can be read from any lane on; what is read beyond is
    finite.
    """
    noted = wanted and memo.size > 0
    return (
        room_beyond(wanted, p), room_beyond(wanted, s), room_beyond(wanted, z),
        room_beyond(wanted, y), np.empty((1 if noted else 0, memo.shape[1], LANES), np.int32),
    )  # fmt: skip


@jitable
def room_beyond(wanted, a):
    """Zeros, if wanted and where ``a`` has room."""
    result = room(wanted and a.size > 0, a.shape[0] + 1, LANES, a)
    result[...] = 0
    return result


@inlined
def solve_remainders(
    prepare, solve, note, recall, operation, call, first_row, end_row, memo, seats, work, beyond
):  # fmt: skip
    """Decide, in one group of lanes, the samples that rows have beyond their whole groups.

    ``beyond`` receives what ``fill`` and ``decide`` give for them, a (row, sample) a lane.
    """
    draw, key, directions, theta, scale, row_ids, window, _, _, _, options, places = call
    p, s, z, y, kept = beyond
    x, e, samples, rows, which = seats[:5]
    d, groups = theta.shape[1], (window[0] + LANES - 1) // LANES
    whole = (groups - 1) * LANES
    remainder = window[0] - whole
    count, left = (end_row - first_row) * remainder, (remainder, window[1] + whole)
    take_seats(prepare, seats, theta, scale, row_ids, draw[1], first_row, left, 0, count, True)
    fill(draw, key, directions, samples, rows, x, e, d, LANES, p, s, z)
    known = operation == VJP and memo.size > 0
    if known:
        for lane in range(count):
            b, m = first_row + lane // remainder, lane % remainder
            for word in range(memo.shape[1]):
                kept[0, word, lane] = memo[(b + 1) * groups - 1, word, m]
    decide(solve, note, recall, operation, p, d, count, places, which, options, kept, 0, work, y)
    if memo.size > 0 and not known:
        for lane in range(count):
            b, m = first_row + lane // remainder, lane % remainder
            for word in range(memo.shape[1]):
                memo[(b + 1) * groups - 1, word, m] = kept[0, word, lane]


@jitable
def shift_lanes(a, first, b, at):
    """Lanes ``at ..`` of ``b`` from lanes ``first ..`` of ``a``, which is 32 lanes wide."""
    for i in range(b.shape[0]):
        store(b, i * b.shape[1] + at, load(a, i * LANES + first))


@jitable
def take_remainder(operation, beyond, first, p, s, z, y, at):
    """A row's lanes of what ``solve_remainders`` left, from ``first`` on, become lanes ``at ..``.

    With them come lanes that are no samples of the row, as where nothing is shared.
    """
    shift_lanes(beyond[1], first, s, at)
    shift_lanes(beyond[2], first, z, at)
    shift_lanes(beyond[3], first, y, at)
    if operation in (MAXIMUM, MOMENTS):
        shift_lanes(beyond[0], first, p, at)


@inlined
def run_samples(
    workspace, prepare, solve, note, recall, reads_scores, task_begin, task_end, split, operation,
    call, memo, solutions, counts, sums,
):  # fmt: skip
    """Lanes are samples. ``split`` says how many parts a row has, one or all strands, and how many
    rows make a task, one unless their remainders share a group."""
    draw, key, directions, theta, scale, row_ids, window, v, mean, pull, options, places = call
    num_samples, first_sample = window
    parts, together = split
    d = theta.shape[1]
    size = (d + 3) // 4 * 4
    block = CHUNK if operation == JACOBIAN or d <= WIDE else LANES
    zero = theta.dtype.type(0.0)
    padded, scales = np.zeros(size, theta.dtype), np.ones(size, theta.dtype)
    p = room(reads_scores or operation != VJP or memo.size == 0, size, block, theta)
    s = room(operation in (VJP, JVP, JACOBIAN), size, block, theta)
    z = room(operation == MOMENTS, size, block, theta)
    y = lane_array(d, block, memo)
    weights = np.zeros(CHUNK, theta.dtype)
    lanes = lane_array(sums.shape[1] * (d + 1), LANES, theta).reshape((sums.shape[1], d + 1, LANES))
    values = np.zeros((2, 1, LANES), np.float64)
    strand = np.empty(sums.shape[1:], np.float64)
    sample, row = np.zeros(1, np.uint64), np.zeros(1, np.uint64)
    which = np.zeros(LANES, np.int64)
    work = workspace(theta, options, block)
    groups = (num_samples + LANES - 1) // LANES
    shared = num_samples % LANES if together > 1 else 0
    is_known = operation == VJP and memo.size > 0 and not reads_scores and sums.shape[1] == 1
    is_known = is_known and draw[2] == INDEPENDENT and draw[3] == SCORE
    seats, beyond = new_seats(shared > 0, theta), rooms_beyond(shared > 0, p, s, z, y, memo)
    for task in range(task_begin, task_end):
        first_row, part = task // parts * together, task % parts
        end_row = min(first_row + together, theta.shape[0])
        if shared > 0:
            solve_remainders(
                prepare, solve, note, recall, operation, call, first_row, end_row, memo, seats,
                work, beyond,
            )  # fmt: skip
        for b in range(first_row, end_row):
            result = b * parts + part
            row[0] = row_ids[b]
            which[:] = b
            load_row(prepare, theta, scale, b, draw[1], padded, scales)
            for first_chunk in range(part, STRANDS, parts):
                if first_chunk * CHUNK >= num_samples:
                    break
                strand[...] = 0.0
                for m in range(first_chunk * CHUNK, num_samples, STRANDS * CHUNK):
                    if is_known:
                        count, first = min(CHUNK, num_samples - m), (b - first_row) * shared
                        others = shared if m + count == num_samples else 0
                        add_known(
                            recall, call, b, m, count, others, first, block, memo, groups, work, y,
                            weights, beyond[1], strand,
                        )  # fmt: skip
                        continue
                    if operation != VALUE and operation != JACOBIAN:
                        lanes[...] = zero
                        values[...] = 0.0
                    for at in range(m, min(m + CHUNK, num_samples), block):
                        count = min(block, num_samples - at)
                        whole = count - shared if at + count == num_samples else count
                        if whole > 0:
                            sample[0] = first_sample + at
                            fill(
                                draw, key, directions, sample, row, padded, scales, d, whole, p, s,
                                z,
                            )  # fmt: skip
                            decide(
                                solve, note, recall, operation, p, d, whole, places, which, options,
                                memo, b * groups + at // LANES, work, y,
                            )  # fmt: skip
                        if whole < count:
                            first = (b - first_row) * shared
                            take_remainder(operation, beyond, first, p, s, z, y, whole)
                        if count % LANES != 0:
                            add.clear_tail(y, count)
                        if solutions.size > 0:
                            copy_solutions(y, d, count, solutions[b, at:])
                        add_block(
                            operation, draw, d, count, p, s, z, y, v[b : b + 1], mean[b : b + 1],
                            pull, weights[:block], lanes, values, strand, counts[result],
                        )  # fmt: skip
                    if operation == MAXIMUM:
                        add.add_trees(values, strand)
                    elif operation != VALUE and operation != JACOBIAN:
                        add.add_trees(lanes, strand)
                add_to(sums[result], strand)


@inlined
def add_block(
    operation, draw, d, count, p, s, z, y, v, mean, pull, weights, lanes, values, strand, counts
):  # fmt: skip
    """What a block of a row's samples adds; ``v`` and ``mean`` hold one row, if any."""
    paired = draw[2] == ANTITHETIC
    if operation != VJP:
        add.add_counts(y, d, count, paired, counts)
    if operation == MAXIMUM:
        add.add_maximum(y, d, p, count, paired, values)
    elif operation == VJP:
        add.project(y, d, count, v[0], mean[0], pull, weights)
        add.add_scores(weights, s, d, count, paired, lanes)
    elif operation == JVP:
        add.score_products(s, d, count, v[0], weights)
        add.add_products(y, d, weights, count, paired, pull, lanes)
    elif operation == JACOBIAN:
        if count % LANES != 0:
            add.clear_tail(s, count)
        add.add_outer(y, d, s, count, paired, pull, lanes, strand)
    elif operation == MOMENTS:
        add.add_moments(y, d, p, z, count, draw[1] == MULTIPLICATIVE, lanes)


@inlined
def add_known(
    recall, call, b, m, count, others, first, block, memo, groups, work, y, weights, shared_scores,
    strand,
):  # fmt: skip
    """What a chunk of a row's samples adds to a VJP where the memo has their solutions: nothing
    else needs their scores, which are added up as they are drawn, in a third less time.

    The scores of the last ``others`` samples are lanes ``first ..`` of ``shared_scores``.
    """
    draw, key, _, theta, _, row_ids, window, v, mean, pull, _, _ = call
    d = theta.shape[1]
    for at in range(0, count, block):
        n = min(block, count - at)
        recall(shared_scores[:0], d, n, memo, b * groups + (m + at) // LANES, work, y)
        add.project(y, d, n, v[b], mean[b], pull, weights[at : at + block])
    scores = shared_scores if others > 0 else shared_scores[:0]
    add_drawn_scores(
        draw[0], d, weights, count - others, window[1] + m, row_ids[b], key, scores, first,
        strand[0],
    )  # fmt: skip


@jitable
def copy_notes(noted, seats, window, count, memo, notes):
    """What few samples decided: from ``memo``, (rows, num_samples, words), to a group of lanes
    where it was noted, else back."""
    _, _, samples, _, which, _, _ = seats
    for lane in range(count):
        b, m = which[lane], np.int64(samples[lane]) - window[1]
        for word in range(memo.shape[2]):
            if noted:
                notes[0, word, lane] = memo[b, m, word]
            else:
                memo[b, m, word] = notes[0, word, lane]


@jitable
def recall_rows(solutions, seats, window, rows, y):
    """What few samples decided: from ``solutions``, (rows, num_samples, d), to lanes."""
    for lane in range(LANES):
        m = np.int64(seats[2][lane]) - window[1]
        copy_row(solutions[seats[4][lane], m], rows[lane])
    transpose(rows, y)


@jitable
def keep_rows(rows, count, first, kept):
    """The first rows become samples ``first ..`` of ``kept``, (rows, num_samples, d), if any."""
    if kept.size > 0:
        for lane in range(count):
            b, m = divmod(first + lane, kept.shape[1])
            copy_row(rows[lane, : kept.shape[2]], kept[b, m])


@inlined
def run_few(
    workspace, prepare, solve, note, recall, reads_scores, block_begin, block_end, operation, call,
    memo, solutions, scores, counts, sums,
):  # fmt: skip
    """Blocks of thirty-two rows of at most ``FEW`` samples: value, maximum and vjp.

    Lane ``l`` of group ``g`` is sample ``n % M`` of the block's row ``n // M``, ``n = 32 g + l``:
    all lanes are full whatever the number of samples. ``memo`` is (rows, num_samples, words).
    A value can leave ``solutions`` and ``scores`` too, (rows, num_samples, d): see ``kept.py``; a
    VJP that is given solutions decides as little as with a memo.
    """
    draw, key, directions, theta, scale, row_ids, window, v, mean, pull, options, places = call
    num_samples = window[0]
    d = theta.shape[1]
    size = (d + 7) // 8 * 8
    paired = draw[2] == ANTITHETIC
    seats = new_seats(True, theta)
    x, e, samples, ids, which, padded, _ = seats
    noted, kept = operation == VJP and memo.size > 0, operation == VJP and solutions.size > 0
    p = room(not kept and (reads_scores or not noted), size, LANES, theta)
    s = room(operation == VJP or scores.size > 0, size, LANES, theta)
    directed = room(operation == VJP, size, LANES, theta)
    centre = room(operation == VJP, size, LANES, theta)
    y = lane_array(size, LANES, memo)
    y[...] = 0  # lanes that no problem has
    weights, values = np.zeros(LANES, theta.dtype), np.zeros(LANES, np.float64)
    y_rows, s_rows = lane_array(LANES, size, memo), room(s.size > 0, LANES, size, theta)
    work = workspace(theta, options, LANES)
    notes = np.empty((min(1, len(memo)), memo.shape[2], LANES), np.int32)
    own = mean[block_begin * LANES : block_end * LANES]
    centred = operation == VJP and not is_zero(own)  # not with one sample, nor plain estimators
    centre[...] = theta.dtype.type(0.0)
    for block in range(block_begin, block_end):
        first = block * LANES
        problems = min(LANES, theta.shape[0] - first) * num_samples
        for n in range(0, problems, LANES):
            count = min(LANES, problems - n)
            take_seats(
                prepare, seats, theta, scale, row_ids, draw[1], first, window, n, problems,
                p.size > 0 or draw[3] == SCALE_SCORE,
            )  # fmt: skip
            fill(draw, key, directions, samples, ids, x, e, d, LANES, p, s, s[:0])
            if kept:
                recall_rows(solutions, seats, window, y_rows, y)
            else:
                if noted:
                    copy_notes(noted, seats, window, LANES, memo, notes)
                decide(
                    solve, note, recall, operation, p, d, count, places, which, options, notes, 0,
                    work, y,
                )  # fmt: skip
                if memo.size > 0 and not noted:
                    copy_notes(noted, seats, window, count, memo, notes)
            if operation == VJP:
                gather(v, which, padded, directed)
                if centred:
                    gather(mean, which, padded, centre)
                add.project(y, d, LANES, directed, centre, pull, weights)
                add.to_rows(s, 0, d, s_rows)
                add.add_rows_of_terms(weights, s_rows, d, count, paired, which, sums)
            else:
                add.to_rows(y, 0, d, y_rows)
                add.add_rows_of_solutions(y_rows, d, count, paired, which, counts)
                keep_rows(y_rows, count, first * num_samples + n, solutions)
            if scores.size > 0:
                add.to_rows(s, 0, d, s_rows)
                keep_rows(s_rows, count, first * num_samples + n, scores)
            if operation == MAXIMUM:
                add.add_rows_of_values(y, d, p, count, paired, which, values, sums)


@inlined
def run_tasks(
    workspace, prepare, solve, note, recall, reads_scores, few, begin, end, split, operation, call,
    memo, solutions, scores, counts, sums,
):  # fmt: skip
    """Tasks ``begin .. end - 1`` of an oracle: its entry point is this, compiled.

    ``call`` is (draw, key, directions, theta, scale, row_ids, (num_samples, first_sample), v, mean,
    pull, options, places), the same for all tasks; ``launch.py`` makes it.
    """
    if few:
        run_few(
            workspace, prepare, solve, note, recall, reads_scores, begin, end, operation, call,
            memo, solutions, scores, counts, sums,
        )  # fmt: skip
    else:
        run_samples(
            workspace, prepare, solve, note, recall, reads_scores, begin, end, split, operation,
            call, memo, solutions, counts, sums,
        )  # fmt: skip
