"""Samplers made of samplers: randomised quasi-Monte-Carlo, and as many samples as a row needs.

Both offer what ``Sampler`` offers; the layer does not know which one it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._device import as_host, namespace, take
from ._engine import Kept, MeanAndError, Sampler
from .kernels.codes import ANTITHETIC, INDEPENDENT, SOBOL

MAX_RANDOMISATIONS = 16


def randomisations(num_samples: int) -> int:
    """Into how many independent point sets ``num_samples`` are split: 16 or 8, or all of them.

    Raises ``ValueError`` where they cannot be: standard errors need several of equal size.
    """
    if num_samples <= MAX_RANDOMISATIONS:
        return num_samples
    for r in (16, 8):
        if num_samples % r == 0:
            return r
    raise ValueError(
        "num_samples must be a multiple of 8 (or at most 16) for quasi-Monte-Carlo, which is split "
        f"into independent randomisations; got {num_samples}, try {-(-num_samples // 16) * 16}"
    )


@dataclass(frozen=True)
class Replicated:
    """Independent randomisations of one point set, averaged; their spread is the standard error.

    ``inner`` holds every row ``count`` times in a row. Derivatives centre each randomisation by the
    mean of the others, which it is independent of, so they are unbiased.
    """

    inner: Sampler
    count: int

    @classmethod
    def of(cls, sampler: Sampler, count: int) -> Replicated:
        """``count`` randomisations of ``num_samples / count`` samples for every row."""
        rows = len(sampler.theta)
        inner = sampler.of_rows(np.repeat(np.arange(rows), count))
        row_ids = inner.draws.row_ids * count + np.tile(np.arange(count), rows)
        draws = inner.draws._replace(
            num_samples=sampler.num_samples // count, row_ids=row_ids.astype(np.uint64)
        )
        return cls(inner._replace(draws=draws), count)

    @property
    def num_samples(self) -> int:
        return self.inner.num_samples * self.count

    def _split(self, values: np.ndarray) -> np.ndarray:
        return values.reshape(-1, self.count, *values.shape[1:])

    def _combine(self, values: np.ndarray) -> MeanAndError:
        values = self._split(values)
        if self.count == 1:
            return values[:, 0], namespace(values).full(values[:, 0].shape, np.nan)
        with np.errstate(invalid="ignore"):
            error = values.std(1, ddof=1) / np.sqrt(self.count)
        return values.mean(1), error

    def _centred(self, means: np.ndarray) -> Sampler:
        """The inner sampler, each randomisation centred by the mean of the others."""
        if not self.inner.centred or self.count == 1:
            return self.inner._replace(centred=False)
        split = self._split(means)
        others = (split.sum(1, keepdims=True) - split) / (self.count - 1)
        return self.inner._replace(centre=others.reshape(means.shape))

    def forward(self, for_gradient: bool = False) -> Kept:
        kept = self.inner.forward(for_gradient)
        return Kept(self._combine(kept.mean)[0], parts=(kept,))

    def value(self) -> MeanAndError:
        return self._combine(self.inner.forward().mean)

    def maximum(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        value, _, mean = self.inner.maximum()
        return *self._combine(value), self._combine(mean)[0]

    def _kept(self, kept: Kept | None) -> Kept:
        """What the inner sampler's forward pass kept, if it is at hand; else from a new one."""
        return kept.parts[0] if kept is not None and kept.parts else self.inner.forward(True)

    def vjp(self, v, kept: Kept | None = None, errors: bool = False) -> MeanAndError:
        inner = self._kept(kept)
        v = np.repeat(v, self.count, axis=0)
        return self._combine(self._centred(inner.mean).vjp(v, inner)[0])

    def jvp(self, t, errors: bool = False) -> MeanAndError:
        sampler = self._centred(self.inner.forward().mean)
        return self._combine(sampler.jvp(np.repeat(t, self.count, axis=0))[0])

    def jacobian(self, errors: bool = False) -> MeanAndError:
        return self._combine(self._centred(self.inner.forward().mean).jacobian()[0])

    def solutions(self) -> np.ndarray:
        solutions = self.inner.solutions()
        return solutions.reshape(-1, self.num_samples, solutions.shape[-1])

    def slope_of_maximum(self, mean: np.ndarray) -> np.ndarray:
        means = np.repeat(mean, self.count, axis=0)
        return self._combine(self.inner.slope_of_maximum(means))[0]

    def epsilon_slope_of_maximum(self, maximum, mean) -> np.ndarray:
        repeated = (np.repeat(a, self.count, axis=0) for a in (maximum, mean))
        return self._combine(self.inner.epsilon_slope_of_maximum(*repeated))[0]

    def epsilon_vjp(self, v, product, kept: Kept | None) -> np.ndarray:
        inner = self._kept(kept)
        v = np.repeat(v, self.count, axis=0)
        return self._combine(self._centred(inner.mean).epsilon_vjp(v, None, inner))[0]

    def epsilon_jvp(self, t: np.ndarray) -> np.ndarray:
        sampler = self._centred(self.inner.forward().mean)
        return self._combine(sampler.epsilon_jvp(np.repeat(t, self.count, axis=0)))[0]


AnySampler = Sampler | Replicated


def designed(whole: Sampler, num_samples: int) -> AnySampler:
    """``num_samples`` samples of every row, of the design that ``whole.draws`` names."""
    draws = whole.draws
    if draws.num_samples != num_samples:
        draws = draws._replace(num_samples=num_samples)
    if draws.is_paired and num_samples == 1:
        draws = draws._replace(design=INDEPENDENT)  # the same sample, without a pair
    if draws.design != SOBOL:
        return whole if draws is whole.draws else whole._replace(draws=draws)
    from .kernels import sobol  # SciPy, only where it is needed

    count = randomisations(num_samples)
    points, d = num_samples // count, whole.theta.shape[1]
    if points > sobol.MAX_POINTS or d > sobol.MAX_COORDINATES:
        raise ValueError(
            f"variance_reduction='qmc' is for at most {sobol.MAX_POINTS * count} samples and "
            f"{sobol.MAX_COORDINATES} coordinates, got {num_samples} and {d}; use 'loo'"
        )
    directions = sobol.directions(d, max(1, (points - 1).bit_length()))
    return Replicated.of(whole._replace(draws=draws._replace(directions=directions)), count)


@dataclass(frozen=True)
class Grouped:
    """Rows with numbers of samples of their own: one sampler for each number.

    Results are NumPy's: which rows go on is decided there, wherever the samples were drawn.
    """

    parts: Sequence[tuple[np.ndarray, AnySampler]]
    rows: int

    @property
    def num_samples(self) -> np.ndarray:
        result = np.zeros(self.rows, np.int64)
        for index, sampler in self.parts:
            result[index] = sampler.num_samples
        return result

    def _each(self, call: Callable) -> Any:
        """``call(sampler, index, position)`` of every group, rows back in their places."""
        gathered: list[np.ndarray] = []
        for k, (index, sampler) in enumerate(self.parts):
            results = call(sampler, index, k)
            if not gathered:
                gathered = [np.empty((self.rows, *r.shape[1:]), r.dtype) for r in results]
            for whole, part in zip(gathered, results, strict=True):
                whole[index] = as_host(part)
        return tuple(gathered)

    def _kept(self, kept: Kept | None, k: int, index: np.ndarray) -> Kept | None:
        if kept is None:
            return None
        return kept.parts[k] if kept.parts else Kept(take(kept.mean, index))

    def forward(self, for_gradient: bool = False) -> Kept:
        parts = tuple(sampler.forward(for_gradient) for _, sampler in self.parts)
        (mean,) = self._each(lambda sampler, index, k: (parts[k].mean,))
        return Kept(mean, parts=parts)

    def value(self) -> MeanAndError:
        return self._each(lambda sampler, index, k: sampler.value())

    def maximum(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self._each(lambda sampler, index, k: sampler.maximum())

    def solutions(self) -> np.ndarray:
        raise ValueError("samples needs a fixed num_samples, not dpo.Adaptive")

    def vjp(self, v, kept: Kept | None = None, errors: bool = False) -> MeanAndError:
        return self._each(
            lambda sampler, i, k: sampler.vjp(take(v, i), self._kept(kept, k, i), errors)
        )

    def jvp(self, t, errors: bool = False) -> MeanAndError:
        return self._each(lambda sampler, index, k: sampler.jvp(take(t, index), errors))

    def jacobian(self, errors: bool = False) -> MeanAndError:
        return self._each(lambda sampler, index, k: sampler.jacobian(errors))

    def slope_of_maximum(self, mean: np.ndarray) -> np.ndarray:
        return self._each(lambda sampler, i, k: (sampler.slope_of_maximum(take(mean, i)),))[0]

    def epsilon_slope_of_maximum(self, maximum, mean) -> np.ndarray:
        return self._each(
            lambda sampler, i, k: (
                sampler.epsilon_slope_of_maximum(take(maximum, i), take(mean, i)),
            )
        )[0]

    def epsilon_vjp(self, v, product, kept: Kept | None) -> np.ndarray:
        return self._each(
            lambda sampler, i, k: (
                sampler.epsilon_vjp(
                    take(v, i),
                    None if product is None else take(product, i),
                    self._kept(kept, k, i),
                ),
            )
        )[0]

    def epsilon_jvp(self, t: np.ndarray) -> np.ndarray:
        return self._each(lambda sampler, i, k: (sampler.epsilon_jvp(take(t, i)),))[0]


def most_samples(max_samples: int, design: int) -> int:
    """The largest number up to ``max_samples`` that a design can have: pairs, randomisations."""
    multiple = {ANTITHETIC: 2, SOBOL: MAX_RANDOMISATIONS}.get(design, 1)
    return max_samples // multiple * multiple or 1


FIRST_SAMPLES = 256
_MARGIN = 1.1
"""A tenth more samples than the last spread asks for, since it is itself an estimate."""


def adapt(
    make: Callable[[np.ndarray, int], AnySampler],
    rows: int,
    tolerance: float,
    max_samples: int,
    estimate: Callable[[AnySampler, np.ndarray], MeanAndError],
    floor: np.ndarray,
) -> tuple[Grouped, MeanAndError]:
    """Draw for every row until the standard errors of ``estimate`` are at most ``tolerance``.

    A row that is not done starts again with the power of two of samples that its spread asks for,
    so that at most about twice the samples it ends with are drawn. ``floor / M`` is the least
    error believed of ``M`` samples: an event never seen has no spread. Returns the samplers, by
    number of samples, and the estimates they ended with.
    """
    parts: list[tuple[np.ndarray, AnySampler]] = []
    results: list[MeanAndError] = []
    wanted = np.full(rows, min(FIRST_SAMPLES, max_samples))
    pending = np.arange(rows)
    while len(pending):
        m = int(wanted[pending].min())
        index = pending[wanted[pending] == m]
        sampler = make(index, m)
        mean, error = map(as_host, estimate(sampler, index))
        worst = np.maximum(error.reshape(len(index), -1).max(1), floor[index] / m)
        # A comparison that NaN fails: rows without a spread (M = 1, an infinite maximum) are done.
        more = (worst > tolerance) & (m < max_samples)
        if (~more).any():
            kept = ~more
            parts.append((index[kept], make(index[kept], m)))
            results.append((mean[kept], error[kept]))
        needed = m * _MARGIN * (worst[more] / tolerance) ** 2
        rounded = 2 ** np.ceil(np.log2(np.maximum(needed, 2 * m)))
        wanted[index[more]] = np.minimum(rounded, max_samples)
        pending = np.setdiff1d(pending, index[~more], assume_unique=True)
    grouped = Grouped(parts, rows)
    if not parts:
        return grouped, estimate(make(np.arange(0), max_samples), np.arange(0))
    return grouped, grouped._each(lambda sampler, i, k: results[k])


_SCORE = 3.0
"""A score that a sample may well have, of any noise."""


def least_contribution(sampler: Sampler, of: str, direction: np.ndarray | None) -> np.ndarray:
    """What one more sample might add to ``M`` times the estimate of ``of``, (rows,).

    An outcome not among ``M`` samples leaves no trace in their spread. It may have probability
    ``1 / M`` all the same, and would add one solution that differs, times a score for derivatives.
    """
    rows = len(sampler.theta)
    if of in ("value", "max"):
        return np.full(rows, 1.0 if of == "value" else 0.0)
    score = _SCORE / sampler.epsilon.astype(np.float64).min(1)
    if of == "vjp":
        assert direction is not None
        path = sampler.problem.minimises  # paths differ in whole cells, the others by exchanges
        return score * (np.abs(direction).sum(1) if path else np.ptp(direction, axis=1))
    return score * (np.abs(direction).max(1) if direction is not None else 1.0)
