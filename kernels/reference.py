"""Every kernel again in plain NumPy, unfused and readable: the definition the tests compare with.

Decisions and integer counts of every backend equal these bit for bit; float sums follow the same
fixed trees (see ``kernels/cpu/argmax.py`` and ``fused.py``, Determinism), so they are equal too.
Everything here materialises samples x rows x coordinates.
"""

from __future__ import annotations

import functools as ft

import numpy as np

from . import noise_table, user
from .bits import fma
from .codes import (
    ADDITIVE,
    FEW,
    JACOBIAN,
    JVP,
    MAXIMUM,
    MOMENTS,
    MULTIPLICATIVE,
    RACE,
    SCALE_SCORE,
    SCORE,
    SOBOL,
    VALUE,
    VJP,
    Draws,
    Problem,
)
from .noise import FAMILIES, GUMBEL, NORMAL
from .philox import STREAM_NOISE, STREAM_REFINE, STREAM_SHIFT, words
from .reference_solvers import argmax, formulas, grid_path, race_weights, ranks, topk
from .reference_sums import mates, ordered_dot, ordered_sum, squares, tree_of_products, tree_sum

# ------------------------------------------------------------------------------------------- noise


def noise_words(stream, samples, row_ids, d, seed, first_quad=0):
    """The uniform words of the noise contract, (samples, rows, d) uint32."""
    quad = first_quad + np.arange((d + 3) // 4)[None, None, :]
    blocks = words(quad, samples[:, None, None], row_ids[None, :, None], stream, seed)
    return blocks.reshape(len(samples), len(row_ids), -1)[:, :, :d]


def sobol_words(directions, samples, d):
    """Sobol' points as words, (samples, 1, d): the xor of a point's direction numbers."""
    points = np.zeros((len(samples), 1, d), np.uint32)
    for j in range(directions.shape[1]):
        digit = (samples >> j & 1).astype(bool)
        points[digit, 0] ^= directions[:d, j]
    return points


def designed_words(draws, row_ids, d):
    """The words of every sample, high and low, for any design (``codes.py``)."""
    samples = draws.sample_offset + np.arange(draws.num_samples)
    place = row_ids, d, draws.seed, draws.first_quad
    low = noise_words(STREAM_REFINE, samples, *place)
    if draws.is_paired:
        mirrored = np.where(samples % 2 == 1, 0xFFFFFFFF, 0).astype(np.uint32)[:, None, None]
        high = noise_words(STREAM_NOISE, samples // 2, *place)
        low = noise_words(STREAM_REFINE, samples // 2, *place)
        return high ^ mirrored, low ^ mirrored
    if draws.design == SOBOL:
        shift = noise_words(STREAM_SHIFT, np.zeros(1, np.int64), *place)
        return sobol_words(draws.directions, samples, d) ^ shift, low
    return noise_words(STREAM_NOISE, samples, *place), low


class Noise:
    """The noise of one call: ``z``, its scores, and the exponentials of the race."""

    def __init__(self, draws: Draws, rows: int, d: int, dtype):
        self.family = draws.family
        self._formulas = formulas(dtype)
        row_ids = np.arange(rows) if draws.row_ids is None else np.asarray(draws.row_ids)
        high, low = designed_words(draws, row_ids, d)
        self._words = (high,) if dtype == np.float32 else (high, low)

        self._dtype = np.dtype(dtype)

    def _apply(self, name):
        return getattr(self._formulas, name)(*self._words)

    def _look_up(self, name):
        table = self.family.table(self._dtype)
        return getattr(noise_table, f"{name}{8 * self._dtype.itemsize}")(*self._words, table)

    @ft.cached_property
    def z(self):
        if not isinstance(self.family, int):
            return self._look_up("quantile")
        return self._apply(self._name)

    @ft.cached_property
    def scores(self):
        if not isinstance(self.family, int):
            return self._look_up("score")
        return self.z if self.family == NORMAL else self._apply(self._name + "_score")

    @ft.cached_property
    def exponentials(self):
        return self._apply("exponential")

    @property
    def _name(self):
        return FAMILIES[self.family].name


# --------------------------------------------------------------------------------------- the pass


class Pass:
    """Perturb and solve: what every sample of a launch sees and decides.

    ``p``, ``scores``, ``z`` and ``solutions`` are (num_samples, rows, d).
    """

    def __init__(self, problem: Problem, theta, epsilon, draws: Draws, weighting: int = SCORE):
        self.problem, self.theta, self.draws = problem, theta, draws
        self.epsilon = np.asarray(epsilon, theta.dtype)
        self.noise = Noise(draws, *theta.shape, theta.dtype)
        self.weighting = weighting

    def kind(self, operation: int = VALUE) -> int:
        if self.draws.multiplicative:
            return MULTIPLICATIVE
        race = self.problem.oracle == "argmax" and self.draws.family == GUMBEL
        needs_z = operation in (MAXIMUM, MOMENTS) or self.weighting != SCORE
        return RACE if race and self.epsilon.shape[1] == 1 and not needs_z else ADDITIVE

    @property
    def z(self):
        return self.noise.z

    def p(self, operation: int = VALUE, largest=None):
        """What the solver sees (``codes.py``); ``largest`` as in ``race_weights``."""
        theta, epsilon = self.theta, self.epsilon
        if self.kind(operation) == RACE:
            return self.noise.exponentials * -race_weights(theta, epsilon, largest)
        if self.kind(operation) == MULTIPLICATIVE:
            half = theta.dtype.type(0.5)
            x = fma(epsilon, self.z, -half * epsilon * epsilon)
            e = formulas(theta.dtype).exp(np.abs(x))
            return theta * np.where(x < 0, 1 / e, e)
        return fma(self.z, -epsilon if self.problem.minimises else epsilon, theta)

    @ft.cached_property
    def scores(self):
        s = self.noise.scores
        if self.weighting == SCALE_SCORE:
            s = fma(s, self.z, -np.ones_like(s))
            if self.draws.multiplicative:
                s = s - self.epsilon * self.noise.scores
        return s

    def solutions(self, operation: int = VALUE):
        p = self.p(operation)
        if self.problem.oracle == "argmax":
            return argmax(p)
        if self.problem.oracle == "ranks":
            return ranks(p)
        if self.problem.oracle == "topk":
            return topk(p, *self.problem.options)
        if self.problem.solver is not None:
            return user.solutions(p, self.problem.solver, self.problem.places)
        return grid_path(p, self.problem.options, self.problem.places)

    # -------------------------------------------------------------------------------- accumulate

    @property
    def _paired(self):
        return self.draws.is_paired

    @property
    def _pull(self):
        m = self.draws.num_samples
        return self.theta.dtype.type(1 / (m - 2) if self._paired and m > 2 else 0)

    def _of_pair(self, x):
        return x + mates(x) if self._paired else x

    def _pulled(self, x):
        return fma(self._pull, x + mates(x), x)

    def counts(self, operation: int = VALUE):
        """``sum y`` and ``sum y^2`` (of pairs' sums), (rows, 2, d) int64."""
        y = self.solutions(operation)
        return np.stack([y.sum(0), (self._of_pair(y) ** 2).sum(0)], axis=1)

    def sums(self, operation: int, v=None, mean=None):
        """The float sums of a launch with squares, (rows, slots, size)."""
        y, s = self.solutions(operation), self.scores
        rows = range(self.theta.shape[0])
        few = self.draws.num_samples <= FEW and operation in (MAXIMUM, VJP)
        tree = ordered_sum if few else tree_sum
        if operation == MAXIMUM:
            return np.stack([self._maximum(y[:, b], b, tree) for b in rows])
        if operation == VJP:
            return np.stack([self._vjp(y[:, b], s[:, b], v[b], mean[b], tree) for b in rows])
        if operation == JVP:
            return np.stack([self._jvp(y[:, b], s[:, b], v[b]) for b in rows])
        if operation == JACOBIAN:
            return np.stack([self._jacobian(y[:, b], s[:, b]) for b in rows])
        return np.stack([self._moments(y[:, b], b) for b in rows])

    def _maximum(self, y, b, tree):
        p, value = self.p(MAXIMUM)[:, b], np.zeros(len(y))
        for i in range(y.shape[1]):
            chosen = y[:, i].astype(np.float64)
            with np.errstate(invalid="ignore"):
                value = np.where(chosen != 0, fma(chosen, p[:, i].astype(np.float64), value), value)
        return np.stack([tree(value[:, None]), squares(self._of_pair(value)[:, None], tree)])

    def _weights(self, y, v, mean):
        a = np.zeros(len(y), v.dtype)
        for i in range(y.shape[1]):
            a = fma(v[i], y[:, i].astype(v.dtype) - mean[i], a)
        return self._pulled(a)

    def _vjp(self, y, s, v, mean, tree):
        a = self._weights(y, v, mean)[:, None]
        if tree is ordered_sum:
            return np.stack([tree(a * s), squares(self._of_pair(a * s), tree)])
        return np.stack([tree_of_products(a, s), squares(self._of_pair(a * s), tree)])

    def _rows(self, y, b):
        """``add_row`` of ``kernels/cpu/sums.py``: y (M, ...), b (M, 1 or d), broadcast."""
        y = y.astype(b.dtype)
        x, pair = self._of_pair(y * self._pulled(b)), self._of_pair(b)
        return np.stack(
            [tree_of_products(y, self._pulled(b)), tree_of_products(x, pair), squares(x, tree_sum)]
        )

    def _jvp(self, y, s, t):
        b = np.zeros(len(y), t.dtype)
        for i in range(y.shape[1]):
            b = fma(t[i], s[:, i], b)
        return np.concatenate([self._rows(y, b[:, None]), self._ones(b[:, None])], axis=1)

    def _ones(self, b):
        pair = self._of_pair(b)
        return np.stack([tree_sum(b), squares(pair, tree_sum), squares(pair, tree_sum)])

    def _jacobian(self, y, s):
        blocks = [self._rows(y[:, i : i + 1], s) for i in range(y.shape[1])]
        return np.concatenate([*blocks, self._ones(s)], axis=1)

    def _moments(self, y, b):
        x = y.astype(self.theta.dtype)
        if self.draws.multiplicative:
            with np.errstate(invalid="ignore"):
                x = np.where(x != 0, x * self.p(MOMENTS)[:, b], x)
        return np.stack([tree_sum(x), tree_of_products(x, self.z[:, b])])


# ---------------------------------------------------------------------------- the plain argmax


def argmax_winners(theta, epsilon, draws: Draws):
    """The winner of every sample, (num_samples, rows)."""
    return Pass(Problem(), theta, epsilon, draws).solutions().argmax(-1)


def argmax_maximum(theta, epsilon, draws: Draws):
    """``sum_m max_i theta_i + eps z_i`` and the sum of squares, (rows, 2) float64."""
    noise = Noise(draws, *theta.shape, theta.dtype)
    winners = argmax_winners(theta, epsilon, draws)[:, :, None]
    perturbed = fma(np.asarray(epsilon, theta.dtype), noise.z, theta)
    values = np.take_along_axis(perturbed, winners, -1)[:, :, 0].astype(np.float64)
    return np.stack([ordered_sum(values), ordered_sum(values * values)], axis=1)


def argmax_vjp(theta, epsilon, draws: Draws, v, mean):
    """``sum_m (v[winner] - <v, mean>) s_m`` and of its squared terms, (rows, 2, d) float64."""
    scores = Noise(draws, *theta.shape, theta.dtype).scores
    winners = argmax_winners(theta, epsilon, draws)
    rows = []
    for b in range(theta.shape[0]):
        centre = theta.dtype.type(ordered_dot(v[b], mean[b]))
        weights = (v[b][winners[:, b]] - centre)[:, None]
        terms = weights * scores[:, b]
        rows.append([tree_of_products(weights, scores[:, b]), tree_of_products(terms, terms)])
    return np.array(rows)


# -------------------------------------------------------------------------- a shard of coordinates


def shard_best(problem: Problem, theta, epsilon, draws: Draws, k, largest=None):
    """The ``k`` best of a shard, values and indices in the order of indices, (rows, M, k).

    Of equal values the lowest index is better. ``largest`` (rows,) is that of all shards.
    """
    p = Pass(problem, theta, epsilon, draws).p(VALUE, None if largest is None else largest[:, None])
    index = np.sort(np.argsort(-p, axis=-1, kind="stable")[..., :k], axis=-1)
    values = np.take_along_axis(p, index, -1)
    return values.swapaxes(0, 1), index.swapaxes(0, 1) + draws.coordinate_offset


def shard_scores(theta, draws: Draws, weights):
    """``sum_m weights_m s_m`` of a shard's coordinates, (rows, d) float64."""
    scores = Noise(draws, *theta.shape, theta.dtype).scores
    rows = range(len(theta))
    return np.stack([tree_of_products(weights[b][:, None], scores[:, b]) for b in rows])
