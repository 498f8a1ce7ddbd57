"""From launches to estimators: every formula between a kernel's sums and a user's number.

With ``M`` samples, ``y_m = y*(theta + eps z_m)``, ``s_m = s(z_m)`` and ``ybar`` their mean:

    value     ybar                                               unbiased for y_eps
    maximum   (1 / M) sum_m <y_m, theta + eps z_m>               unbiased for F_eps
    VJP       (1 / ((M - 1) eps)) sum_m (<v, y_m> - <v, ybar>) s_m
    JVP       (1 / ((M - 1) eps)) sum_m (y_m - ybar) <s_m, t>
    Jacobian  (1 / ((M - 1) eps)) sum_m (y_m - ybar) s_m^T

The centred forms are the leave-one-out estimators ("loo"); the plain ones ("none", and M = 1) drop
``ybar`` and divide by ``M eps``. Both are unbiased (MATH: section 2). Coordinates masked with an
infinite score have derivative zero, exactly.

Arrays here are NumPy, (rows, d), float32 or float64. Numba is imported on first use.
"""

from __future__ import annotations

import functools as ft
from typing import NamedTuple

import numpy as np

from ._seeds import Seed

_WINNERS_BYTES = 2**20


@ft.cache
def _kernels():
    """The CPU kernels; importing them imports Numba, so not before the first call."""
    from .kernels.cpu import launch

    return launch


class Sampler(NamedTuple):
    """One perturbed argmax: hyper-parameters, the scores and the seed."""

    theta: np.ndarray
    epsilon: float
    family: int
    num_samples: int
    centred: bool
    """Leave-one-out, or the plain estimator."""
    seed: Seed

    def _draws(self) -> dict:
        """The arguments that say which samples: the same for every launch."""
        return {
            "epsilon": self.epsilon,
            "family": self.family,
            "seed": self.seed,
            "num_samples": self.num_samples,
        }

    def _launch(self, **operation):
        return _kernels().perturbed_argmax(self.theta, **self._draws(), **operation)

    @property
    def _loo(self) -> bool:
        return self.centred and self.num_samples > 1

    @property
    def _scale(self) -> float:
        """What sums of score-weighted terms are divided by."""
        return (self.num_samples - 1 if self._loo else self.num_samples) * self.epsilon

    def _cast(self, array: np.ndarray) -> np.ndarray:
        return array.astype(self.theta.dtype)

    def _unmasked(self, derivative: np.ndarray) -> np.ndarray:
        """Zero the derivative in the last axis where the score is infinite."""
        masked = np.isinf(self.theta)
        if masked.any():
            derivative = np.where(masked.reshape(self._over(derivative)), 0.0, derivative)
        return derivative

    def _over(self, array: np.ndarray) -> tuple[int, ...]:
        rows, d = self.theta.shape
        return (rows,) + (1,) * (array.ndim - 2) + (d,)

    def _spread(self, total: np.ndarray, squares: np.ndarray) -> np.ndarray:
        """The standard error of a mean, from the sum of its M terms and of their squares."""
        m = self.num_samples
        if m == 1:
            return np.full(total.shape, np.nan)
        variance = np.maximum(squares / m - (total / m) ** 2, 0.0) * (m / (m - 1))
        return np.sqrt(variance / m)

    def decide(self, winners: np.ndarray | None) -> np.ndarray:
        """``value()``; fills ``winners``, (rows, num_samples), with what won each sample."""
        counts = self._launch(decided=winners).counts
        return self._cast(counts / self.num_samples)

    def room_for_winners(self) -> np.ndarray | None:
        """Where ``decide`` may leave the winners for ``vjp``, if that is small: at most 1 MB or
        the size of the scores, so that memory does not grow with the samples."""
        shape = len(self.theta), self.num_samples
        if 4 * shape[0] * shape[1] > max(_WINNERS_BYTES, self.theta.nbytes):
            return None
        return np.empty(shape, np.int32)

    def winners(self) -> np.ndarray:
        """What won each sample, (rows, num_samples)."""
        winners = np.empty((len(self.theta), self.num_samples), np.int32)
        self.decide(winners)
        return winners

    def value(self) -> np.ndarray:
        """``ybar``, (rows, d)."""
        return self.decide(None)

    def value_error(self) -> tuple[np.ndarray, np.ndarray]:
        """``ybar`` and its standard error; the terms are 0 or 1, their own squares."""
        counts = self._launch().counts
        return self._cast(counts / self.num_samples), self._cast(self._spread(counts, counts))

    def maximum(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``Fbar`` and its standard error, (rows,), and ``ybar``, its gradient."""
        sums = self._launch(operation=_kernels().MAXIMUM)
        with np.errstate(invalid="ignore"):  # a row's maximum may be infinite
            error = self._spread(sums.total[:, 0], sums.total_of_squares[:, 0])
        mean = self._cast(sums.total[:, 0] / self.num_samples)
        return mean, self._cast(error), self._cast(sums.counts / self.num_samples)

    def vjp(
        self,
        v: np.ndarray,
        mean: np.ndarray | None = None,
        winners: np.ndarray | None = None,
        errors: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """``v^T J``, and its standard error if asked for.

        ``mean`` and ``winners`` are what ``decide`` returned and left, if at hand.
        """
        if not self._loo:
            mean = np.zeros_like(v)
        elif mean is None:
            winners = self.room_for_winners()
            mean = self.decide(winners)
        sums = self._launch(
            operation=_kernels().VJP, direction=v, mean=mean, decided=winners, squares=errors
        )
        return self._derivative(sums.total, sums.total_of_squares if errors else None)

    def jvp(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``J t`` and its standard error."""
        t = np.where(np.isinf(self.theta), 0, t)
        sums = self._launch(operation=_kernels().JVP, direction=t)
        total, squares = sums.total, sums.total_of_squares
        if self._loo:
            # sum (y - ybar) a and its squares, from y's being 0 or 1.
            mean = sums.counts / self.num_samples
            total = sums.total - mean * sums.total.sum(-1, keepdims=True)
            squares = squares * (1 - 2 * mean) + mean**2 * squares.sum(-1, keepdims=True)
        error = self._spread(total, squares) * (self.num_samples / self._scale)
        return self._cast(total / self._scale), self._cast(error)

    def jacobian(self, errors: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """``J``, (rows, d, d), ``J[b, i, k] = d y_i / d theta_k``, and its standard error."""
        rows, d = self.theta.shape
        sums = self._launch(operation=_kernels().JACOBIAN, squares=errors)
        total = sums.total.reshape(rows, d, d)
        squares = sums.total_of_squares.reshape(rows, d, d) if errors else None
        if self._loo:
            mean = (sums.counts / self.num_samples)[:, :, None]
            total = total - mean * total.sum(1, keepdims=True)
            if squares is not None:
                squares = squares * (1 - 2 * mean) + mean**2 * squares.sum(1, keepdims=True)
        return self._derivative(total, squares)

    def _derivative(self, total, squares) -> tuple[np.ndarray, np.ndarray]:
        result = self._cast(self._unmasked(total / self._scale))
        if squares is None:
            return result, np.broadcast_to(np.float64(np.nan), result.shape)
        error = self._spread(total, squares) * (self.num_samples / self._scale)
        return result, self._cast(self._unmasked(error))
