"""The discrete solvers ``y*`` that have fused kernels."""

from __future__ import annotations

import functools as ft
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ._checks import as_integer, class_hint
from .kernels.codes import Problem


@dataclass(frozen=True)
class Oracle:
    """A linear maximiser ``y*(theta) = argmax_{y in Y} <y, theta>`` with a fused kernel."""

    has_exact_form: ClassVar[bool] = False
    """Whether its expectations can be had without sampling, ``method="exact"``."""

    @property
    def event_ndim(self) -> int:
        """How many trailing axes are one instance; everything before them is batch."""
        return 1

    def problem(self, shape: tuple[int, ...]) -> Problem:
        """What the kernels are told, for scores of that shape; raises if they do not fit."""
        raise NotImplementedError

    def check_targets(self, targets: np.ndarray, shape: tuple[int, ...]) -> str | None:
        """What is wrong with the first bad row of ``targets``, (rows, d), as targets of a loss."""
        raise NotImplementedError


_TOLERANCE = 1e-3  # of float16 targets


def _first(bad) -> int | None:
    """The index of the first True, if there is one."""
    return int(np.argmax(bad)) if bad.any() else None


def _bad_sum(targets: np.ndarray, total: float, low: float, high: float, what: str) -> str | None:
    """Complain of the first row that leaves [low, high] or does not sum to ``total``."""
    sums = targets.sum(-1, dtype=np.float64)
    outside = (targets.min(-1) < low - _TOLERANCE) | (targets.max(-1) > high + _TOLERANCE)
    row = _first(outside | (np.abs(sums - total) > _TOLERANCE * max(1.0, total)))
    if row is None:
        return None
    return (
        f"y_true must be {what}, but row {row} has minimum {targets[row].min():g}, maximum "
        f"{targets[row].max():g} and sum {sums[row]:g}"
    )


@dataclass(frozen=True)
class Argmax(Oracle):
    """One-hot of the largest score: ``Y`` is the set of vertices of the simplex.

    The lowest index wins a tie. ``-inf`` scores never win while a finite one exists; ``+inf``
    scores always do.
    """

    has_exact_form: ClassVar[bool] = True

    def problem(self, shape: tuple[int, ...]) -> Problem:
        return Problem(total=1.0)

    def check_targets(self, targets: np.ndarray, shape: tuple[int, ...]) -> str | None:
        what = "one-hot or a mean of one-hot rows (non-negative, summing to 1)"
        message = _bad_sum(targets, 1.0, 0.0, 1.0, what)
        hint = "; for class labels pass numpy.eye(d)[labels]"
        return message + hint if message else None


@dataclass(frozen=True)
class TopK(Oracle):
    """Ones at the ``k`` largest scores: ``Y`` is the set of 0/1 vectors with exactly k ones.

    The lowest index wins a tie, at the k-th place too. ``-inf`` scores come last.
    """

    has_exact_form: ClassVar[bool] = True

    k: int = 1

    def __post_init__(self):
        object.__setattr__(self, "k", as_integer("k", self.k))

    def problem(self, shape: tuple[int, ...]) -> Problem:
        if self.k > shape[-1]:
            raise ValueError(
                f"k must be in 1..{shape[-1]} for {shape[-1]} coordinates, got {self.k}"
            )
        return Problem("topk", (self.k,), total=float(self.k))

    def check_targets(self, targets: np.ndarray, shape: tuple[int, ...]) -> str | None:
        what = f"0/1 with {self.k} ones, or a mean of such rows (in [0, 1], summing to {self.k})"
        return _bad_sum(targets, self.k, 0.0, 1.0, what)


@dataclass(frozen=True)
class Ranks(Oracle):
    """The rank of each score, ascending, 1 .. d: ``Y`` is the set of permutations of (1, ..., d).

    Of equal scores the lowest index gets the largest rank, so that ranks above ``d - k`` are
    ``TopK(k)``. ``-inf`` scores get the smallest ranks.
    """

    has_exact_form: ClassVar[bool] = True

    def problem(self, shape: tuple[int, ...]) -> Problem:
        if shape[-1] > 2**20:
            raise ValueError(f"ranks are for at most 2**20 coordinates, got {shape[-1]}")
        return Problem("ranks", total=shape[-1] * (shape[-1] + 1) / 2)

    def check_targets(self, targets: np.ndarray, shape: tuple[int, ...]) -> str | None:
        d = shape[-1]
        what = f"a permutation of 1..{d}, or a mean of permutations"
        message = _bad_sum(targets, d * (d + 1) / 2, 1.0, d, what)
        if message or not targets.size:
            return message
        smallest = np.cumsum(np.sort(targets.astype(np.float64), -1), -1)
        least = np.cumsum(np.arange(1.0, d + 1))
        row = _first((smallest < least * (1 - _TOLERANCE)).any(-1))
        if row is None:
            return None
        return f"y_true must be {what}; row {row} is not: its smallest entries are too small"


@dataclass(frozen=True)
class ShortestPath(Oracle):
    """The cheapest path through a grid of vertex costs, as 0/1 indicators, (..., H, W).

    Scores are *costs*, minimised: a sample sees ``costs - eps Z``, clipped from below at
    ``min_cost`` (negative costs would make the problem ill-posed). The cost of a path counts both
    end cells. Ties go to the predecessor that comes first in row-major order. ``+inf`` is a wall.

    Parameters
    ----------
    neighbors
        4 or 8; diagonal steps cost nothing extra.
    source, target
        Cells ``(row, column)``, negative ones counted from the end; or one cell an instance, an
        array that broadcasts to the batch's shape + (2,), given as nested tuples or lists.
    min_cost
        The least cost a sample may see, >= 0.
    """

    neighbors: int = 8
    source: Sequence = (0, 0)
    target: Sequence = (-1, -1)
    min_cost: float = 0.0

    def __post_init__(self):
        if self.neighbors not in (4, 8) or isinstance(self.neighbors, bool):
            raise ValueError(f"neighbors must be 4 or 8, got {self.neighbors!r}")
        for name in ("source", "target"):
            cells = np.asarray(getattr(self, name))
            if cells.dtype.kind not in "iu" or cells.shape[-1:] != (2,):
                raise ValueError(
                    f"{name} must be a cell (row, column) of integers, or one for each instance, "
                    f"got {getattr(self, name)!r}"
                )
            object.__setattr__(self, name, _tuples(cells.tolist()))
        is_number = isinstance(self.min_cost, numbers.Real) and not isinstance(self.min_cost, bool)
        if not is_number or not 0 <= self.min_cost < np.inf:
            raise ValueError(f"min_cost must be finite and not negative, got {self.min_cost!r}")

    @property
    def event_ndim(self) -> int:
        return 2

    def problem(self, shape: tuple[int, ...]) -> Problem:
        height, width = shape[-2:]
        bits = int(np.float64(self.min_cost + 0.0).view(np.int64))  # 0, not -0
        return Problem(
            "grid_path",
            (height, width, self.neighbors, bits),
            (_kept_places if is_concrete(shape) else _places)(self, shape),
            minimises=True,
        )

    def _cells(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Flat cell numbers, one a row."""
        batch, size = shape[:-2], np.array(shape[-2:])
        cells = np.asarray(getattr(self, name))
        outside = (cells < -size) | (cells >= size)
        if outside.any():
            raise ValueError(
                f"{name} must lie in the {size[0]} x {size[1]} grid, got "
                f"{tuple(cells[outside.any(-1)].reshape(-1, 2)[0].tolist())}"
            )
        cells = np.where(cells < 0, cells + size, cells)
        flat = cells[..., 0] * size[1] + cells[..., 1]
        try:
            return np.broadcast_to(flat, batch).reshape(-1).astype(np.int64)
        except ValueError:
            raise ValueError(
                f"{name} must be one cell or broadcast to the batch {batch}, got shape "
                f"{cells.shape[:-1]} of cells"
            ) from None

    def check_targets(self, targets: np.ndarray, shape: tuple[int, ...]) -> str | None:
        rows = np.arange(len(targets))
        ends = [targets[rows, self._cells(name, shape)] for name in ("source", "target")]
        bad = (targets.min(-1) < -_TOLERANCE) | (targets.max(-1) > 1 + _TOLERANCE)
        bad |= (np.abs(np.stack(ends) - 1) > _TOLERANCE).any(0)
        row = _first(bad)
        if row is None:
            return None
        return (
            "y_true must be 0/1 indicators of a path that contains source and target, or a mean "
            f"of such paths, but row {row} is not: minimum {targets[row].min():g}, maximum "
            f"{targets[row].max():g}, at the ends {ends[0][row]:g} and {ends[1][row]:g}"
        )


def _places(oracle: ShortestPath, shape: tuple[int, ...]) -> np.ndarray:
    """Source and target of every row."""
    return np.stack([oracle._cells(name, shape) for name in ("source", "target")], -1)


_kept_places = ft.lru_cache(maxsize=8)(_places)
"""They take longer than a few small paths."""


def is_concrete(shape: tuple) -> bool:
    """Whether a shape is of numbers, not of a program's symbols, which are no key."""
    return all(type(n) is int for n in shape)


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def as_oracle(oracle: Oracle) -> Oracle:
    """Check that ``oracle`` is one the kernels know."""
    if isinstance(oracle, Oracle) and type(oracle) is not Oracle:
        return oracle
    raise TypeError(
        f"oracle must be a dpo oracle such as dpo.Argmax(), got {oracle!r}{_oracle_hint(oracle)}"
    )


def _oracle_hint(given: object) -> str:
    if isinstance(given, type):
        return class_hint(given)
    if isinstance(getattr(given, "fun", None), Callable):  # type: ignore[arg-type]
        return ", which is a layer already: call it, or its max and loss"
    if callable(given):
        return ": a function is a layer by dpo.perturbed(fun), or an oracle by @dpo.oracle"
    return ""
