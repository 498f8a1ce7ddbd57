"""From a quantile and a score, two Python functions, to a table that kernels read.

    z = quantile(u) for u <= 1/2       z = upper_quantile(p) for u = 1 - p > 1/2       s = score(z)

With density ``f = 1 / quantile'``, the score is ``s = -(log f)'``, so the two functions say the
same twice. Estimators of derivatives integrate by parts, ``E[g'(Z)] = E[g(Z) s(Z)]``, which asks
that ``f`` vanish at the ends of its support and that ``E[s^2]`` be finite. All of this is checked
here, numerically, on the nodes at which the functions are tabulated (``noise_table.py``).
"""

from __future__ import annotations

import functools as ft
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .noise_table import BITS, DEGREE32, DEGREE64

_NODES = DEGREE64 + 1
_PLACES, _WEIGHTS = (np.polynomial.legendre.leggauss(_NODES)[i] / 2 for i in range(2))
_PLACES = _PLACES + 0.5
"""Gauss' nodes and weights on an interval: good to interpolate in, and to integrate by."""
_BETWEEN = np.array([0.0, 0.13, 0.37, 0.5, 0.71, 0.95])
"""Where interpolants are compared with the functions themselves."""
_SMOOTH = {np.float32: 1e-6, np.float64: 1e-9}
"""By how much they may differ, relative to their size."""
_AGREE = 1e-3
"""Likewise, what a user gives twice: a slip of the pen is larger, rounding is smaller."""


class Grid(NamedTuple):
    """The intervals of one side: ``t`` in ``[start, start + width)``, all but the last row."""

    start: np.ndarray
    width: np.ndarray

    def at(self, places: np.ndarray) -> np.ndarray:
        """``t`` at those places of every interval, (intervals, places)."""
        return self.start[:, None] + self.width[:, None] * places


@ft.cache
def grid(dtype: type) -> Grid:
    """From the smallest tail that a word can mean, 2^-33 or 2^-65, to 1/2."""
    octaves = 32 if dtype is np.float32 else 64
    octave = np.repeat(2.0 ** np.arange(-octaves - 1, -1), 2**BITS)
    fraction = np.tile(np.arange(2.0**BITS), octaves) / 2**BITS
    return Grid(octave * (1 + fraction), octave / 2**BITS)


class Tabulated:
    """A noise family by its tables. Equal to itself alone."""

    def __init__(self, name: str, quantile: Callable, score: Callable, upper: Callable | None):
        self.name = name
        self._functions = _Functions(quantile, score, upper)
        self._functions.check_sides()
        self._tables = {np.dtype(t): self._functions.table(t) for t in (np.float32, np.float64)}
        moments = _Moments.of(self._functions)
        _check_score(self._functions, moments, self._tables[np.dtype(np.float64)])
        moments.check(name)
        self.mean = moments.mean
        """``E[Z]``."""
        self.fisher_information = moments.information
        """``E[s(Z)^2]``."""

    def table(self, dtype) -> np.ndarray:
        """The table in that precision. Not to be written to, though the kernels' type says so."""
        return self._tables[np.dtype(dtype)]


class _Functions(NamedTuple):
    """What a user gives, as functions of the nearer tail on either side."""

    quantile: Callable
    score: Callable
    upper_quantile: Callable | None

    def z(self, side: int, t: np.ndarray) -> np.ndarray:
        """The quantile at u = t (side 0) or 1 - t (side 1)."""
        if side == 0:
            return _values("quantile", self.quantile, t)
        if self.upper_quantile is None:
            return -_values("quantile", self.quantile, t)
        return _values("upper_quantile", self.upper_quantile, t)

    def s(self, z: np.ndarray) -> np.ndarray:
        return _values("score", self.score, z)

    def check_sides(self) -> None:
        """The two sides must be of one increasing function."""
        t = np.arange(1, 64) / 128
        lower, upper = self.z(0, t), self.z(1, t)
        direct = _values("quantile", self.quantile, 1 - t)
        gap = np.abs(direct - upper) / _size(upper)
        if gap.max() > _AGREE:
            i = int(np.argmax(gap))
            if self.upper_quantile is not None:
                raise ValueError(
                    f"upper_quantile(p) must be quantile(1 - p), but at p = {t[i]:.4g} they are "
                    f"{upper[i]:.6g} and {direct[i]:.6g}"
                )
            raise ValueError(
                f"quantile is not symmetric: it is {lower[i]:.6g} at {t[i]:.4g} but {direct[i]:.6g}"
                f" at {1 - t[i]:.4g}; pass upper_quantile(p) = quantile(1 - p) as well, written so "
                "that small p keep their precision"
            )

    def table(self, dtype: type) -> np.ndarray:
        """Polynomials of z and s on both sides, (4 sides, coefficients)."""
        t = grid(dtype).at(_places(dtype))
        z = [self.z(side, t) for side in (0, 1)]
        for side in (0, 1):
            _check_order(z[side] if side == 0 else -z[side], t)
        blocks = [_rows(values, dtype) for values in (*z, *map(self.s, z))]
        self._check_smoothness(blocks, dtype)
        table = np.ascontiguousarray(np.concatenate(blocks), dtype)
        table[np.abs(table) < np.finfo(dtype).tiny] = 0  # GPUs flush what is subnormal
        return table

    def _check_smoothness(self, blocks: list[np.ndarray], dtype: type) -> None:
        t = grid(dtype).at(_BETWEEN)
        powers = np.vander(_BETWEEN, blocks[0].shape[1], increasing=True)
        for side in (0, 1):
            z = self.z(side, t)
            both = ("quantile", z, blocks[side]), ("score", self.s(z), blocks[2 + side])
            for name, exact, block in both:
                wrong = np.abs(block[:-1] @ powers.T - exact) > _SMOOTH[dtype] * _size(exact)
                if wrong.any():
                    place = t[tuple(np.argwhere(wrong)[-1])]
                    u = place if side == 0 else 1 - place
                    raise ValueError(
                        f"{name} cannot be tabulated near u = {u:.6g}: it must be smooth on each "
                        "side of the median, and free of rounding errors that could be seen"
                    )


def _size(values: np.ndarray) -> np.ndarray:
    """What errors are measured by: the largest of each row, but for values near 0 the usual one."""
    size = np.abs(values)
    return size.max(-1, keepdims=True) + np.median(size)


def _values(name: str, function: Callable, x: np.ndarray) -> np.ndarray:
    """A user's function of an array, checked."""
    values = np.asarray(function(x), np.float64)
    if values.shape not in (x.shape, ()):
        raise ValueError(
            f"{name} must map an array to one of its shape, got {values.shape} for {x.shape}"
        )
    values = np.broadcast_to(values, x.shape)
    if not np.isfinite(values).all():
        where = x[~np.isfinite(values)].flat[0]
        raise ValueError(f"{name} must be finite, but at {where:.6g} it is not")
    return values


def _places(dtype: type) -> np.ndarray:
    """Nodes to interpolate in: as many as coefficients."""
    if dtype is np.float64:
        return _PLACES
    return np.polynomial.legendre.leggauss(DEGREE32 + 1)[0] / 2 + 0.5


def _rows(values: np.ndarray, dtype: type) -> np.ndarray:
    """Interpolating polynomials, lowest power first.

    The last row, of ``t = 1/2`` alone, is the end of the one before: a side's limit at the median.
    """
    places = _places(dtype)
    rows = np.linalg.solve(np.vander(places, increasing=True), values.T).T
    end = np.zeros((1, len(places)))
    end[0, 0] = rows[-1].sum()
    return np.concatenate([rows, end])


def _check_order(z: np.ndarray, t: np.ndarray) -> None:
    """``z`` must not fall as t grows."""
    flat = z.ravel()
    falls = np.diff(flat) < -1e-9 * (np.abs(flat[1:]) + np.median(np.abs(flat)))
    if falls.any() or flat[0] >= flat[-1]:
        place = t.ravel()[np.argmax(falls)]
        raise ValueError(f"quantile must increase, but it does not at a tail of {place:.6g}")


class _Moments(NamedTuple):
    """Integrals over u of what the estimators rest on."""

    mean: float
    information: float
    """``E[s^2]``."""
    mean_score: float
    by_parts: float
    """``E[s Z]``, which integration by parts makes 1."""
    heavy: tuple[str, ...]
    """Second moments that do not exist."""

    @classmethod
    def of(cls, functions: _Functions) -> _Moments:
        whole = grid(np.float64)
        t, weights = whole.at(_PLACES), whole.width[:, None] * _WEIGHTS
        z = np.stack([functions.z(side, t) for side in (0, 1)])
        s = functions.s(z)

        def octaves(x):
            """The parts of an integral, from the deepest octave up."""
            return (x * weights).sum((0, 2)).reshape(-1, 2**BITS).sum(1)

        names = {"variance E[Z^2]": z * z, "Fisher information E[score(Z)^2]": s * s}
        heavy = tuple(name for name, x in names.items() if _diverges(octaves(x)))
        mean, information, score, parts = (octaves(x).sum() for x in (z, s * s, s, s * z))
        return cls(float(mean), float(information), float(score), float(parts), heavy)

    def check(self, name: str) -> None:
        for moment in self.heavy:
            raise ValueError(
                f"noise {name!r} has no finite {moment}: estimates would have no finite error"
            )
        size = np.sqrt(self.information)
        if abs(self.mean_score) > _AGREE * size or abs(self.by_parts - 1) > _AGREE:
            raise ValueError(
                f"noise {name!r} must have E[score(Z)] = 0 and E[score(Z) Z] = 1, got "
                f"{self.mean_score:.4g} and {self.by_parts:.4g}: its density does not vanish at "
                "the ends of its support, and derivatives would miss the jump"
            )


def _diverges(parts: np.ndarray) -> bool:
    """Whether the parts of an integral, the deepest octave of the tail first, do not fall off."""
    if parts[0] <= 1e-12 * parts.sum():
        return False
    return bool((parts[0] / parts[8]) ** (1 / 8) > 0.995)


def _check_score(functions: _Functions, moments: _Moments, table: np.ndarray) -> None:
    """The score must be the one that the quantile implies, ``quantile'' / quantile'^2``."""
    t = grid(np.float64).at(_PLACES)
    scale = np.sqrt(moments.information)
    sides = len(table) // 4
    for side in (0, 1):
        rows = table[side * sides : (side + 1) * sides - 1]
        value, slope, bend = (_derivative(rows, order) for order in range(3))
        # Interpolation multiplies rounding errors: compare where little of them is left.
        with np.errstate(divide="ignore", invalid="ignore"):
            implied = bend / slope**2
            clear = 1e-11 * np.abs(value) / slope**2 < 1e-4 * scale
            given = functions.s(functions.z(side, t))
            gap = np.where(clear, np.abs(given - implied) / (scale + np.abs(given)), 0)
        if gap.max() > _AGREE:
            i = np.unravel_index(np.argmax(gap), gap.shape)
            u = t[i] if side == 0 else 1 - t[i]
            raise ValueError(
                f"score and quantile disagree: at u = {u:.4g}, z = {value[i]:.6g}, score(z) is "
                f"{given[i]:.6g}, but the quantile's density has -(log density)' = {implied[i]:.6g}"
            )


def _derivative(rows: np.ndarray, order: int) -> np.ndarray:
    """A derivative of every polynomial at the nodes, in units of its interval."""
    coefficients = np.polynomial.polynomial.polyder(rows, order, axis=1)
    return coefficients @ np.vander(_PLACES, coefficients.shape[1], increasing=True).T
