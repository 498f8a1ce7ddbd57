"""Every kernel again in plain NumPy, unfused and readable: the definition the tests compare with.

Decisions and integer counts of every backend equal these bit for bit; float sums follow the same
fixed tree (see ``kernels/cpu/argmax.py``, Determinism), so they are equal too. Everything here
materialises samples x rows x coordinates.
"""

from __future__ import annotations

import functools as ft

import numpy as np

from . import noise32, noise64
from .bits import fma
from .noise import FAMILIES, GUMBEL, NORMAL
from .philox import STREAM_NOISE, STREAM_REFINE, words

CHUNK = 256
LANES = 32
STRANDS = 16


def noise_words(stream, num_samples, rows, d, seed, sample_offset=0, row_offset=0):
    """The uniform words of the noise contract, (num_samples, rows, d) uint32."""
    sample = sample_offset + np.arange(num_samples)[:, None, None]
    row = row_offset + np.arange(rows)[None, :, None]
    quad = np.arange((d + 3) // 4)[None, None, :]
    blocks = words(quad, sample, row, stream, seed)
    return blocks.reshape(num_samples, rows, -1)[:, :, :d]


def formulas(dtype):
    """The module of noise formulas in that precision."""
    return noise32 if dtype == np.float32 else noise64


class Noise:
    """The noise of one call: ``z``, its scores, and the exponentials of the race."""

    def __init__(self, family, dtype, num_samples, rows, d, seed, sample_offset=0, row_offset=0):
        shape = num_samples, rows, d, seed, sample_offset, row_offset
        self.family = family
        self._formulas = formulas(dtype)
        self._words = [noise_words(STREAM_NOISE, *shape)]
        if dtype == np.float64:
            self._words.append(noise_words(STREAM_REFINE, *shape))

    def _apply(self, name):
        return getattr(self._formulas, name)(*self._words)

    @ft.cached_property
    def z(self):
        return self._apply(FAMILIES[self.family].name)

    @ft.cached_property
    def scores(self):
        return self.z if self.family == NORMAL else self._apply(self._name + "_score")

    @ft.cached_property
    def exponentials(self):
        return self._apply("exponential")

    @property
    def _name(self):
        return FAMILIES[self.family].name


def race_weights(theta, epsilon):
    """``exp((max theta - theta) / eps)`` a row; 0 for +inf ("always"), +inf for -inf ("never")."""
    finite = np.where(np.isfinite(theta), theta, -np.inf)
    largest = finite.max(-1, keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"):
        gap = np.where(np.isfinite(theta), (largest - theta) / theta.dtype.type(epsilon), 0)
    weights = formulas(theta.dtype).exp(gap.astype(theta.dtype))
    weights = np.where(theta == -np.inf, np.inf, np.where(theta == np.inf, 0, weights))
    return weights.astype(theta.dtype)


def argmax_winners(theta, epsilon, family, seed, num_samples, sample_offset=0, row_offset=0):
    """The winner of every sample, (num_samples, rows); the lowest index wins a tie."""
    noise_ = Noise(family, theta.dtype, num_samples, *theta.shape, seed, sample_offset, row_offset)
    if family == GUMBEL:
        return np.argmin(noise_.exponentials * race_weights(theta, epsilon), axis=-1)
    return np.argmax(fma(theta.dtype.type(epsilon), noise_.z, theta), axis=-1)


def argmax_counts(theta, epsilon, family, seed, num_samples, **offsets):
    """``sum_m y_m``, (rows, d) int64."""
    winners = argmax_winners(theta, epsilon, family, seed, num_samples, **offsets)
    return np.stack([np.bincount(w, minlength=theta.shape[1]) for w in winners.T])


def tree_sum(weights, scores):
    """``sum_m weights_m scores_m`` over the fixed tree; (M,) or (M, d), and (M, d), give (d,)."""
    weights = np.broadcast_to(weights if weights.ndim == 2 else weights[:, None], scores.shape)
    total = np.zeros(scores.shape[1])
    for strand in range(STRANDS):
        partial = np.zeros_like(total)
        for m in range(strand * CHUNK, len(weights), STRANDS * CHUNK):
            w, s = weights[m : m + CHUNK], scores[m : m + CHUNK]
            lanes = np.zeros((LANES, scores.shape[1]), scores.dtype)
            for k in range(0, len(w), LANES):
                n = len(w[k : k + LANES])
                lanes[:n] = fma(w[k : k + LANES], s[k : k + LANES], lanes[:n])
            while len(lanes) > 1:
                lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
            partial += lanes[0].astype(np.float64)
        total += partial
    return total


def ordered_sum(terms):
    """``sum_m terms_m`` in float64, sample by sample within a strand; (M, k) gives (k,)."""
    total = np.zeros(terms.shape[1])
    for strand in range(STRANDS):
        partial = np.zeros_like(total)
        for m in range(strand * CHUNK, len(terms), STRANDS * CHUNK):
            for term in terms[m : m + CHUNK].astype(np.float64):
                partial += term
        total += partial
    return total


def argmax_maximum(theta, epsilon, family, seed, num_samples):
    """``sum_m max_i theta_i + eps z_i`` and the sum of squares, each (rows,) float64."""
    noise_ = Noise(family, theta.dtype, num_samples, *theta.shape, seed)
    winners = argmax_winners(theta, epsilon, family, seed, num_samples)[:, :, None]
    perturbed = fma(theta.dtype.type(epsilon), noise_.z, theta)
    values = np.take_along_axis(perturbed, winners, -1)[:, :, 0].astype(np.float64)
    return ordered_sum(values), ordered_sum(values * values)


def argmax_vjp(theta, epsilon, family, seed, num_samples, v, mean):
    """``sum_m (<v, y_m> - <v, mean>) s_m`` and of its squared terms, each (rows, d) float64."""
    noise_ = Noise(family, theta.dtype, num_samples, *theta.shape, seed)
    winners = argmax_winners(theta, epsilon, family, seed, num_samples)
    rows = []
    for b in range(theta.shape[0]):
        centre = theta.dtype.type(ordered_dot(v[b], mean[b]))
        weights, scores = v[b][winners[:, b]] - centre, noise_.scores[:, b]
        terms = weights[:, None] * scores
        rows.append((tree_sum(weights, scores), tree_sum(terms, terms)))
    return tuple(np.stack(sums) for sums in zip(*rows, strict=True))


def ordered_dot(a, b):
    """``<a, b>`` in float64, coordinate by coordinate."""
    total = np.float64(0.0)
    for x, y in zip(a.astype(np.float64), b.astype(np.float64), strict=True):
        total += x * y
    return total


def argmax_jvp(theta, epsilon, family, seed, num_samples, t):
    """``sum_m y_m <s_m, t>``, (rows, d) float64."""
    noise_ = Noise(family, theta.dtype, num_samples, *theta.shape, seed)
    winners = argmax_winners(theta, epsilon, family, seed, num_samples)
    products = np.zeros((num_samples, theta.shape[0]), theta.dtype)
    for i in range(theta.shape[1]):
        products = fma(t[:, i], noise_.scores[:, :, i], products)
    onehot = np.eye(theta.shape[1])[winners]
    return np.stack(
        [ordered_sum(onehot[:, b] * products[:, b, None]) for b in range(theta.shape[0])]
    )


def argmax_jacobian(theta, epsilon, family, seed, num_samples):
    """``sum_m y_m s_m^T``, (rows, d, d) float64."""
    rows, d = theta.shape
    noise_ = Noise(family, theta.dtype, num_samples, *theta.shape, seed)
    onehot = np.eye(d)[argmax_winners(theta, epsilon, family, seed, num_samples)]
    outer = onehot[:, :, :, None] * noise_.scores.astype(np.float64)[:, :, None, :]
    return np.stack(
        [ordered_sum(outer[:, b].reshape(-1, d * d)).reshape(d, d) for b in range(rows)]
    )
