"""Coordinates shared out: what a holder of some of them computes between collectives.

For the argmax and top-k of ``d`` coordinates, ``M`` samples ``y_m = y*(theta + eps z_m)``, a shard
being consecutive coordinates of every row:

    largest                  its largest finite score                        max over shards
    best                     its k best coordinates a sample                 merged: the winners
    mean(winners)            its part of ybar
    projections(v, winners)  sum of v over the winners it holds              sum over: <v, y_m>
    vjp(projections)         its part of v^T J = sum_m <v, y_m - ybar> s_m / ((M - 1) eps)
    finite_scores            their sum, and how many                         sum over: totals
    epsilon_vjp(v^T J)       its part of v^T d ybar / d eps                  sum over
    epsilon_slope_of_maximum(winners)    its part of d Fbar / d eps          sum over

The noise contract names noise by coordinate, so the winners, and hence ``ybar``, are those of one
process bit for bit. What travels grows with rows x samples, never with coordinates.

Arrays are NumPy's, or CuPy's where the shard is on a GPU; ``_torch_shards.py`` and
``_jax_shards.py`` add the collectives.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ._arrays import Scores
from ._device import is_host, namespace
from ._engine import Sampler
from ._oracles import Argmax, TopK
from ._seeds import Place
from .kernels.codes import NO_COORDINATE
from .kernels.noise import GUMBEL

if TYPE_CHECKING:
    from ._perturbed import Perturbed

MOST_COORDINATES = 2**32 - 4
"""Of all shards: a coordinate's number is one word, and the last four words are no coordinate."""
_LOW = 2**32 - 1
_HOST_BLOCK, _DEVICE_BLOCK = 2**16, 2**22
"""Scores that passes over them take at a time, for which a shard need have no room."""


def check_layer(layer: Perturbed) -> None:
    """Raise where a layer's coordinates cannot be shared out."""
    if type(layer.oracle) not in (Argmax, TopK):
        raise ValueError(
            "coordinates are shared out for dpo.Argmax() and dpo.TopK(k), whose winners can be "
            f"merged, got oracle={layer.oracle!r}"
        )
    if not isinstance(layer.num_samples, int) or layer.variance_reduction not in ("loo", "none"):
        raise ValueError(
            "with coordinates shared out samples are independent: use a fixed num_samples and "
            f"variance_reduction='loo' or 'none', got {layer!r}"
        )
    if layer.method != "mc":
        raise ValueError(f"with coordinates shared out method must be 'mc', got {layer.method!r}")
    if layer.perturbation != "additive":
        raise ValueError(
            "with coordinates shared out perturbation must be 'additive', got "
            f"{layer.perturbation!r}"
        )


class Shard(NamedTuple):
    """Consecutive coordinates of a problem, and the noise of them."""

    sampler: Sampler
    k: int
    """How many coordinates of the whole problem a sample chooses."""
    scores: Scores

    @classmethod
    def of(cls, layer: Perturbed, scores: Scores, place: Place, first: int) -> Shard:
        """The coordinates ``first ..`` of a problem, given the scores of those alone."""
        k = layer.oracle.k if isinstance(layer.oracle, TopK) else 1
        if isinstance(layer.oracle, TopK):
            layer = dataclasses.replace(layer, oracle=TopK(min(k, scores.shape[-1])))
        whole = layer._whole(scores, place)
        if whole.epsilon.shape[1] > 1:
            raise ValueError(
                "with coordinates shared out epsilon must be a number, or have an entry a row"
            )
        draws = whole.draws._replace(num_samples=layer.num_samples, coordinate_offset=first)
        return cls(whole._replace(draws=draws), k, scores)

    @property
    def is_race(self) -> bool:
        """Whether decisions compare weights relative to the row's largest finite score."""
        return self.sampler.problem.oracle == "argmax" and self.sampler.draws.family == GUMBEL

    def largest(self) -> np.ndarray:
        """The largest finite score, (rows,); -inf if there is none."""
        return kernels_for(self.sampler.theta).largest_scores(self.sampler.theta)

    def best(self, largest: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The k best coordinates of every sample, (rows, M, k): values and numbers.

        They are in the order of their numbers. ``largest``, of all shards, is needed for a race.
        """
        s = self.sampler
        given = s.problem, s.theta, s.epsilon, s.draws, largest
        values, numbers = kernels_for(s.theta).best(*given, **self._precision)
        values += 0.0  # -0 is equal to 0, and so must be its bits
        missing = self.k - values.shape[2]
        if missing:
            room = (0, 0), (0, 0), (0, missing)
            values = np.pad(values, room, constant_values=-np.inf)
            numbers = np.pad(numbers, room, constant_values=NO_COORDINATE)
        return values, numbers

    def mean(self, winners: np.ndarray) -> np.ndarray:
        """This shard's part of ``ybar``, (rows, d) in the dtype of scores."""
        s = self.sampler
        return kernels_for(s.theta).mean_of(winners, s.draws, s.theta)

    def projections(self, v: np.ndarray, winners: np.ndarray) -> np.ndarray:
        """``<v, y_m>`` over the coordinates of this shard, (rows, M) in the dtype of scores."""
        return kernels_for(v).projections(v, winners, self.sampler.draws)

    def vjp(self, projections: np.ndarray) -> np.ndarray:
        """This shard's part of ``v^T J``, (rows, d), from ``<v, y_m>`` over all shards; float64, or
        on a GPU in the dtype of scores."""
        s = self.sampler
        weights = projections
        if s._loo:  # <v, ybar> is the mean of <v, y_m>; exactly so where all of them are equal
            first = projections[:, :1].astype(np.float64)
            centre = first + (projections - first).mean(1, keepdims=True)
            weights = projections - centre.astype(projections.dtype)
        given = s.theta, s.epsilon, s.draws, weights, s._divisor
        return kernels_for(s.theta).vjp(*given, **self._precision)

    def _blocks(self) -> Iterator[slice]:
        """Some coordinates at a time: a shard may fill the memory."""
        rows, d = self.sampler.theta.shape
        scores = _HOST_BLOCK if is_host(self.sampler.theta) else _DEVICE_BLOCK
        width = max(1, scores // max(1, rows))
        return (slice(first, first + width) for first in range(0, d, width))

    def finite_scores(self) -> np.ndarray:
        """The sum of this shard's finite scores and how many they are, (rows, 2) float64."""
        theta = self.sampler.theta
        result = self._xp.zeros((len(theta), 2))
        for block in self._blocks():
            finite = np.isfinite(theta[:, block])
            scores = np.where(finite, theta[:, block], theta.dtype.type(0))
            result[:, 0] += scores.sum(1, dtype=np.float64)
            result[:, 1] += finite.sum(1)
        return result

    def epsilon_vjp(self, product: np.ndarray, totals: np.ndarray) -> np.ndarray:
        """This shard's part of ``v^T d y_eps / d eps``, (rows,) float64: ``-(1 / eps) J theta``,
        theta less its mean, from this shard's part of ``v^T J`` and the ``finite_scores`` of all.
        """
        theta, sums = self.sampler.theta, self._xp.zeros(len(product))
        centre = totals[:, :1].astype(np.float64) / np.maximum(totals[:, 1:], 1)
        for block in self._blocks():
            scores = theta[:, block] - centre
            scores = np.where(np.isinf(scores), 0.0, scores)
            sums -= (product[:, block] * scores).sum(1)
        return sums / self.sampler.epsilon[:, 0].astype(np.float64)

    def epsilon_slope_of_maximum(self, winners: np.ndarray) -> np.ndarray:
        """This shard's part of ``d Fbar / d eps``, (rows,): the mean noise of what was chosen."""
        s = self.sampler
        own, place = s.draws.own(winners, s.theta.shape[1])
        total = self._xp.zeros(len(s.theta))
        for j in range(winners.shape[2]):
            given = s.theta, s.draws, place[:, :, j]
            noise = kernels_for(s.theta).noise_at(*given, **self._precision)
            noise = np.where(own[:, :, j], noise, noise.dtype.type(0))
            total += noise.sum(1, dtype=np.float64)
        return total / s.num_samples

    def perturbed_scores(self, winners: np.ndarray) -> np.ndarray:
        """``theta_w + eps z_w`` of a race's winners, (rows, M); 0 where another shard has them."""
        s = self.sampler
        own, place = s.draws.own(winners[:, :, 0], s.theta.shape[1])
        given = s.theta, s.epsilon, s.draws, place
        values = kernels_for(s.theta).perturbed_scores(*given, **self._precision)
        return np.where(own, values, values.dtype.type(0))

    def maximum(self, values: np.ndarray) -> np.ndarray:
        """``Fbar``, (rows,) float64, from the perturbed scores of winners, (rows, M) or with k."""
        totals = values.reshape(len(values), -1).sum(1, dtype=np.float64)
        return totals / self.sampler.num_samples

    @property
    def _xp(self):
        """NumPy or CuPy."""
        return namespace(self.sampler.theta)

    @property
    def _precision(self) -> dict[str, str]:
        """What kernels of a GPU are told besides."""
        return {} if is_host(self.sampler.theta) else {"precision": self.sampler.precision}


def kernels_for(array: np.ndarray):
    """The module of kernels for shards where an array is. Importing the CPU's imports Numba, so not
    before the first call."""
    if is_host(array):
        from .kernels.cpu import shard

        return shard
    from .kernels.cuda import shard as shard_on_gpu

    return shard_on_gpu


# ---------------------------------------------------------------------------------------- merging


def packed(values: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """float32 values and the numbers of their coordinates as int64, in the order of values.

    Of equal values that with the lowest number is the largest: a maximum of packed words is the
    decision. No value is NaN or -0.
    """
    bits = values.view(np.int32)
    order = bits ^ (bits >> 31 & 0x7FFFFFFF)
    return (order.astype(np.int64) << 32) | (_LOW - numbers)


def unpacked(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and numbers from ``packed``."""
    order = (words >> 32).astype(np.int32)
    return (order ^ (order >> 31 & 0x7FFFFFFF)).view(np.float32), _LOW - (words & _LOW)
