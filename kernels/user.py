"""A user's solver: a Python function, and where its arguments lie in memory.

    solve(scores, solution, *arguments)        one sample: float64 scores, zeros to be filled

An argument is a parameter, the same for all rows (``SHARED``) or one a row (``ROW``), or an array
to work in (``WORK``). Parameters are float64 or int64 numbers or arrays; memory is counted in words
of eight bytes. Numbers are 64 bits wide whatever the precision of the scores, so that compiled code
and plain Python compute the same.

Backends compile the function; ``solution_of`` calls it, which is the definition they are tested by.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

SHARED, ROW, WORK = range(3)

MAX_ENTRY = 2**20
"""Largest absolute value of a solution's entry: sums of a block's squares stay in 64 bits."""


class Interrupted(Exception):
    """What compiled code raises where a solver failed; launches say what happened, and where."""


class SolverError(RuntimeError):
    """The user's function raised, or returned what it may not, on one sample of one row.

    The function's own exception is the ``__cause__``. ``row`` (all leading axes flattened) and
    ``sample`` say where, None if it could not be told; ``seed`` draws the same scores again.
    """

    def __init__(self, message: str, row: int | None, sample: int | None, seed: int):
        super().__init__(message, row, sample, seed)
        self.row, self.sample, self.seed = row, sample, seed

    def __str__(self) -> str:
        return self.args[0]


class Argument(NamedTuple):
    """An argument of a solver, after scores and solution."""

    name: str
    place: int
    dtype: str
    """ "float64" or "int64"."""
    ndim: int


class Solver(NamedTuple):
    """What a solver is compiled from."""

    function: Callable
    event_ndim: int
    arguments: tuple[Argument, ...] = ()
    check_bounds: bool = True

    @property
    def name(self) -> str:
        return self.function.__name__


class BoundSolver(NamedTuple):
    """A solver and its arguments, for instances of one shape. (``Problem.places`` has a row's.)"""

    solver: Solver
    layout: np.ndarray
    """The instance's shape; then, for every argument, its offset in words and its shape. int64."""
    shared: np.ndarray
    """Words of what all rows share, int64."""
    work_words: int
    low: int
    high: int
    """Range of a solution's entries."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an instance."""
        return tuple(self.layout[: self.solver.event_ndim].tolist())

    @property
    def is_binary(self) -> bool:
        return (self.low, self.high) == (0, 1)

    def argument_views(self, row: np.ndarray | None, work: np.ndarray) -> list:
        """Numbers and arrays as the function takes them; ``row`` are the words of one row."""
        words = {SHARED: self.shared, ROW: row, WORK: work}
        views, at = [], self.solver.event_ndim
        for argument in self.solver.arguments:
            offset, *shape = self.layout[at : at + 1 + argument.ndim].tolist()
            at += 1 + argument.ndim
            memory = words[argument.place]
            assert memory is not None
            view = memory[offset : offset + int(np.prod(shape, dtype=np.int64))]
            view = view.view(argument.dtype).reshape(shape)
            views.append(view if argument.ndim else view.item())
        return views


def laid_out(
    solver: Solver, shape: tuple[int, ...], shapes: list[tuple[int, ...]]
) -> tuple[np.ndarray, list[int]]:
    """The layout of arguments of those shapes, and the words of each of the three places."""
    layout, sizes = list(shape), [0, 0, 0]
    for argument, of_argument in zip(solver.arguments, shapes, strict=True):
        layout += [sizes[argument.place], *of_argument]
        sizes[argument.place] += int(np.prod(of_argument, dtype=np.int64))
    return np.array(layout, np.int64), sizes


def solution_of(bound: BoundSolver, scores: np.ndarray, row: np.ndarray | None) -> np.ndarray:
    """One solution by the uncompiled function, (d,); raises whatever that raises.

    What it works in holds garbage, as it may when compiled.
    """
    solution = np.zeros(bound.shape, np.int32)
    work = np.full(bound.work_words, -(2**62) + 12345, np.int64)
    arguments = bound.argument_views(row, work)
    with np.errstate(all="ignore"):  # as in compiled code
        bound.solver.function(scores.astype(np.float64).reshape(bound.shape), solution, *arguments)
    return solution.reshape(-1)


def out_of_range(bound: BoundSolver, solution: np.ndarray) -> str | None:
    """What is wrong with the first entry that leaves the range."""
    bad = np.flatnonzero((solution < bound.low) | (solution > bound.high))
    if not len(bad):
        return None
    place = tuple(int(i) for i in np.unravel_index(bad[0], bound.shape))
    allowed = "0 or 1" if bound.is_binary else f"in {bound.low} .. {bound.high}"
    hint = "; for other integers say @dpo.oracle(binary=False)" if bound.is_binary else ""
    where = place[0] if len(place) == 1 else place
    return f"wrote {solution[bad[0]]} to solution[{where}], where entries are {allowed}{hint}"


def solutions(p: np.ndarray, bound: BoundSolver, places: np.ndarray | None) -> np.ndarray:
    """Of every sample and row, (num_samples, rows, d) int64: what tests compare with."""
    result = np.empty(p.shape, np.int64)
    for m, b in np.ndindex(p.shape[:2]):
        result[m, b] = solution_of(bound, p[m, b], None if places is None else places[b])
    return result
