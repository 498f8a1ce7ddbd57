"""A sampler whose solutions come from a user's function: ``Sampler`` but for who solves.

Solutions have D entries, scores d. Every formula is ``Sampler``'s; the sums are those of
``kernels/solved.py``, a window of samples at a time, so that memory does not grow with the samples.
What a gradient needs of the forward pass is every solution: they are kept where they fit in the
solver's ``memory``, and are otherwise solved for again. Noise is always drawn again.
"""

from __future__ import annotations

import functools as ft
from collections.abc import Iterator

import numpy as np

from ._engine import Kept, MeanAndError, Sampler
from ._progress import reporting
from ._seeds import as_int
from ._solver import Solver, Window
from .kernels.codes import JACOBIAN, JVP, MAXIMUM, MOMENTS, SCORE, VALUE, VJP

_FIRST_WINDOW = 256
"""Samples before it is known how much a solution takes."""
_PARTS = 8
"""What ``memory`` is divided by: scores, noise and solutions of a window, and their products."""


@ft.cache
def _kernels():
    """Importing the kernels imports Numba, so not before the first call."""
    from .kernels import solved
    from .kernels.cpu import draws

    return draws, solved


class SolvedSampler(Sampler):
    """One perturbed function: ``problem.solver`` solves."""

    __slots__ = ()

    @property
    def solver(self) -> Solver:
        """The user's function."""
        assert isinstance(self.problem.solver, Solver)
        return self.problem.solver

    @property
    def _by_jacobian(self) -> bool:
        return False  # what is kept are solutions, not their products with scores

    def forward(self, for_gradient: bool = False) -> Kept:
        memo = _Memo(self) if for_gradient else None
        sums = self._launch(VALUE, memo=memo)
        return Kept(self._mean(sums), memo.array if memo else None)

    def value(self) -> MeanAndError:
        sums = self._launch(VALUE, squares=True)
        error = self._error(sums.deviations[:, 0], sums.deviations[:, 1])
        return self._mean(sums), error

    def _before_vjp(self) -> Kept:
        if self._loo:
            return self.forward(for_gradient=True)
        return Kept(np.zeros((len(self.theta), 1)))  # for any D

    def solutions(self) -> np.ndarray:
        """Every solution, (rows, num_samples, D)."""
        y = np.concatenate([y for y, _ in self._windows(VALUE)] or [self._nothing()])
        return np.moveaxis(y, 0, 1)

    def _nothing(self) -> np.ndarray:
        size = self.solver.learn_structure(self.theta.dtype).size
        return np.empty((self.num_samples, 0, size), self.theta.dtype)

    # ------------------------------------------------------------------------------------ launch

    def _launch(self, operation: int, *, weighting: int = SCORE, memo=None, **parameters):
        """The sums of an operation; ``memo`` is filled by a ``VALUE``, or holds all solutions."""
        sums = _kernels()[1].Accumulator(operation, self.draws, **parameters)
        known = memo if isinstance(memo, np.ndarray) else None
        first = 0
        for y, seen in self._windows(operation, weighting, known):
            sums.add(y, seen)
            if isinstance(memo, _Memo):
                memo.write(first, y)
            first += len(y)
        if first == 0:  # no rows
            sums.add(self._nothing(), self._perturb(operation, weighting, 0, self.num_samples))
        return sums

    def _windows(
        self, operation: int, weighting: int = SCORE, known: np.ndarray | None = None
    ) -> Iterator[tuple]:
        """Solutions, (samples, rows, D), and what they were found for."""
        if len(self.theta) == 0:
            return
        seed = as_int(self.draws.seed)
        window = Window(self.problem.places[:, 0], 0, self.num_samples, seed)
        self.solver.begin()
        total = self.num_samples * len(self.theta)
        progress = self.solver.progress if known is None else None
        with reporting(progress, total) as report:
            first = 0
            while first < self.num_samples:
                count = min(self._window_size(first), self.num_samples - first)
                seen = self._perturb(operation, weighting, first, count)
                if known is None:
                    # The function may write to its argument; a maximum needs the scores again.
                    p = seen.p.copy() if operation in (MAXIMUM, MOMENTS) else seen.p
                    y = self.solver(p, window._replace(first=first), report)
                else:
                    y = known[first : first + count]
                yield y, seen
                first += count

    def _window_size(self, first: int) -> int:
        """An even number of samples, the same for every operation."""
        rows, d = self.theta.shape
        structure = self.solver.structure
        size = d if first == 0 or structure is None else max(d, structure.size)
        limit = _FIRST_WINDOW if first == 0 else self.num_samples
        return min(window_size(rows, size, self.solver.memory), max(2, limit // 2 * 2))

    def _perturb(self, operation: int, weighting: int, first: int, count: int):
        return _kernels()[0].perturb(
            self.theta,
            self.epsilon,
            self.draws,
            first,
            count,
            minimises=self.problem.minimises,
            weighting=weighting,
            scores=operation in (VJP, JVP, JACOBIAN),
            noise=operation == MOMENTS,
        )

    def perturbed_scores(self, first: int, count: int) -> np.ndarray:
        """What some of the samples see, (count, rows, d)."""
        return self._perturb(VALUE, SCORE, first, count).p


def window_size(rows: int, size: int, memory: int) -> int:
    """How many samples of ``rows`` problems of ``size`` entries to treat at a time: even."""
    return max(2, memory // _PARTS // max(1, 8 * rows * size) // 2 * 2)


class _Memo:
    """Room for every solution of a sampler, (num_samples, rows, D), if it fits."""

    def __init__(self, sampler: SolvedSampler):
        self._sampler = sampler
        self.array: np.ndarray | None = None

    def write(self, first: int, y: np.ndarray) -> None:
        """Note the solutions of samples ``first ..``."""
        samples = self._sampler.num_samples
        if first == 0 and samples * y[0].nbytes <= self._sampler.solver.memory:
            self.array = np.empty((samples, *y.shape[1:]), y.dtype)
        if self.array is not None:
            self.array[first : first + len(y)] = y
