"""Perturb: noise for one quad (four coordinates), in thirty-two lanes at a time.

Of Philox's counter ``(quad, sample, row, stream)`` the sample varies from lane to lane where lanes
are samples, the row where lanes are rows; the rest is a scalar. Every function returns four
vectors, one a coordinate; ``like`` (any array of the row's dtype) only gives the precision. ``w``
are the words that order the noise, ``v`` those that refine it in float64. Of a row's last quad,
``live`` coordinates exist: where at most two do, the others repeat them and are dropped or masked
by the caller. The branches on ``family``, ``design`` and ``live`` are the same for all lanes and
cost nothing.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from .. import noise32, noise64, noise_table
from ..bits import fma, select, uint32, uint64
from ..codes import ANTITHETIC, INDEPENDENT, MULTIPLICATIVE, RACE, SCALE_SCORE
from ..noise import GUMBEL, NORMAL
from ..philox import STREAM_NOISE, STREAM_REFINE, STREAM_SHIFT, philox4x32
from ._jit import jitable, kernel
from ._piece import PIECE
from .simd import LANES, broadcast, evens_first, lane_indices, load, low_words, store


@jitable
def consecutive(first):
    """The lanes ``first, first + 1, ..., first + 31``: of samples, or of rows."""
    return lane_indices() + uint64(first)


@jitable
def words(stream, quads, samples, rows, key):
    """Words 0 .. 3 of the Philox block at counter (quad, sample, row, stream).

    ``key`` is the two words of the seed, and the number of the first quad that a launch sees.
    """
    quads, samples, rows = uint64(quads) + key[2], uint64(samples), uint64(rows)
    w = philox4x32(
        evens_first(quads), evens_first(samples), evens_first(rows), stream, key[0], key[1]
    )
    return low_words(w[0]), low_words(w[1]), low_words(w[2]), low_words(w[3])


@jitable
def noise_words(quads, samples, rows, key):
    """The words whose order is the order of the noise."""
    return words(STREAM_NOISE, quads, samples, rows, key)


def refine_words(like, w, quads, samples, rows, key):
    """The second words of float64 noise; float32 has no use for any and gets ``w``."""
    raise NotImplementedError("compiled code only")


@overload(refine_words, jit_options=PIECE)
def _(like, w, quads, samples, rows, key):
    if like.dtype == types.float32:
        return lambda like, w, quads, samples, rows, key: w
    return lambda like, w, quads, samples, rows, key: words(
        STREAM_REFINE, quads, samples, rows, key
    )


# --------------------------------------------------------------------------------- sample designs


@jitable
def flip(w, bits):
    """Exclusive-or of four words with four others."""
    return w[0] ^ bits[0], w[1] ^ bits[1], w[2] ^ bits[2], w[3] ^ bits[3]


@jitable
def mirrored(w, samples):
    """Words complemented in the lanes of odd samples."""
    odd = (samples & np.uint64(1)) == np.uint64(1)
    bits = select(odd, np.uint32(0xFFFFFFFF), broadcast(np.uint32(0)))
    return flip(w, (bits, bits, bits, bits))


@jitable
def sobol(directions, i, samples):
    """Coordinate ``i`` of the Sobol' points ``samples``, as a word: an xor of direction numbers."""
    point = uint32(samples)
    word = broadcast(np.uint32(0))
    for j in range(directions.shape[1]):
        is_set = (point & np.uint32(1)) != np.uint32(0)
        word = select(is_set, word ^ directions[i, j], word)
        point = point >> np.uint32(1)
    return word


@jitable
def designed_words(design, directions, quads, samples, rows, key):
    """As ``noise_words``, for samples of any design (see ``codes.py``)."""
    if design == INDEPENDENT:
        return noise_words(quads, samples, rows, key)
    if design == ANTITHETIC:
        return mirrored(noise_words(quads, samples >> np.uint64(1), rows, key), samples)
    i = 4 * quads
    x = (
        sobol(directions, i, samples),
        sobol(directions, i + 1, samples),
        sobol(directions, i + 2, samples),
        sobol(directions, i + 3, samples),
    )
    return flip(x, words(STREAM_SHIFT, quads, np.uint64(0), rows, key))


@jitable
def designed_refinement(design, like, w, quads, samples, rows, key):
    """As ``refine_words``, for samples of any design."""
    if design == ANTITHETIC:
        v = refine_words(like, w, quads, samples >> np.uint64(1), rows, key)
        return mirrored(v, samples)
    return refine_words(like, w, quads, samples, rows, key)


# --------------------------------------------------------------------------------------- formulas


def _define(function, normal, gumbel, logistic, tabulated):
    """Give ``function(family, like, w, v, live)`` its formulas in each precision.

    ``family`` is a code or a table (``noise_table.py``): a type each, so that what is compiled for
    codes does not know of tables.
    """
    n32, g32, l32 = (getattr(noise32, name) for name in (normal, gumbel, logistic))
    n64, g64, l64 = (getattr(noise64, name) for name in (normal, gumbel, logistic))
    t32, t64 = (getattr(noise_table, f"{tabulated}{width}") for width in (32, 64))

    @jitable
    def four(formula, w, live, *table):
        z0, z1 = formula(w[0], *table), formula(w[1], *table)
        if live > 2:
            return z0, z1, formula(w[2], *table), formula(w[3], *table)
        return z0, z1, z0, z1

    @jitable
    def four_pairs(formula, w, v, live, *table):
        z0, z1 = formula(w[0], v[0], *table), formula(w[1], v[1], *table)
        if live > 2:
            return z0, z1, formula(w[2], v[2], *table), formula(w[3], v[3], *table)
        return z0, z1, z0, z1

    def single_precision(family, like, w, v, live):
        if family == NORMAL:
            return four(n32, w, live)
        return four(g32, w, live) if family == GUMBEL else four(l32, w, live)

    def double_precision(family, like, w, v, live):
        if family == NORMAL:
            return four_pairs(n64, w, v, live)
        if family == GUMBEL:
            return four_pairs(g64, w, v, live)
        return four_pairs(l64, w, v, live)

    def single_table(family, like, w, v, live):
        return four(t32, w, live, family)

    def double_table(family, like, w, v, live):
        return four_pairs(t64, w, v, live, family)

    @overload(function, jit_options=PIECE)
    def _(family, like, w, v, live):
        single = like.dtype == types.float32
        if isinstance(family, types.Array):
            return single_table if single else double_table
        return single_precision if single else double_precision


def quantiles(family, like, w, v, live):
    """``z``, the noise."""
    raise NotImplementedError("compiled code only")


def decision_noise(family, like, w, v, live):
    """What an argmax is decided on: ``z``, or for Gumbel noise ``E = exp(-z)``, the race."""
    raise NotImplementedError("compiled code only")


def scores(family, like, w, v, live):
    """``s(z)``, the weights of the derivative estimators."""
    raise NotImplementedError("compiled code only")


_define(quantiles, "normal", "gumbel", "logistic", "quantile")
_define(decision_noise, "normal", "exponential", "logistic", "quantile")
_define(scores, "normal", "gumbel_score", "logistic_score", "score")


def is_family(family, code):
    """Whether the family is the one of that code; a table is none of them."""
    raise NotImplementedError("compiled code only")


@overload(is_family, jit_options=PIECE)
def _(family, code):
    if isinstance(family, types.Array):
        return lambda family, code: False
    return lambda family, code: family == code


@jitable
def scores_beside(family, decided, like, w, v, live):
    """``scores`` where ``decision_noise(...)`` is at hand: no second logarithm."""
    if is_family(family, NORMAL):
        return decided
    if is_family(family, GUMBEL):
        one = like.dtype.type(1.0)
        return one - decided[0], one - decided[1], one - decided[2], one - decided[3]
    return scores(family, like, w, v, live)


def minus_logs(like, e, live):
    """``-log`` of four: Gumbel noise from the race's exponentials."""
    raise NotImplementedError("compiled code only")


@overload(minus_logs, jit_options=PIECE)
def _(like, e, live):
    log = noise32.log if like.dtype == types.float32 else noise64.log

    def of_four(like, e, live):
        z0, z1 = -log(e[0]), -log(e[1])
        if live > 2:
            return z0, z1, -log(e[2]), -log(e[3])
        return z0, z1, z0, z1

    return of_four


@jitable
def _pick(w, place):
    even = select(place == np.int32(0), w[0], w[2])
    odd = select(place == np.int32(1), w[1], w[3])
    return select((place & np.int32(1)) == np.int32(0), even, odd)


@jitable
def quantile_at(family, like, coordinates, samples, rows, key):
    """The noise ``z`` of one coordinate a lane: ``coordinates`` is a vector of int32."""
    quads, place = coordinates >> np.int32(2), coordinates & np.int32(3)
    w = noise_words(quads, samples, rows, key)
    v = _pick(refine_words(like, w, quads, samples, rows, key), place)
    w = _pick(w, place)
    return quantiles(family, like, (w, w, w, w), (v, v, v, v), 2)[0]


@jitable
def is_race(family):
    """Whether decisions minimise ``E exp(-theta / eps)``, not maximise ``theta + eps z``."""
    return is_family(family, GUMBEL)


@jitable
def perturb_tile(theta, epsilon, at, family, samples, row, key, p):
    """``p[at + i] = theta_i + eps z_i``, all coordinates of a tile."""
    for i in range(0, theta.size, 4):
        q = i // 4
        w = noise_words(q, samples, row, key)
        z = quantiles(family, p, w, refine_words(p, w, q, samples, row, key), theta.size - i)
        for r in range(4):
            if i + r < theta.size:
                store(p, (at + i + r) * LANES, fma(z[r], epsilon, theta[i + r]))


# ------------------------------------------------------------------------- a block of thirty-two


def coordinate(a, i):
    """Entry ``i``: one for all lanes of a row's array, or a lane each of a (size, 32) array."""
    raise NotImplementedError("compiled code only")


@overload(coordinate, jit_options=PIECE)
def _(a, i):
    if a.ndim == 1:
        return lambda a, i: a[i]
    return lambda a, i: load(a, i * LANES)


def lanes_of(theta, samples, rows, at):
    """Samples and rows of lanes ``at ..``: consecutive samples of one row, or anything."""
    raise NotImplementedError("compiled code only")


@overload(lanes_of, jit_options=PIECE)
def _(theta, samples, rows, at):
    if theta.ndim == 1:
        return lambda theta, samples, rows, at: (consecutive(samples[0] + uint64(at)), rows[0])
    return lambda theta, samples, rows, at: (load(samples, at), load(rows, at))


def growth(like, x):
    """exp(x) for x of either sign, in the precision of ``like``."""
    raise NotImplementedError("compiled code only")


@overload(growth, jit_options=PIECE)
def _(like, x):
    exp = noise32.exp if like.dtype == types.float32 else noise64.exp

    def of_either_sign(like, x):
        zero, one = like.dtype.type(0.0), like.dtype.type(1.0)
        e = exp(select(x < zero, -x, x))
        return select(x < zero, one / e, e)

    return of_either_sign


@jitable
def perturbed(kind, theta, x, scale, z):
    """What the solver sees of a coordinate with score ``x`` and noise ``z`` (see ``codes.py``)."""
    if kind == RACE:
        return z * x
    if kind == MULTIPLICATIVE:
        half = theta.dtype.type(0.5)
        return x * growth(theta, fma(scale, z, -half * scale * scale))
    return fma(z, scale, x)


@kernel
def fill(draw, key, directions, samples, rows, theta, scale, d, count, p, s, z):
    """Perturbed scores ``p`` of ``count`` problems, and their scores ``s`` and noise ``z``.

    ``theta`` and ``scale`` hold whole quads: of one row, whose samples follow ``samples[0]``, or of
    a row a lane, (size, 32). ``p``, ``s`` and ``z`` are (size, count rounded up), and are skipped
    where they have no room.
    """
    family, kind, design, weighting = draw
    one = theta.dtype.type(1.0)
    for at in range(0, count, LANES):
        sample, row = lanes_of(theta, samples, rows, at)
        for q in range((d + 3) // 4):
            w = designed_words(design, directions, q, sample, row, key)
            v = designed_refinement(design, p, w, q, sample, row, key)
            decided = decision_noise(family, p, w, v, d - 4 * q)
            noise = decided
            needs_noise = p.size + z.size > 0 or weighting == SCALE_SCORE
            if is_family(family, GUMBEL) and kind != RACE and needs_noise:
                noise = minus_logs(p, decided, d - 4 * q)
            if s.size > 0:
                score = scores_beside(family, decided, p, w, v, d - 4 * q)
            for r in range(4):
                i = 4 * q + r
                x, e = coordinate(theta, i), coordinate(scale, i)
                if p.size > 0:
                    store(p, i * p.shape[1] + at, perturbed(kind, theta, x, e, noise[r]))
                if s.size > 0:
                    c = score[r]
                    if weighting == SCALE_SCORE:
                        c = fma(c, noise[r], -one)
                        if kind == MULTIPLICATIVE:
                            c = c - e * score[r]
                    store(s, i * s.shape[1] + at, c)
                if z.size > 0:
                    store(z, i * z.shape[1] + at, noise[r])
