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

**Mapping.** A lane is a sample, thirty-two at a time. Where the samples are few (``FEW``) a
lane is a (row, sample) instead, whatever row: see ``run_few``. A task is a row, one strand of a
row, or a block of thirty-two rows.

**Memory.** O(32 d) a thread; O(256 d) where d is small and for Jacobians. Independent of M.

**Determinism.** As in ``argmax.py``: chunks of 256 samples, lanes joined by a tree, sixteen
strands. With at most eight samples a row sums run over the samples in order, in float64.

**Oracles.** Each is a file with five functions, which the compiler inlines or calls:

    workspace(theta, options, lanes)                     arrays that live as long as a launch
    prepare(theta, scale, d, kind)                       once a row; may rewrite theta
    solve(p, d, count, places, which, options, work, y)  y, (d, lanes), of rows which[lane]
    note(y, d, count, work, memo, group)                 a solution to a few words a lane
    recall(p, d, count, memo, group, work, y)            and back, given the same p
"""

from __future__ import annotations

import numpy as np

from ..bits import fma
from ..codes import ANTITHETIC, JACOBIAN, JVP, MAXIMUM, MOMENTS, MULTIPLICATIVE, VALUE, VJP
from . import sums as add
from ._jit import jitable
from .accumulate import CHUNK, STRANDS
from .perturb import fill
from .simd import LANES, lane_array

WIDE = 32
"""Coordinates up to which a whole chunk is a block."""


@jitable
def room(wanted, rows, columns, like):
    """A (rows, columns) array, or one without room."""
    return lane_array(rows if wanted else 0, columns, like)


@jitable
def load_row(prepare, theta, scale, b, kind, padded, scales):
    """Row ``b``'s scores and temperatures, as the solver's noise will meet them."""
    d = theta.shape[1]
    for i in range(d):
        padded[i] = theta[b, i]
        scales[i] = scale[b, i if scale.shape[1] > 1 else 0]
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
def run_samples(
    workspace, prepare, solve, note, recall, task_begin, task_end, parts, operation, call, memo,
    solutions, counts, sums,
):  # fmt: skip
    """Tasks of rows (``parts`` = 1) or of strands of rows (16); lanes are samples."""
    draw, key, directions, theta, scale, row_ids, window, v, mean, pull, options, places = call
    num_samples, first_sample = window
    d = theta.shape[1]
    size = (d + 3) // 4 * 4
    block = CHUNK if operation == JACOBIAN or d <= WIDE else LANES
    paired = draw[2] == ANTITHETIC
    zero = theta.dtype.type(0.0)
    padded, scales = np.zeros(size, theta.dtype), np.ones(size, theta.dtype)
    p = lane_array(size, block, theta)
    s = room(operation in (VJP, JVP, JACOBIAN), size, block, theta)
    z = room(operation == MOMENTS, size, block, theta)
    y = lane_array(d, block, memo)
    weights = np.zeros(block, theta.dtype)
    lanes = lane_array(sums.shape[1] * (d + 1), LANES, theta).reshape((sums.shape[1], d + 1, LANES))
    values = np.zeros((2, 1, LANES), np.float64)
    strand = np.empty(sums.shape[1:], np.float64)
    sample, row = np.zeros(1, np.uint64), np.zeros(1, np.uint64)
    which = np.zeros(LANES, np.int64)
    work = workspace(theta, options, block)
    groups = (num_samples + LANES - 1) // LANES
    for task in range(task_begin, task_end):
        b, part = divmod(task, parts)
        row[0] = row_ids[b]
        which[:] = b
        load_row(prepare, theta, scale, b, draw[1], padded, scales)
        for first_chunk in range(part, STRANDS, parts):
            if first_chunk * CHUNK >= num_samples:
                break
            strand[...] = 0.0
            for m in range(first_chunk * CHUNK, num_samples, STRANDS * CHUNK):
                if operation != VALUE and operation != JACOBIAN:
                    lanes[...] = zero
                    values[...] = 0.0
                for at in range(m, min(m + CHUNK, num_samples), block):
                    count = min(block, num_samples - at)
                    sample[0] = first_sample + at
                    fill(draw, key, directions, sample, row, padded, scales, d, count, p, s, z)
                    decide(
                        solve, note, recall, operation, p, d, count, places, which, options, memo,
                        b * groups + at // LANES, work, y,
                    )  # fmt: skip
                    if count % LANES != 0:
                        add.clear_tail(y, count)
                    if operation != VJP:
                        add.add_counts(y, d, count, paired, counts[task])
                    if solutions.size > 0:
                        copy_solutions(y, d, count, solutions[b, at:])
                    if operation == MAXIMUM:
                        add.add_maximum(y, d, p, count, paired, values)
                    elif operation == VJP:
                        add.project(y, d, count, v[b], mean[b], pull, weights)
                        add.add_scores(weights, s, d, count, paired, lanes)
                    elif operation == JVP:
                        add.score_products(s, d, count, v[b], weights)
                        add.add_products(y, d, weights, count, paired, pull, lanes)
                    elif operation == JACOBIAN:
                        if count % LANES != 0:
                            add.clear_tail(s, count)
                        add.add_outer(y, d, s, count, paired, pull, lanes, strand)
                    elif operation == MOMENTS:
                        multiplicative = draw[1] == MULTIPLICATIVE
                        add.add_moments(y, d, p, z, count, multiplicative, lanes)
                if operation == MAXIMUM:
                    add.add_trees(values, strand)
                elif operation != VALUE and operation != JACOBIAN:
                    add.add_trees(lanes, strand)
            sums[task] += strand


@jitable
def gather(values, which, count, lanes):
    """``lanes[i, lane] = values[which[lane], i]``, (d, 32) from (rows, d)."""
    for first in range(0, values.shape[1], 16):  # a block at a time stays in the L1 cache
        for lane in range(count):
            for i in range(first, min(first + 16, values.shape[1])):
                lanes[i, lane] = values[which[lane], i]


@jitable
def run_few(
    workspace, prepare, solve, note, recall, block_begin, block_end, operation, call, memo, counts,
    sums,
):  # fmt: skip
    """Blocks of thirty-two rows of at most ``FEW`` samples: value, maximum and vjp.

    Lane ``l`` of group ``g`` is sample ``n % M`` of the block's row ``n // M``, ``n = 32 g + l``:
    all lanes are full whatever the number of samples.
    """
    draw, key, directions, theta, scale, row_ids, window, v, mean, pull, options, places = call
    num_samples, first_sample = window
    d = theta.shape[1]
    size = (d + 3) // 4 * 4
    paired = draw[2] == ANTITHETIC
    padded, scales = np.zeros(size, theta.dtype), np.ones(size, theta.dtype)
    x, e = np.zeros((size, LANES), theta.dtype), np.ones((size, LANES), theta.dtype)
    p = lane_array(size, LANES, theta)
    s = room(operation == VJP, size, LANES, theta)
    directed = room(operation == VJP, d, LANES, theta)
    centre = room(operation == VJP, d, LANES, theta)
    y = lane_array(d, LANES, memo)
    weights = np.zeros(LANES, theta.dtype)
    samples, rows = np.zeros(LANES, np.uint64), np.zeros(LANES, np.uint64)
    which = np.zeros(LANES, np.int64)
    work = workspace(theta, options, LANES)
    for block in range(block_begin, block_end):
        first = block * LANES
        problems = min(LANES, theta.shape[0] - first) * num_samples
        for n in range(0, problems, LANES):
            count = min(LANES, problems - n)
            for lane in range(LANES):
                b, m = divmod(n + min(lane, count - 1), num_samples)
                b += first
                which[lane], rows[lane], samples[lane] = b, row_ids[b], first_sample + m
                if lane == 0 or b != which[lane - 1]:
                    load_row(prepare, theta, scale, b, draw[1], padded, scales)
                for i in range(d):
                    x[i, lane], e[i, lane] = padded[i], scales[i]
            fill(draw, key, directions, samples, rows, x, e, d, LANES, p, s, s[:0])
            decide(
                solve, note, recall, operation, p, d, LANES, places, which, options, memo,
                block * num_samples + n // LANES, work, y,
            )  # fmt: skip
            if operation == VJP:
                gather(v, which, LANES, directed)
                gather(mean, which, LANES, centre)
                add.project(y, d, LANES, directed, centre, pull, weights)
            for lane in range(count):
                b = which[lane]
                if operation == VJP:
                    add_terms(weights, s, d, lane, paired, sums[b])
                else:
                    add_solution(y, p, d, lane, paired, operation == MAXIMUM, counts[b], sums[b])


@jitable
def add_terms(weights, s, d, lane, paired, sums):
    """One sample of the vjp of few: ``sums[0] += a s`` and of its square."""
    mate = lane ^ 1
    for i in range(d):
        term = weights[lane] * s[i, lane]
        sums[0, i] += np.float64(term)
        if sums.shape[0] > 1:
            if paired:
                term += weights[mate] * s[i, mate]
            sums[1, i] += np.float64(term) * np.float64(term)


@jitable
def value_of(y, p, d, lane):
    """``<y, p>`` in float64, coordinates in order; what is not chosen may be infinite."""
    total = 0.0
    for i in range(d):
        if y[i, lane] != 0:
            total = fma(np.float64(y[i, lane]), np.float64(p[i, lane]), total)
    return total


@jitable
def add_solution(y, p, d, lane, paired, maximum, counts, sums):
    """One solution of few: counts and, for the maximum, its value and the square."""
    mate = lane ^ 1
    for i in range(d):
        count = np.int64(y[i, lane])
        counts[0, i] += count
        if counts.shape[0] > 1:
            if paired:
                count += y[i, mate]
            counts[1, i] += count * count
    if maximum:
        value = value_of(y, p, d, lane)
        sums[0, 0] += value
        if paired:
            value += value_of(y, p, d, mate)
        sums[1, 0] += value * value


@jitable
def run_tasks(
    workspace, prepare, solve, note, recall, few, begin, end, parts, operation, call, memo,
    solutions, counts, sums,
):  # fmt: skip
    """Tasks ``begin .. end - 1`` of an oracle: its entry point is this, compiled.

    ``call`` is (draw, key, directions, theta, scale, row_ids, (num_samples, first_sample), v, mean,
    pull, options, places), the same for all tasks; ``launch.py`` makes it.
    """
    if few:
        run_few(
            workspace, prepare, solve, note, recall, begin, end, operation, call, memo, counts, sums
        )
    else:
        run_samples(
            workspace, prepare, solve, note, recall, begin, end, parts, operation, call, memo,
            solutions, counts, sums,
        )  # fmt: skip
