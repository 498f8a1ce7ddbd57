"""The handler that XLA calls: launches, and the float64 arithmetic of ``_engine.py``,
``_losses.py`` and ``_dual.py`` around them, in the same order, so that the bits are NumPy's."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import carray, njit

from ._jax_cpu_checks import NOTHING, RAISED, UNKNOWN, explain, opening
from ._jax_cpu_frames import (
    ADJOINT,
    ARGMAX,
    ENTROPY,
    EPSILON_ADJOINT,
    GRID_PATH,
    LOSS_OF,
    OPERANDS,
    PRODUCT,
    RESULTS,
    TOTAL,
    address_of,
    array,
    array_beside,
    call_frame,
    ends_of,
    first_of,
    option_address,
    parameters,
    pointer,
    seed_of,
    temperatures,
    total_of,
    word,
    words_kept,
)
from ._jax_cpu_kernels import BY_ROWS, FUSED, Launch, address
from ._jax_cpu_threads import num_threads, share
from .kernels.codes import (
    ADDITIVE,
    ANTITHETIC,
    FEW,
    INDEPENDENT,
    JACOBIAN,
    JVP,
    MAXIMUM,
    MOMENTS,
    MULTIPLICATIVE,
    RACE,
    SCALE_SCORE,
    SCORE,
    VALUE,
    VJP,
    pull_of,
)
from .kernels.cpu._jit import jitable
from .kernels.cpu.arrays import apply_any_slope_to_row, contract_sums
from .kernels.cpu.fused import copy_row
from .kernels.cpu.kept import add_kept
from .kernels.cpu.simd import LANES
from .kernels.cpu.small import Samples, divisor, is_loo, means, row_sum
from .kernels.cpu.tasks import add_strands, parts_of, rows_together
from .kernels.cpu.threads import SMALL_CALL_NS
from .kernels.noise import GUMBEL


class Call(NamedTuple):
    """The rows of all calls, as kernels and sums take them."""

    theta: np.ndarray
    epsilon: np.ndarray
    """Of rows, or of their coordinates."""
    scales: np.ndarray
    """The same in one axis, negative where noise is taken from costs. Long enough to load whole
    blocks of lanes, as is ``ids``."""
    ids: np.ndarray
    keys: np.ndarray
    """Of calls, (calls, 3): as ``perturb.words`` takes them."""
    first_samples: np.ndarray
    places: np.ndarray
    """Of the rows of one call, (rows, 2)."""
    beside: np.ndarray
    """The array beside the scores, or the scores."""


@jitable
def call_of(frame, p, like):
    """What XLA has handed over."""
    rows = p.calls * p.rows
    epsilon = temperatures(frame, p, like)
    scales = np.ones(rows * p.columns + LANES, like.dtype)
    ids, keys = np.zeros(rows + LANES, np.uint64), np.zeros((p.calls, 3), np.uint64)
    first_samples = np.empty(p.calls, np.int64)
    for call in range(p.calls):
        row, sample, _ = first_of(frame, p, call)
        keys[call, 0], keys[call, 1], _ = seed_of(frame, p, call)
        first_samples[call] = np.int64(sample)
        for b in range(p.rows):
            ids[call * p.rows + b] = row + np.uint64(b)
    sign = 1 if p.multiplicative != 0 else p.sign
    for b in range(rows):
        for i in range(p.columns):
            scales[b * p.columns + i] = sign * epsilon[b, i]
    places, ends = np.zeros((p.rows, 2), np.int64), ends_of(frame, p)
    for b in range(p.rows if p.ends > 0 else 0):
        for k in range(2):
            places[b, k] = ends[min(b, p.ends - 1), k]
    return Call(
        array(frame, OPERANDS, 0, p, p.d, like), epsilon, scales, ids, keys, first_samples,
        places, array_beside(frame, p, like),
    )  # fmt: skip


@jitable
def by_scale(p):
    """Whether a derivative in the temperature is by the scores of the scale
    (``Sampler._by_product``)."""
    by_product = p.oracle != GRID_PATH and p.columns == 1 and p.multiplicative == 0
    return p.operation >= EPSILON_ADJOINT and not by_product


@jitable
def of_product(p):
    """Whether locations are products, and derivatives in scores differ by those."""
    return p.multiplicative != 0 and not by_scale(p)


@jitable
def sign_of(p):
    """What derivatives are multiplied by: scores of the scale, and products, know of costs."""
    return 1 if by_scale(p) or p.multiplicative != 0 else p.sign


@jitable
def samples_of(p):
    """All rows, as the arithmetic of ``small.py`` takes them."""
    return Samples(p.calls * p.rows, p.d, p.family, p.num_samples, p.centred, p.paired)


# ----------------------------------------------------------------------------------------- launches


@jitable
def sizes(operation, d):
    """Slots and size of the sums of an operation: see ``kernels/cpu/fused.py``."""
    if operation == VALUE:
        return 1, 0
    if operation == MAXIMUM:
        return 2, 1
    if operation == MOMENTS:
        return 2, d
    if operation == VJP:
        return 1, d
    return 1, d + 1 if operation == JVP else (d + 1) * d


@njit(nogil=True, error_model="numpy")
def launch(frame, p, c, operation, direction, mean, memo, samples, like):
    """Whether no kernel raised, the counts, (rows, d), and the sums, (rows, slots, size).

    The arrays are the caller's to hold: kernels know their addresses only.
    """
    rows, (slots, size) = p.calls * p.rows, sizes(operation, p.d)
    by_oracle = p.form == FUSED
    is_few = p.num_samples <= FEW and operation in (VALUE, MAXIMUM, VJP)
    few = p.form == BY_ROWS or (by_oracle and is_few)
    parts = 1
    if not few and p.cost >= SMALL_CALL_NS:
        parts = parts_of(rows, p.d, p.num_samples, slots, size, num_threads())
    counts, sums = np.zeros((rows * parts, p.d), np.int64), np.zeros((rows * parts, slots, size))
    together = 1
    if by_oracle and not few and parts == 1:
        together = rows_together(p.rows, p.d, p.num_samples, num_threads())
    units = (p.rows + LANES - 1) // LANES if few else (p.rows + together - 1) // together * parts
    needs_z = operation in (MAXIMUM, MOMENTS) or by_scale(p)
    race = by_oracle and p.oracle == ARGMAX and p.family == GUMBEL and p.columns == 1
    kind = RACE if race and not needs_z else ADDITIVE
    if p.multiplicative != 0:
        kind = MULTIPLICATIVE
    design = ANTITHETIC if p.paired != 0 else INDEPENDENT
    weighting = SCALE_SCORE if by_scale(p) else SCORE
    memo_words, keeps = p.memo_words if memo.size > 0 else 0, samples[0].size > 0
    solutions = address_of(samples[0]) if keeps else word(0)
    scores = address_of(samples[1]) if keeps and operation == VALUE else word(0)
    what = Launch(
        kernel=address(p.kernel),
        form=p.form,
        few=word(few),
        parts=word(parts),
        together=word(together),
        call_units=units,
        calls=p.calls,
        operation=word(operation),
        rows=p.rows,
        d=p.d,
        columns=p.columns,
        family=p.family,
        kind=word(kind),
        weighting=word(weighting),
        num_samples=p.num_samples,
        design=word(design),
        slots=word(slots),
        size=word(size),
        memo_words=word(memo_words),
        solution_words=p.solution_words,
        theta=address_of(c.theta),
        scales=address_of(c.scales),
        ids=address_of(c.ids),
        keys=address_of(c.keys),
        samples=address_of(c.first_samples),
        direction=address_of(direction),
        mean=address_of(mean),
        memo=address_of(memo),
        solutions=solutions,
        scores=scores,
        counts=address_of(counts),
        sums=address_of(sums),
        options=option_address(frame),
        places=address_of(c.places),
    )
    done = share(frame, what, p.cost, like)
    if parts == 1:
        return done, counts, sums
    all_counts, all_sums = np.empty((rows, p.d), np.int64), np.empty((rows, slots * size))
    add_strands(counts, parts, all_counts)
    add_strands(sums.reshape((rows * parts, slots * size)), parts, all_sums)
    return done, all_counts, all_sums.reshape((rows, slots, size))


@jitable
def room(words):
    """For what samples decide."""
    return np.empty(words, np.int32)


@jitable
def room_of_samples(p, wanted, like):
    """For the solutions and scores of all samples, where they are kept and wanted."""
    n = p.calls * p.rows if wanted and p.keeps_samples != 0 else 0
    shape = (n, p.num_samples, p.d)
    return np.empty(shape, np.int32), np.empty(shape, like.dtype)


@jitable
def no_room(p, like):
    """A memo and samples where neither is wanted."""
    return room(0), room_of_samples(p, False, like)


# ---------------------------------------------------------------- what a value leaves (``Kept``)


@jitable
def lines_of(values, rows):
    """An array's memory as 32-bit words, a line a row."""
    words = values.size * values.itemsize // 4
    return carray(pointer(address_of(values)), (rows, words // rows), np.int32)


@njit(nogil=True, error_model="numpy")
def put(values, kept, first):
    """Write the rows of an array, as 32-bit words, from column ``first`` on."""
    lines = lines_of(values, kept.shape[0])
    for b in range(lines.shape[0]):
        copy_row(lines[b], kept[b, first:])


@njit(nogil=True, error_model="numpy")
def get(values, kept, first):
    """And read them."""
    lines = lines_of(values, kept.shape[0])
    for b in range(lines.shape[0]):
        copy_row(kept[b, first : first + lines.shape[1]], lines[b])


@jitable
def asked(done):
    """What Python is to be asked after a launch."""
    return NOTHING if done else RAISED


@jitable
def mean_words(s):
    """How many words a row are of the mean, which come first."""
    return 2 * s.d if is_loo(s) else 0


@jitable
def move_samples(move, samples, kept, s):
    """``put`` or ``get`` solutions and scores, which follow the mean."""
    move(samples[0], kept, mean_words(s))
    move(samples[1], kept, mean_words(s) + s.num_samples * s.d)


# -------------------------------------------------------------------------------------- operations


@jitable
def write_value(frame, p, c, like):
    """The value of every row and, where derivatives want it, what ``packed_forward`` packs."""
    s = samples_of(p)
    memo, samples = room(p.calls * p.memo_words), room_of_samples(p, True, like)
    by_jacobian = p.kept > 0 and p.by_jacobian != 0
    operation = word(JACOBIAN if by_jacobian else VALUE)
    done, counts, sums = launch(frame, p, c, operation, c.theta, c.theta, memo, samples, like)
    means(counts, s, array(frame, RESULTS, 0, p, p.d, like))
    if p.kept > 0:
        kept = words_kept(frame, RESULTS, 1, p)
        if is_loo(s):
            mean = np.empty((s.rows, s.d))
            means(counts, s, mean)
            put(mean, kept, 0)
        if by_jacobian:
            put(sums, kept, mean_words(s))
        elif p.keeps_samples:
            move_samples(put, samples, kept, s)
        else:
            put(memo, kept, mean_words(s))
    return asked(done)


@jitable
def row_product(theta, weight, x):
    """``<theta, weight>`` in float64, a score without weight counting as 0; ``x`` is room."""
    for i in range(x.size):
        x[i] = 0.0 if weight[i] == 0 else np.float64(theta[i]) * np.float64(weight[i])
    return row_sum(x)


@jitable
def entropy(y, x):
    """``sum y log y - gamma``: the argmax's offset over the temperature, in Gumbel noise."""
    for i in range(x.size):
        p = max(np.float64(y[i]), 0.0)
        x[i] = p * np.log(p) if p > 0 else 0.0
    return row_sum(x) - np.euler_gamma


@jitable
def needs_moments(p):
    """Whether a slope of the maximum is more than its value and the mean say."""
    if p.multiplicative != 0:
        return p.by_theta + p.by_epsilon > 0
    return p.by_epsilon != 0 and p.columns > 1


@jitable
def slope_in_theta(p, theta, mean, moments, b, i):
    """``d Fbar / d theta`` of a coordinate: ``Sampler.slope_of_maximum``."""
    score = np.float64(theta[b, i])
    if p.multiplicative == 0 or score == 0 or np.isinf(score):
        return p.sign * mean[b, i]
    return p.sign * (moments[b, 0, i] / p.num_samples / score)


@jitable
def slope_by_moments(p, moments, epsilon, slope):
    """``d Fbar / d epsilon`` of every coordinate of a row: ``Sampler.epsilon_slope_of_maximum``."""
    for i in range(slope.size):
        slope[i] = moments[1, i] / p.num_samples
        if p.multiplicative != 0:
            own = np.float64(epsilon[i if epsilon.size > 1 else 0])
            slope[i] = p.sign * (slope[i] - own * (moments[0, i] / p.num_samples))


@jitable
def write_maximum(frame, p, c, like):
    """The maximum or the loss of every row, and its slopes."""
    s = samples_of(p)
    memo, samples = no_room(p, like)
    done, counts, sums = launch(frame, p, c, word(MAXIMUM), c.theta, c.theta, memo, samples, like)
    value = array(frame, RESULTS, 0, p, 1, like)
    mean, x, known = np.empty((s.rows, s.d)), np.empty(s.d), True
    means(counts, s, mean)
    by_moments, moments = needs_moments(p), np.empty((0, 2, s.d))
    if done and by_moments:
        done, counts, moments = launch(
            frame, p, c, word(MOMENTS), c.theta, c.theta, memo, samples, like
        )
    for b in range(s.rows if done else 0):
        maximum, offset = p.sign * sums[b, 0, 0] / p.num_samples, 0.0
        epsilon = np.float64(c.epsilon[b, 0])
        value[b, 0] = maximum
        if p.operation == LOSS_OF:
            if p.offset == ENTROPY:
                offset = entropy(c.beside[b], x)
            elif p.offset == TOTAL:
                offset = -np.euler_gamma * total_of(frame, p)
            product = p.sign * row_product(c.theta[b], c.beside[b], x)
            value[b, 0] = maximum - product + offset * epsilon
        if p.by_theta:
            slope = array(frame, RESULTS, 1, p, p.d, like)
            for i in range(p.d):
                slope[b, i] = slope_in_theta(p, c.theta, mean, moments, b, i)
        if p.by_epsilon and by_moments:
            slope_by_moments(p, moments[b], c.epsilon[b], x)
            slope = array(frame, RESULTS, 1 + p.by_theta, p, p.columns, like)
            if p.columns > 1:
                copy_row(x, slope[b])
            else:
                slope[b, 0] = row_sum(x)
        elif p.by_epsilon:
            product = p.sign * row_product(c.theta[b], mean[b], x)
            slope = array(frame, RESULTS, 1 + p.by_theta, p, 1, like)
            slope[b, 0] = (maximum - product) / epsilon + offset
            known &= np.isfinite(maximum)
    if not known:  # infinity less infinity
        return UNKNOWN
    return asked(done)


@jitable
def centre_scores(theta, scores):
    """As ``_engine.centred_scores``, of a row."""
    count = 0
    for i in range(theta.size):
        finite = np.isfinite(theta[i])
        scores[i] = theta[i] if finite else 0.0
        count += finite
    centre = row_sum(scores) / max(count, 1)
    for i in range(theta.size):
        scores[i] = scores[i] - centre if np.isfinite(theta[i]) else 0.0


@jitable
def weigh_ones(mean, s):
    """The mean as ``Sampler._weight_of_ones``: of pairs, of all but the own."""
    if s.paired != 0 and is_loo(s):
        for b in range(s.rows):
            for i in range(s.d):
                mean[b, i] = mean[b, i] * s.num_samples / (s.num_samples - 2)


@jitable
def sums_of_jacobian(frame, p, c, mean, like):
    """``v^T sum (y - mean) s^T`` of every row."""
    s = samples_of(p)
    totals = np.empty((s.rows, s.d))
    if p.kept > 0 and not by_scale(p):
        done, outer = True, np.empty((s.rows, p.d + 1, p.d))
        get(outer, words_kept(frame, OPERANDS, 5, p), mean_words(s))
    else:
        memo, samples = no_room(p, like)
        done, counts, sums = launch(
            frame, p, c, word(JACOBIAN), c.theta, c.theta, memo, samples, like
        )
        outer = sums.reshape((s.rows, p.d + 1, p.d))
        if is_loo(s):
            means(counts, s, mean)
    weigh_ones(mean, s)
    contract_sums(c.beside, mean, outer, totals)
    return done, totals


@jitable
def sums_of_vjp(frame, p, c, mean, like):
    """``sum <v, y - mean> s`` of every row; centred samples decide first, unless a mean is kept."""
    s = samples_of(p)
    memo = room(p.calls * p.memo_words)
    operation = word(VALUE if is_loo(s) and p.kept == 0 else VJP)
    samples = room_of_samples(p, True, like)
    if p.keeps_samples:
        move_samples(get, samples, words_kept(frame, OPERANDS, 5, p), s)
    elif p.kept > 0:
        get(memo, words_kept(frame, OPERANDS, 5, p), mean_words(s))
    centre = np.empty((s.rows, s.d), like.dtype)
    for b in range(s.rows):
        for i in range(s.d):
            centre[b, i] = mean[b, i]
    if p.keeps_samples and not by_scale(p):
        totals = np.empty((s.rows, s.d))
        pull = like.dtype.type(pull_of(s.paired, s.num_samples))
        add_kept(samples[0], samples[1], c.beside, centre, pull, totals)
        return True, totals
    while True:  # one place that launches: it is compiled once
        done, counts, sums = launch(frame, p, c, operation, c.beside, centre, memo, samples, like)
        if operation == VJP or not done:
            return done, sums.reshape((s.rows, sums.shape[2]))
        means(counts, s, centre)
        operation = word(VJP)


@jitable
def write_adjoint(frame, p, c, like):
    """``v^T J``, or what it makes ``v^T dy / d epsilon``, of every row."""
    s = samples_of(p)
    columns = p.d if p.operation == ADJOINT else p.columns
    product = array(frame, RESULTS, 0, p, columns, like)
    mean, x, scores = np.zeros((s.rows, s.d)), np.empty(s.d), np.empty(s.d)
    if p.kept > 0 and is_loo(s):
        get(mean, words_kept(frame, OPERANDS, 5, p), 0)
    if p.by_jacobian:
        done, totals = sums_of_jacobian(frame, p, c, mean, like)
    else:
        done, totals = sums_of_vjp(frame, p, c, mean, like)
    for b in range(s.rows if done else 0):
        apply_any_slope_to_row(
            totals[b], divisor(s), c.theta[b], c.epsilon[b], sign_of(p), of_product(p), x
        )
        if columns > 1 or p.operation == ADJOINT:
            copy_row(x, product[b])
        elif by_scale(p):
            product[b, 0] = row_sum(x)
        else:
            centre_scores(c.theta[b], scores)
            for i in range(p.d):
                x[i] *= scores[i]
            product[b, 0] = -row_sum(x) / np.float64(c.epsilon[b, 0])
    return asked(done)


@jitable
def base_of(epsilon):
    """The largest ``1 / epsilon`` of a row."""
    least = np.float64(epsilon[0])
    for i in range(epsilon.size):
        least = min(least, np.float64(epsilon[i]))
    return 1 / least


@jitable
def relative_slope(theta, epsilon, base, own, p):
    """What is left of a coordinate's slope."""
    relative = 1 / (np.float64(epsilon) * base) if own else 1.0
    if not of_product(p):
        return relative
    return 0.0 if theta == 0 else relative / np.float64(theta)


@jitable
def fill_direction(p, c, direction):
    """What scores are multiplied by: a tangent, of theta or of the temperature, in units of
    ``base_of`` (``Sampler._slope``)."""
    scores, own = np.empty(p.d), p.columns > 1
    for b in range(direction.shape[0]):
        epsilon, base = np.float64(c.epsilon[b, 0]), base_of(c.epsilon[b])
        centre_scores(c.theta[b], scores)
        for i in range(p.d):
            t = np.float64(c.beside[b, i if p.operation == PRODUCT or own else 0])
            if p.operation != PRODUCT and not by_scale(p):
                t = -(t / epsilon) * scores[i]
            t *= relative_slope(c.theta[b, i], c.epsilon[b, i if own else 0], base, own, p)
            direction[b, i] = 0.0 if np.isinf(c.theta[b, i]) else t


@jitable
def write_product(frame, p, c, like):
    """``J t`` of every row."""
    s = samples_of(p)
    product = array(frame, RESULTS, 0, p, p.d, like)
    direction, mean = np.empty((s.rows, s.d), like.dtype), np.zeros((s.rows, s.d))
    fill_direction(p, c, direction)
    memo, samples = no_room(p, like)
    done, counts, sums = launch(frame, p, c, word(JVP), direction, c.theta, memo, samples, like)
    if is_loo(s):
        means(counts, s, mean)
        weigh_ones(mean, s)
    for b in range(s.rows):
        scale = sign_of(p) * base_of(c.epsilon[b]) / divisor(s)
        for i in range(p.d):
            product[b, i] = (sums[b, 0, i] - mean[b, i] * sums[b, 0, p.d]) * scale
    return asked(done)


WRITES: dict[str, Callable] = {
    "value": write_value,
    "maximum": write_maximum,
    "adjoint": write_adjoint,
    "product": write_product,
}
"""By what is written: the handlers."""


def handler(write, like):
    """What XLA calls, for scores of the precision of ``like``."""

    def handle(address):
        frame = call_frame(address)
        returned = opening(address, frame, like)
        if returned != -1:
            return returned
        p = parameters(frame)
        try:
            what = write(frame, p, call_of(frame, p, like), like)
        except Exception:  # no memory
            what = RAISED
        return 0 if what == NOTHING else explain(address, what)

    return handle
