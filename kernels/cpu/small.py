"""Estimators of the plain argmax in one compiled call: for problems so small that they would cost
less than the Python around their launches.

``argmax.py`` or, for a few samples of many rows, ``argmax_rows.py`` is launched on the calling
thread, once or twice, and the float64 arithmetic that ``dpo/_engine.py`` does around it is repeated
here in the same order: the bits are the same. NumPy and torch come here by ``forward``,
``maximum`` and ``vjp``; programs of JAX's use the arithmetic (``dpo/_jax_cpu_handler.py``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from ..codes import MAXIMUM, VALUE, VJP, Draws, Problem
from . import argmax, argmax_rows
from ._jit import jitable, kernel
from .arrays import apply_slope_to_row
from .launch import is_plain
from .layout import compiled_layout
from .simd import LANES

MAX_COORDINATES = 200_000
"""Coordinates drawn up to which one thread is faster than a launch that wakes several."""


class Samples(NamedTuple):
    """How many of what, as the arithmetic below reads it."""

    rows: int
    d: int
    family: int
    num_samples: int
    centred: int
    """Whether derivatives leave one sample out, or one pair."""
    paired: int
    """Whether samples come in pairs: not those of the launches here."""


class Call(NamedTuple):
    """One call, as kernels take it."""

    theta: np.ndarray
    epsilons: np.ndarray
    """Long enough to load whole blocks of lanes, as are ``ids``."""
    ids: np.ndarray
    """Of rows."""
    key: tuple
    first: np.int64
    """The first sample."""
    beside: np.ndarray
    """The array beside the scores, or any."""


# ------------------------------------------------------------------------------------ arithmetic


@njit(error_model="numpy")
def row_sum(x):
    """The sum of a row in the order in which NumPy adds it."""
    n = x.size
    if n > 128:
        half = n // 2
        half -= half % 8
        return row_sum(x[:half]) + row_sum(x[half:])
    if n < 8:
        total = 0.0
        for i in range(n):
            total += x[i]
        return total
    r = np.empty(8)
    for i in range(8):  # a slice would take two seconds to compile
        r[i] = x[i]
    whole = n - n % 8
    for i in range(8, whole):
        r[i % 8] += x[i]
    total = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]))
    for i in range(whole, n):
        total += x[i]
    return total


@jitable
def is_loo(p):
    """Whether a sample is centred by the others."""
    return p.centred != 0 and p.num_samples > 1 + p.paired


@jitable
def divisor(p):
    """What sums of centred terms are divided by."""
    return p.num_samples - (1 if is_loo(p) and p.paired == 0 else 0)


@jitable
def means(counts, p, mean):
    """``ybar`` of every row."""
    for b in range(p.rows):
        for i in range(p.d):
            mean[b, i] = counts[b, i] / p.num_samples


@jitable
def maxima(p, sums, result):
    """``Fbar`` of every row and its standard error: see ``Sampler._error``."""
    n = p.num_samples
    for b in range(p.rows):
        mean = sums[b, 0, 0] / n
        result[0, b], result[1, b] = mean, np.nan
        if n > 1:
            variance = sums[b, 1, 0] / n - mean**2
            result[1, b] = np.sqrt((0.0 if variance < 0 else variance) / (n - 1))


# ---------------------------------------------------------------------------------------- launches


def launches(few):
    """The launches of an operation, by ``argmax_rows.py`` for a ``few`` samples of many rows."""

    @jitable
    def run(p, c, operation, known, centre, memo, counts, sums):
        """A VJP that is centred and not ``known`` decides first, and finds its own ``centre``."""
        zero, one, no = np.int64(0), np.int64(1), p.rows < 0  # not literals, which are other types
        last = np.int64(operation)
        op = np.int64(VALUE) if last == VJP and is_loo(p) and not known else last
        while True:  # one place that launches, lest the compiler inline the kernel into two
            if few:
                argmax_rows.run(
                    zero, (p.rows + LANES - 1) // LANES, op, no, c.theta, c.epsilons, p.family,
                    c.key, p.num_samples, c.first, c.ids, c.beside, centre, memo, counts, sums,
                )  # fmt: skip
            else:
                argmax.run(
                    zero, p.rows, one, op, no, c.theta, c.epsilons, p.family, c.key,
                    p.num_samples, c.first, c.ids, c.beside, centre, memo, counts, sums,
                )  # fmt: skip
            if op == last:
                break
            means(counts, p, centre)
            op = last

    return run


launch_by_samples, launch_by_rows = launches(False), launches(True)


def _entry(few):
    def run(
        operation, known, theta, epsilon, row_ids, key, family, window, centred, direction, mean,
        memo, result,
    ):  # fmt: skip
        """``mean`` and ``memo`` are what VALUE and MAXIMUM leave and a ``known`` VJP takes;
        ``result`` is (2, rows) of a maximum, (rows, d) of a VJP."""
        rows, d = theta.shape
        p = Samples(rows, d, family, window[0], centred, 0)
        epsilons, ids = np.ones(rows + LANES, theta.dtype), np.zeros(rows + LANES, np.uint64)
        for b in range(rows):
            epsilons[b], ids[b] = epsilon[b, 0], row_ids[b] if row_ids.size > 0 else np.uint64(b)
        key = np.uint64(key[0]), np.uint64(key[1]), np.uint64(key[2])
        c = Call(theta, epsilons, ids, key, window[1], direction)
        is_maximum, is_vjp = operation == MAXIMUM, operation == VJP
        slots, size = (2, 1) if is_maximum else (1, d if is_vjp else 0)
        counts, sums = np.zeros((rows, d), np.int64), np.zeros((rows, slots, size))
        centre = np.zeros((rows, d), theta.dtype)
        if is_vjp and is_loo(p):
            if known:
                for b in range(rows):
                    for i in range(d):
                        centre[b, i] = mean[b, i]
            else:
                memo = np.empty((rows, p.num_samples), np.int32)
        if few:
            launch_by_rows(p, c, operation, known, centre, memo, counts, sums)
        else:
            launch_by_samples(p, c, operation, known, centre, memo, counts, sums)
        if is_maximum:
            maxima(p, sums, result)
        if is_vjp:
            for b in range(rows):
                total, scores = sums[b, 0], theta[b]
                apply_slope_to_row(total, divisor(p), scores, epsilons[b], 1.0, result[b])
        else:
            means(counts, p, mean)

    return kernel(run)


_by_samples, _by_rows = _entry(False), _entry(True)


# -------------------------------------------------------------------------------------- in Python


def serves(problem: Problem, epsilon: np.ndarray, draws: Draws, rows: int, d: int) -> bool:
    """Whether ``forward``, ``maximum`` and ``vjp`` are for these samples."""
    return (
        is_plain(problem, epsilon, draws, VALUE)
        and isinstance(draws.family, int)
        and not problem.minimises
        and coordinates(rows, d, draws.num_samples) <= MAX_COORDINATES
    )


def coordinates(rows: int, d: int, num_samples: int) -> int:
    """How many are drawn, those of idle lanes included."""
    if argmax_rows.fills_lanes(rows, num_samples):
        return -(-rows // LANES) * LANES * num_samples * d
    return rows * -(-num_samples // LANES) * LANES * d


_NO_ROWS = np.empty(0, np.uint64)


def _run(operation, known, theta, epsilon, draws, centred, direction, mean, memo, result) -> None:
    run = _by_rows if argmax_rows.fills_lanes(len(theta), draws.num_samples) else _by_samples
    row_ids = _NO_ROWS if draws.row_ids is None else draws.row_ids
    key, window = (*draws.seed, draws.first_quad), (draws.num_samples, draws.sample_offset)
    run(
        operation, known, compiled_layout(theta), compiled_layout(epsilon), row_ids, key,
        draws.family, window, centred, compiled_layout(direction), mean, memo, result,
    )  # fmt: skip


def forward(theta, epsilon, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """``ybar``, float64, and what every sample decided, (rows, num_samples)."""
    mean, memo = np.empty(theta.shape), np.empty((len(theta), draws.num_samples), np.int32)
    _run(VALUE, False, theta, epsilon, draws, False, theta, mean, memo, mean)
    return mean, memo


def maximum(theta, epsilon, draws: Draws) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``Fbar`` and its standard error, (rows,), and ``ybar``."""
    mean, result = np.empty(theta.shape), np.empty((2, len(theta)))
    _run(MAXIMUM, False, theta, epsilon, draws, False, theta, mean, _no_memo(), result)
    return result[0], result[1], mean


def vjp(theta, epsilon, draws: Draws, centred: bool, v, mean=None, memo=None) -> np.ndarray:
    """``v^T J``, (rows, d) float64; ``mean`` and ``memo`` are those of ``forward``, if at hand."""
    result, known = np.empty(theta.shape), memo is not None
    mean, memo = (mean, memo) if known else (result, _no_memo())
    _run(VJP, known, theta, epsilon, draws, centred, v, mean, memo, result)
    return result


def _no_memo() -> np.ndarray:
    return np.empty((0, 0), np.int32)
