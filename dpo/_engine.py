"""From launches to estimators: every formula between a kernel's sums and a user's number.

With ``M`` samples, ``y_m = y*(theta + eps z_m)``, ``s_m = s(z_m)`` and ``ybar`` their mean:

    value     ybar                                               unbiased for y_eps
    maximum   (1 / M) sum_m <y_m, theta + eps z_m>               unbiased for F_eps
    VJP       (1 / ((M - 1) eps)) sum_m (<v, y_m> - <v, ybar>) s_m
    JVP       (1 / ((M - 1) eps)) sum_m (y_m - ybar) <s_m, t>
    Jacobian  (1 / ((M - 1) eps)) sum_m (y_m - ybar) s_m^T

The centred forms are the leave-one-out estimators ("loo"); the plain ones ("none", and M = 1) drop
``ybar`` and divide by ``M eps``. Antithetic samples leave out a sample's pair and divide by
``M eps``. All are unbiased (MATH: section 2). A minimisation has ``theta = -costs``; here scores
are the user's costs and the sign is in ``_slope``. Coordinates masked with an infinite score have
derivative zero, exactly.

Arrays here are NumPy's, or CuPy's where the scores are on a GPU, (rows, d); results are float64.
"""

from __future__ import annotations

import functools as ft
from typing import NamedTuple

import numpy as np

from ._device import divided, is_host, kernels, namespace
from .kernels.codes import (
    FEW,
    JACOBIAN,
    JVP,
    MAXIMUM,
    MOMENTS,
    SCALE_SCORE,
    SCORE,
    VALUE,
    VJP,
    Draws,
    Problem,
)

_NAN = np.float64(np.nan).tobytes()
_MEMO_BYTES = 2**20
_OUTER_BYTES = 2**24
_SMALL = 16
"""Coordinates up to which a VJP is ``v^T`` times the whole Jacobian: one pass, not two. (Not with
few samples: the kernels then fill their lanes with rows. Nor on a GPU, where noise costs little
beside a launch.)"""


@ft.cache
def _small_calls():
    """Importing them imports Numba, so not before the first call."""
    from .kernels.cpu import small

    return small


MeanAndError = tuple[np.ndarray, np.ndarray]


def _outer_bytes(rows: int, d: int) -> int:
    return 8 * rows * d * (d + 1)


def _is_small(memo_bytes: int, theta_bytes: int) -> bool:
    """Whether what samples decided is kept for the gradient."""
    return memo_bytes <= max(_MEMO_BYTES, theta_bytes)


def keeps_samples(
    problem: Problem, epsilon: np.ndarray, draws: Draws, rows: int, d: int, dtype: np.dtype
) -> bool:
    """Whether samples are so few that a value on the CPU keeps their solutions and scores, with
    which a VJP is a sum."""
    if draws.num_samples > FEW or kernels(epsilon).is_plain(problem, epsilon, draws, VJP):
        return False
    return rows * draws.num_samples * d * (4 + dtype.itemsize) <= _MEMO_BYTES


def leaves_one_out(draws: Draws, centred: bool) -> bool:
    """Whether a sample's derivative is centred by the mean of the others."""
    return centred and draws.num_samples > 1 + draws.is_paired


def mean_words(draws: Draws, centred: bool, d: int) -> int:
    """Words a row of the mean, where derivatives are centred by it."""
    return 2 * d if leaves_one_out(draws, centred) else 0


def _sample_words(draws: Draws, centred: bool, d: int, dtype: np.dtype) -> int:
    """Words a row of the mean, solutions and scores of samples that are kept."""
    own = draws.num_samples * d * (1 + dtype.itemsize // 4)
    return mean_words(draws, centred, d) + own


def are_samples(words: int, draws: Draws, centred: bool, d: int, dtype: np.dtype) -> bool:
    """Whether so many words a row, of ``kept_words``, are samples and not what they decided in
    short. (Of how many rows they are does not say: ``vmap`` may have added to them.)"""
    return draws.num_samples <= FEW and words == _sample_words(draws, centred, d, dtype)


def kept_words(
    problem: Problem,
    epsilon: np.ndarray,
    draws: Draws,
    centred: bool,
    rows: int,
    d: int,
    dtype: np.dtype,
) -> int:
    """How many words a row what a value found out takes in a program: the mean, and what samples
    decided unless that is large. 0 where to find out again is cheaper, or derivatives need neither.

    ``rows`` and ``d`` may be symbols of a program; of ``epsilon`` the second axis counts.
    """
    if rows == 0:
        return 0
    launch, small = kernels(epsilon), _small_calls()
    if small.serves(problem, epsilon, draws, rows, d):
        return 0
    mean = mean_words(draws, centred, d)
    if keeps_samples(problem, epsilon, draws, rows, d, dtype):
        return _sample_words(draws, centred, d, dtype)
    if d <= _SMALL and draws.num_samples > FEW:
        return mean + 2 * d * (d + 1) if _outer_bytes(rows, d) <= _OUTER_BYTES else 0
    words = launch.memo_words(problem, epsilon, draws, d, dtype)
    keeps = words > 0 and _is_small(4 * rows * words, rows * d * dtype.itemsize)
    return mean + words if keeps else mean


def centred_scores(theta: np.ndarray) -> np.ndarray:
    """Finite scores less their row's mean, in float64; 0 for infinite ones.

    Where all solutions have one sum a constant in the scores changes none, so ``J 1 = 0``. The
    estimate of that is not 0: ``J theta`` would have noise in proportion to the constant.
    """
    finite = np.isfinite(theta)
    scores = np.where(finite, theta, 0).astype(np.float64)
    centre = scores.sum(1, keepdims=True) / np.maximum(finite.sum(1, keepdims=True), 1)
    return np.where(finite, scores - centre, 0.0)


class Kept(NamedTuple):
    """What a forward pass keeps for its derivatives; none of it grows with the samples beyond
    1 MB or the size of the scores."""

    mean: np.ndarray
    """``ybar``; from a program zeros, where nothing is centred by it."""
    memo: np.ndarray | None = None
    """What every sample decided, where that is small."""
    outer: np.ndarray | None = None
    """``sum y s^T`` and ``sum s``, (rows, (d + 1) d), where ``d`` is small."""
    samples: tuple[np.ndarray, np.ndarray] | None = None
    """Solutions and scores of few samples, (rows, num_samples, d)."""
    parts: tuple[Kept, ...] = ()
    """What the samplers that this one is made of kept (``_designs.py``)."""


class Sampler(NamedTuple):
    """One perturbed optimizer: the solver, the scores, their temperature, the samples."""

    problem: Problem
    theta: np.ndarray
    epsilon: np.ndarray
    """(rows, 1), or (rows, d) for a temperature a coordinate."""
    draws: Draws
    centred: bool = True
    """Leave-one-out, or the plain estimator."""
    centre: np.ndarray | None = None
    """A mean of other, independent samples to centre by, instead of leaving one out."""
    precision: str = "portable"

    # ------------------------------------------------------------------------------ small parts

    @property
    def num_samples(self) -> int:
        return self.draws.num_samples

    @property
    def _loo(self) -> bool:
        return self.centre is None and leaves_one_out(self.draws, self.centred)

    @property
    def _divisor(self) -> int:
        """What sums of centred terms are divided by."""
        return self.num_samples - (self._loo and not self.draws.is_paired)

    @property
    def _by_jacobian(self) -> bool:
        small = self.theta.shape[1] <= _SMALL and self.num_samples > FEW
        return small and is_host(self.theta)

    @property
    def _keeps_samples(self) -> bool:
        if not is_host(self.theta):
            return False
        rows, d = self.theta.shape
        return keeps_samples(self.problem, self.epsilon, self.draws, rows, d, self.theta.dtype)

    @property
    def sign(self) -> float:
        """-1 where scores are costs."""
        return -1.0 if self.problem.minimises else 1.0

    def _launch(self, operation: int, **parameters):
        if not is_host(self.theta):
            parameters["precision"] = self.precision
        given = self.problem, self.theta, self.epsilon, self.draws, operation
        try:
            return kernels(self.theta).launch(*given, **parameters)
        except ValueError as error:
            raise self._placed(error) from None

    def _placed(self, error: ValueError) -> ValueError:
        """What is wrong with an instance (no path, say), with the first that it is wrong with."""
        first, end = 0, len(self.theta)
        if end < 2 or not self._fails(0, end):
            return error
        while end - first > 1:
            middle = (first + end) // 2
            first, end = (first, middle) if self._fails(first, middle) else (middle, end)
        return ValueError(f"{error}; first in row {first} (all leading axes flattened)")

    def _fails(self, first: int, end: int) -> bool:
        """Whether some of these rows have no solution."""
        rows = self.of_rows(slice(first, end))
        try:
            kernels(rows.theta).launch(*rows[:4], VALUE)
        except ValueError:
            return True
        return False

    def _mean(self, sums) -> np.ndarray:
        """``ybar`` of a launch."""
        return divided(sums.counts[:, 0], self.num_samples)

    def _small(self):
        """What serves a problem so small that launching it would cost more, or None."""
        if not is_host(self.theta):
            return None
        small = _small_calls()
        served = small.serves(self.problem, self.epsilon, self.draws, *self.theta.shape)
        return small if served else None

    def of_rows(self, rows) -> Sampler:
        """The same samples for some of the rows: an index array or a slice."""
        row_ids = self.draws.row_ids
        row_ids = np.arange(len(self.theta)) if row_ids is None else row_ids
        places = self.problem.places
        here = rows if isinstance(rows, slice) else namespace(self.theta).asarray(rows)
        return self._replace(
            problem=self.problem._replace(places=None if places is None else places[rows]),
            theta=self.theta[here],
            epsilon=self.epsilon[here],
            draws=self.draws._replace(row_ids=row_ids[rows]),
            centre=None if self.centre is None else self.centre[here],
        )

    def on_copies(self):
        """The same problem on copies of the scores and temperatures, which the user may change."""
        return self._replace(theta=self.theta.copy(), epsilon=self.epsilon.copy())

    def _slope(self, weighting: int = SCORE) -> tuple[np.ndarray, np.ndarray]:
        """``d location / d parameter`` over the temperature, as (rows, 1) times (rows, d).

        ``1 / eps`` for additive noise, ``1 / (eps theta)`` for multiplicative, negative for costs,
        and 0 where a coordinate is masked or, if multiplicative, never perturbed.
        """
        epsilon = self.epsilon.astype(np.float64)
        base = 1 / epsilon.min(1, keepdims=True)
        relative = 1 / (epsilon * base) if epsilon.shape[1] > 1 else np.ones_like(epsilon)
        relative = np.where(np.isinf(self.theta), 0.0, relative)
        if weighting == SCALE_SCORE:
            return base, relative
        if self.draws.multiplicative:
            theta = self.theta.astype(np.float64)
            safe = np.where(theta == 0, 1, theta)
            return base, np.where(theta == 0, 0, relative / safe)
        return base * self.sign, relative

    def _error(self, total: np.ndarray, squares: np.ndarray) -> np.ndarray:
        """The standard error of ``total / M``, from sums of terms and of their squares.

        With pairs the terms are the pairs' means; their sums are squared in ``squares`` twice.
        """
        n = self.num_samples // 2 if self.draws.is_paired else self.num_samples
        if n < 2:
            return namespace(total).full(total.shape, np.nan)
        second = squares / 8 if self.draws.is_paired else squares
        with np.errstate(invalid="ignore"):  # a row's maximum may be infinite
            variance = np.maximum(second / n - (total / self.num_samples) ** 2, 0.0)
        return np.sqrt(variance / (n - 1))

    # --------------------------------------------------------------------------------- estimates

    def forward(self, for_gradient: bool = False) -> Kept:
        """``ybar``, and what its derivatives can use of the same pass where that is small."""
        if for_gradient and self._by_jacobian:
            keeps, memo = _outer_bytes(*self.theta.shape) <= _OUTER_BYTES, None
        elif small := self._small():
            return Kept(*small.forward(self.theta, self.epsilon, self.draws))
        elif for_gradient and self._keeps_samples:
            return self._keeping_samples()
        else:
            memo = self._new_memo() if for_gradient else None
            keeps = memo is not None and _is_small(memo.nbytes, self.theta.nbytes)
        return self._keeping(memo) if keeps else Kept(self._mean(self._launch(VALUE)))

    def _keeping(self, memo: np.ndarray | None) -> Kept:
        """As ``forward``, with what derivatives can use however large."""
        if self._by_jacobian:
            sums = self._launch(JACOBIAN)
            return Kept(self._mean(sums), outer=sums.totals[:, 0])
        return Kept(self._mean(self._launch(VALUE, memo=memo)), memo)

    def _keeping_samples(self) -> Kept:
        samples = self._new_samples()
        sums = self._launch(VALUE, solutions=samples[0], scores=samples[1])
        return Kept(self._mean(sums), samples=samples)

    def _new_samples(self) -> tuple[np.ndarray, np.ndarray]:
        rows, d = self.theta.shape
        shape = rows, self.num_samples, d
        return np.empty(shape, np.int32), np.empty(shape, self.theta.dtype)

    def _new_memo(self) -> np.ndarray | None:
        """Room for what samples decide; None where a Jacobian's sums say all there is to know."""
        if self._by_jacobian:
            return None
        return kernels(self.theta).new_memo(self.problem, self.theta, self.epsilon, self.draws)

    def kept_words(self) -> int:
        """How many words a row ``packed_forward`` returns; 0 where keeping them does not pay."""
        rows, d = self.theta.shape
        if not is_host(self.theta):
            return 0
        given = self.problem, self.epsilon, self.draws, self.centred
        return kept_words(*given, rows, d, self.theta.dtype)

    def packed_forward(self, kept_words: int) -> tuple[np.ndarray, np.ndarray]:
        """``ybar``, and what derivatives need of ``Kept``, as words that a program can hold: (rows,
        words) uint32, as many as ``kept_words`` has said."""
        if self._are_samples(kept_words):
            kept = self._keeping_samples()
        else:
            kept = self._keeping(None if self._are_mean(kept_words) else self._new_memo())
        mean = kept.mean if self._loo else None
        arrays = mean, kept.memo, kept.outer, *(kept.samples or ())
        parts = (x for x in arrays if x is not None)
        rows = len(self.theta)
        columns = [np.ascontiguousarray(x).reshape(rows, -1).view(np.uint32) for x in parts]
        return kept.mean, np.concatenate(columns, axis=1)

    def _are_samples(self, words: int) -> bool:
        return are_samples(words, self.draws, self.centred, self.theta.shape[1], self.theta.dtype)

    def _are_mean(self, words: int) -> bool:
        return words == mean_words(self.draws, self.centred, self.theta.shape[1])

    def unpacked(self, words: np.ndarray) -> Kept:
        """What ``packed_forward`` packed, on the same samples."""
        rows, d = self.theta.shape
        words, mean, first = words.reshape(rows, -1), np.zeros((rows, d)), 0
        if self._loo:
            mean, first = words[:, : 2 * d].copy().view(np.float64), 2 * d
        if self._are_mean(words.shape[1]):
            return Kept(mean)
        if self._are_samples(words.shape[1]):
            solutions, scores = self._new_samples()
            middle = first + self.num_samples * d
            solutions.reshape(rows, -1)[...] = words[:, first:middle].view(np.int32)
            scores.reshape(rows, -1).view(np.uint32)[...] = words[:, middle:]
            return Kept(mean, samples=(solutions, scores))
        rest = words[:, first:].copy()  # a program's array cannot be written to
        if self._by_jacobian:
            return Kept(mean, outer=rest.view(np.float64))
        memo = self._new_memo()
        assert memo is not None
        return Kept(mean, rest.view(np.int32).reshape(memo.shape))

    def value(self) -> MeanAndError:
        """``ybar`` and its standard error."""
        counts = self._launch(VALUE, squares=True).counts
        total, squares = counts[:, 0], counts[:, -1]
        return total / self.num_samples, self._error(total, squares)

    def maximum(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``Fbar`` and its standard error, (rows,), and ``ybar``."""
        if small := self._small():
            return small.maximum(self.theta, self.epsilon, self.draws)
        sums = self._launch(MAXIMUM)
        total, squares = sums.totals[:, 0, 0], sums.totals[:, 1, 0]
        value = self.sign * total / self.num_samples
        return value, self._error(total, squares), self._mean(sums)

    def vjp(
        self, v: np.ndarray, kept: Kept | None = None, errors: bool = False, weighting: int = SCORE
    ) -> MeanAndError:
        """``v^T J``, (rows, d), and its standard error if asked for (else NaN).

        ``weighting=SCALE_SCORE`` gives ``v^T d y_eps / d eps_i``, every coordinate having its own.
        """
        by_jacobian = self._by_jacobian
        plain = not by_jacobian and not errors and weighting == SCORE and self.centre is None
        if plain and (small := self._small()):
            mean, memo = (None, None) if kept is None else kept[:2]
            product = small.vjp(self.theta, self.epsilon, self.draws, self.centred, v, mean, memo)
            return product, self._no_error(product.shape)
        if not by_jacobian or errors:
            kept = kept or self._before_vjp()
            sums = self._sums_of_vjp(v, kept, errors, weighting)
        error = self._no_error(self.theta.shape)
        if errors:
            base, relative = self._slope(weighting)
            error = self._error(sums[:, 0], sums[:, 1]) * (self.num_samples / self._divisor)
            error = error * np.abs(base * relative)
        if by_jacobian:
            sums = self._contract(v, kept if weighting == SCORE else None, weighting)[:, None]
        return self._with_slope(sums, weighting), error

    def _sums_of_vjp(self, v: np.ndarray, kept: Kept, errors: bool, weighting: int) -> np.ndarray:
        """``sum <v, y - centre> s``, (rows, slots, d)."""
        centre = self._rounded_centre(kept.mean)
        if kept.samples and not errors and weighting == SCORE:
            return kernels(self.theta).vjp_of_kept(self.draws, *kept.samples, v, centre)
        decided = {"solutions": kept.samples[0]} if kept.samples else {"memo": kept.memo}
        directed = {"direction": v, "mean": centre, "squares": errors, "weighting": weighting}
        return self._launch(VJP, **directed, **decided).totals

    def _with_slope(self, sums, weighting: int):
        """A VJP from its sums, (rows, slots, d): what ``_slope`` says, in one kernel."""
        multiplicative = self.draws.multiplicative and weighting == SCORE
        sign = self.sign if weighting == SCORE and not multiplicative else 1.0
        apply = kernels(self.theta).apply_slope
        return apply(sums, self._divisor, self.theta, self.epsilon, sign, multiplicative)

    @staticmethod
    def _no_error(shape: tuple[int, ...]) -> np.ndarray:
        """What stands for an error that was not asked for: one NaN, whatever the shape."""
        return np.ndarray(shape, np.float64, _NAN, strides=(0,) * len(shape))

    def _before_vjp(self) -> Kept:
        if self._loo:
            return self.forward(for_gradient=True)
        return Kept(np.zeros_like(self.theta))

    def _centre(self, mean: np.ndarray) -> np.ndarray:
        """What solutions are centred by."""
        if self.centre is not None:
            return self.centre
        return mean if self._loo else np.zeros_like(mean)

    def _rounded_centre(self, mean: np.ndarray) -> np.ndarray:
        """As a launch takes it; on a GPU the kernel that reads it rounds."""
        if is_host(mean) and self.centre is None and not self._loo:
            return np.zeros(mean.shape, self.theta.dtype)
        centre = self._centre(mean)
        return centre.astype(self.theta.dtype) if is_host(centre) else centre

    def _contract(self, v: np.ndarray, kept: Kept | None, weighting: int) -> np.ndarray:
        """``v^T sum (y - centre) s^T``; where no sums were kept, a block of rows at a time."""
        if kept is not None and kept.outer is not None:
            return self._contract_sums(v, kept.mean, kept.outer)
        rows, d = v.shape
        step = max(1, rows * _OUTER_BYTES // max(1, _outer_bytes(rows, d)))
        result = np.empty((rows, d))
        for first in range(0, rows, step):
            block = slice(first, first + step)
            one = self if step >= rows else self.of_rows(block)
            sums = one._launch(JACOBIAN, weighting=weighting)
            result[block] = one._contract_sums(v[block], self._mean(sums), sums.totals)
        return result

    def _contract_sums(self, v: np.ndarray, mean: np.ndarray, outer: np.ndarray) -> np.ndarray:
        rows, d = v.shape
        outer = outer.reshape(rows, d + 1, d)
        return kernels(self.theta).contract(v, self._weight_of_ones(mean), outer)

    def _centred(self, outer: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """``sum (y - centre) s^T``, (rows, d, d), from ``sum y s^T`` over ``sum s``."""
        return outer[:, :-1] - self._weight_of_ones(mean)[:, :, None] * outer[:, -1:]

    def _weight_of_ones(self, mean: np.ndarray) -> np.ndarray:
        """What multiplies the sums of y = 1: the centre, of all but the own pair if paired."""
        weight = self._centre(mean)
        return weight * self.num_samples / (self.num_samples - 2) if self._pulls else weight

    @property
    def _pulls(self) -> bool:
        return self.draws.is_paired and self._loo

    def jvp(self, t: np.ndarray, errors: bool = False, weighting: int = SCORE) -> MeanAndError:
        """``J t`` and its standard error.

        ``weighting=SCALE_SCORE`` gives ``sum_i t_i d y_eps / d eps_i``.
        """
        base, relative = self._slope(weighting)
        direction = (t * relative).astype(self.theta.dtype)
        sums = self._launch(JVP, direction=direction, squares=errors, weighting=weighting)
        weight = self._weight_of_ones(self._mean(sums))
        total = sums.totals[:, 0, :-1] - weight * sums.totals[:, 0, -1:]
        scale = base / self._divisor
        if not errors:
            return total * scale, self._no_error(total.shape)
        squares = self._centred_squares(sums.totals, weight)
        return total * scale, self._error(total, squares) * self.num_samples * np.abs(scale)

    def jacobian(self, errors: bool = False) -> MeanAndError:
        """``J``, (rows, d, d), ``J[b, i, k] = d y_i / d theta_k``, and its standard error."""
        d = self.theta.shape[1]
        base, relative = self._slope()
        sums = self._launch(JACOBIAN, squares=errors)
        outer = sums.totals.reshape(*sums.totals.shape[:2], sums.totals.shape[2] // d, d)
        mean = self._mean(sums)
        total = self._centred(outer[:, 0], mean)
        scale = (base * relative)[:, None] / self._divisor
        if not errors:
            return total * scale, self._no_error(total.shape)
        squares = self._centred_squares(outer, self._weight_of_ones(mean)[:, :, None])
        return total * scale, self._error(total, squares) * self.num_samples * np.abs(scale)

    def _centred_squares(self, sums: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """``sum (X - weight B)^2`` from the sums of X B and of X^2 (B's are X's of y = 1, last).

        What cancels to within the rounding of those sums is zero: a coordinate that never varies.
        """
        cross, squares, ones = sums[:, 1, :-1], sums[:, 2, :-1], weight**2 * sums[:, 2, -1:]
        result = squares - 2 * weight * cross + ones
        rounding = 64 * np.finfo(self.theta.dtype).eps
        return np.where(result > rounding * (squares + ones), result, 0.0)

    def solutions(self) -> np.ndarray:
        """Every solution, (rows, num_samples, d) int32."""
        rows, d = self.theta.shape
        solutions = namespace(self.theta).empty((rows, self.num_samples, d), np.int32)
        self._launch(VALUE, solutions=solutions)
        return solutions

    # ------------------------------------------------------------- derivatives of Fbar and in eps

    def slope_of_maximum(self, mean: np.ndarray) -> np.ndarray:
        """``d Fbar / d theta``: ``ybar`` for additive noise, ``(1 / M) sum y w`` otherwise."""
        if not self.draws.multiplicative:
            return self.sign * mean
        weighted = self._launch(MOMENTS).totals[:, 0] / self.num_samples
        # A score of 0, or an infinite one, is what samples see of it: E[y w] is then E[y] E[w].
        fixed = (self.theta == 0) | np.isinf(self.theta)
        safe = np.where(fixed, 1, self.theta)
        return self.sign * np.where(fixed, mean, np.where(fixed, 0, weighted) / safe)

    def epsilon_slope_of_maximum(self, maximum: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """``d Fbar / d eps`` on the same samples, in the shape of ``epsilon``."""
        epsilon = self.epsilon.astype(np.float64)
        known = not self.draws.multiplicative and epsilon.shape[1] == 1
        if known and (not is_host(maximum) or np.isfinite(maximum).all()):
            scores = np.where(mean == 0, 0, self.theta)  # a masked score was never chosen
            return (maximum - self.sign * (mean * scores).sum(-1))[:, None] / epsilon
        totals = self._launch(MOMENTS).totals / self.num_samples
        slope = totals[:, 1]
        if self.draws.multiplicative:
            slope = self.sign * (slope - epsilon * totals[:, 0])
        return slope if epsilon.shape[1] > 1 else slope.sum(1, keepdims=True)

    def epsilon_vjp(self, v: np.ndarray, product: np.ndarray | None, kept: Kept | None):
        """``v^T d y_eps / d eps``, shaped like ``epsilon``; ``product`` is ``vjp``'s, if at hand.

        Where all solutions have one sum it is ``-(1 / eps) J theta``, theta less its row's mean. In
        general scores ``s z - 1`` take the place of s: their noise does not grow with theta, where
        a constant in it would make that of ``J theta`` many times as large.
        """
        if self._by_product:
            product = self.vjp(v, kept)[0] if product is None else product
            terms = product * centred_scores(self.theta)
            return -terms.sum(1, keepdims=True) / self.epsilon.astype(np.float64)
        slope = self.vjp(v, kept, weighting=SCALE_SCORE)[0]
        return slope if self.epsilon.shape[1] > 1 else slope.sum(1, keepdims=True)

    def epsilon_jvp(self, t: np.ndarray) -> np.ndarray:
        """``sum t d y_eps / d eps``, (rows, d), for ``t`` shaped like ``epsilon``: the transpose of
        ``epsilon_vjp``, on the same samples."""
        if self._by_product:
            scores = centred_scores(self.theta)
            return self.jvp(-(t / self.epsilon.astype(np.float64)) * scores)[0]
        return self.jvp(t, weighting=SCALE_SCORE)[0]

    @property
    def _by_product(self) -> bool:
        """Whether a derivative in the temperature comes of one in the scores."""
        shared = self.epsilon.shape[1] == 1
        return self.problem.total is not None and shared and not self.draws.multiplicative
