"""Perturb: noise for one quad (four coordinates), in thirty-two lanes at a time.

Of Philox's counter ``(quad, sample, row, stream)`` the sample varies from lane to lane where lanes
are samples, the row where lanes are rows; the rest is a scalar. Every function returns four
vectors, one a coordinate; ``like`` (any array of the row's dtype) only gives the precision. Of a
row's last quad, ``live`` coordinates exist: where at most two do, the others repeat them and are
dropped or masked by the caller. The branches on ``family`` and ``live`` are the same for all lanes
and cost nothing.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from .. import noise32, noise64
from ..bits import select, uint32, uint64
from ..noise import GUMBEL, NORMAL
from ..philox import STREAM_NOISE, STREAM_REFINE, philox4x32
from ._jit import jitable
from .simd import lane_indices


@jitable
def consecutive(first):
    """The lanes ``first, first + 1, ..., first + 31``: of samples, or of rows."""
    return lane_indices() + uint64(first)


@jitable
def words(stream, quads, samples, rows, key):
    """Words 0 .. 3 of the Philox block at counter (quad, sample, row, stream)."""
    w = philox4x32(uint64(quads), uint64(samples), uint64(rows), stream, key[0], key[1])
    return uint32(w[0]), uint32(w[1]), uint32(w[2]), uint32(w[3])


@jitable
def noise_words(quads, samples, rows, key):
    """The words whose order is the order of the noise (float64 refines them, see ``_pairs``)."""
    return words(STREAM_NOISE, quads, samples, rows, key)


@jitable
def _pairs(function, w, live, quads, samples, rows, key):
    v = words(STREAM_REFINE, quads, samples, rows, key)
    z0, z1 = function(w[0], v[0]), function(w[1], v[1])
    if live > 2:
        return z0, z1, function(w[2], v[2]), function(w[3], v[3])
    return z0, z1, z0, z1


@jitable
def _singles(function, w, live):
    z0, z1 = function(w[0]), function(w[1])
    if live > 2:
        return z0, z1, function(w[2]), function(w[3])
    return z0, z1, z0, z1


def _define(function, normal, gumbel, logistic):
    """Give ``function(family, like, w, ...)`` its three formulas in each precision."""
    n32, g32, l32 = (getattr(noise32, name) for name in (normal, gumbel, logistic))
    n64, g64, l64 = (getattr(noise64, name) for name in (normal, gumbel, logistic))

    def single_precision(family, like, w, live, quads, samples, rows, key):
        if family == NORMAL:
            return _singles(n32, w, live)
        if family == GUMBEL:
            return _singles(g32, w, live)
        return _singles(l32, w, live)

    def double_precision(family, like, w, live, quads, samples, rows, key):
        if family == NORMAL:
            return _pairs(n64, w, live, quads, samples, rows, key)
        if family == GUMBEL:
            return _pairs(g64, w, live, quads, samples, rows, key)
        return _pairs(l64, w, live, quads, samples, rows, key)

    @overload(function, jit_options={"forceinline": True})
    def _(family, like, w, live, quads, samples, rows, key):
        return single_precision if like.dtype == types.float32 else double_precision


def decision_noise(family, like, w, live, quads, samples, rows, key):
    """What a decision is made on: ``z``, or for Gumbel noise the exponential ``E = exp(-z)``."""
    raise NotImplementedError("compiled code only")


def scores(family, like, w, live, quads, samples, rows, key):
    """``s(z)``, the weights of the derivative estimators."""
    raise NotImplementedError("compiled code only")


_define(decision_noise, "normal", "exponential", "logistic")
_define(scores, "normal", "gumbel_score", "logistic_score")


@jitable
def scores_beside(family, decided, like, w, live, quads, samples, rows, key):
    """``scores`` where ``decided = decision_noise(...)`` is at hand: no second logarithm."""
    if family == NORMAL:
        return decided
    if family == GUMBEL:
        one = like.dtype.type(1.0)
        return one - decided[0], one - decided[1], one - decided[2], one - decided[3]
    return scores(family, like, w, live, quads, samples, rows, key)


@jitable
def _pick(w, place):
    even = select(place == np.int32(0), w[0], w[2])
    odd = select(place == np.int32(1), w[1], w[3])
    return select((place & np.int32(1)) == np.int32(0), even, odd)


def quantile_at(family, like, coordinates, samples, rows, key):
    """The noise ``z`` of one coordinate a lane: ``coordinates`` is a vector of int32."""
    raise NotImplementedError("compiled code only")


@overload(quantile_at, jit_options={"forceinline": True})
def _(family, like, coordinates, samples, rows, key):
    def single_precision(family, like, coordinates, samples, rows, key):
        quads, place = coordinates >> np.int32(2), coordinates & np.int32(3)
        w = _pick(noise_words(quads, samples, rows, key), place)
        if family == NORMAL:
            return noise32.normal(w)
        return noise32.gumbel(w) if family == GUMBEL else noise32.logistic(w)

    def double_precision(family, like, coordinates, samples, rows, key):
        quads, place = coordinates >> np.int32(2), coordinates & np.int32(3)
        w = _pick(noise_words(quads, samples, rows, key), place)
        v = _pick(words(STREAM_REFINE, quads, samples, rows, key), place)
        if family == NORMAL:
            return noise64.normal(w, v)
        return noise64.gumbel(w, v) if family == GUMBEL else noise64.logistic(w, v)

    return single_precision if like.dtype == types.float32 else double_precision


@jitable
def is_race(family):
    """Whether decisions minimise ``E exp(-theta / eps)``, not maximise ``theta + eps z``."""
    return family == GUMBEL
