"""The noise families, as users name them."""

from __future__ import annotations

import functools as ft
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ._checks import class_hint


@dataclass(frozen=True)
class Noise:
    """A distribution of i.i.d. noise: ``Normal()``, ``Gumbel()``, ``Logistic()``, ``Laplace()``,
    ``StudentT(df)``, or one of your own, ``NoiseFamily(quantile, score)``."""

    _code: ClassVar[int | None] = None

    @property
    def name(self) -> str:
        """The family's name; ``noise=`` accepts it where there are no parameters."""
        return type(self).__name__.lower()

    @property
    def family(self) -> Any:
        """What kernels are told: a code, or tables."""
        return self._code

    @property
    def has_exact_form(self) -> bool:
        """Whether quadrature knows its law, ``method="exact"``."""
        return self._code is not None


@dataclass(frozen=True)
class Normal(Noise):
    """Standard normal noise, density ``exp(-z^2 / 2) / sqrt(2 pi)``; the score is ``z``."""

    _code = 0


@dataclass(frozen=True)
class Gumbel(Noise):
    """Standard Gumbel noise, density ``exp(-z - exp(-z))``; the score is ``1 - exp(-z)``.

    The perturbed argmax is then ``softmax(theta / eps)``. For a *minimisation* perturb ``-cost``:
    Gumbel noise is not symmetric, and ``cost + eps Z`` would not give the softmin.
    """

    _code = 1


@dataclass(frozen=True)
class Logistic(Noise):
    """Standard logistic noise, CDF ``1 / (1 + exp(-z))``; the score is ``tanh(z / 2)``."""

    _code = 2


@dataclass(frozen=True)
class NoiseFamily(Noise):
    """Noise of your own: ``z = quantile(u)`` for uniform u, with ``score = -(log density)'``.

    Both are functions of NumPy arrays in float64, of any origin: they are evaluated once, here, and
    tabulated, so that every kernel runs on them at full speed, in float32 and float64, with the
    same bits in every backend. A table is exact to rounding. It reaches as far into the tails as
    other noise does, 2^-33 (float32) and 2^-65 (float64).

    Parameters
    ----------
    quantile
        Increasing, and smooth on each side of the median.
    score
        ``s(z) = -d log density(z) / dz``, at values ``z`` of the quantile.
    upper_quantile
        ``p -> quantile(1 - p)``, written so that small p keep their precision. May be left out
        where noise is symmetric about 0, ``quantile(1 - u) = -quantile(u)``.
    label
        What it is called in messages.

    Raises
    ------
    ValueError
        If the two disagree (where, and by how much), the quantile does not increase or is not
        smooth, the variance or ``E[score^2]`` is infinite, or the density does not vanish at the
        ends of its support, so that derivatives would miss the jump there (uniform noise, say).

    Examples
    --------
    Hyperbolic-secant noise, of density ``1 / (2 cosh(pi z / 2))``:

    >>> import dpo, numpy as np
    >>> noise = dpo.NoiseFamily(
    ...     quantile=lambda u: 2 / np.pi * np.log(np.tan(np.pi * u / 2)),
    ...     score=lambda z: np.pi / 2 * np.tanh(np.pi * z / 2),
    ... )
    >>> dpo.perturbed_argmax([0.0, 1.0], noise=noise, epsilon=1.0, seed=0).round(1)
    array([0.2, 0.8])
    """

    quantile: Callable
    score: Callable
    upper_quantile: Callable | None = None
    label: str = "custom"

    def __post_init__(self):
        for name in ("quantile", "score", "upper_quantile"):
            function = getattr(self, name)
            if not callable(function) and (function is not None or name != "upper_quantile"):
                raise TypeError(f"{name} must be a function of an array, got {function!r}")
        _ = self.family  # checks them against each other

    @property
    def name(self) -> str:
        return self.label

    @property
    def family(self) -> Any:
        return _tabulated(self)


@dataclass(frozen=True)
class Laplace(Noise):
    """Laplace noise, density ``exp(-|z|) / 2``; the score is ``sign(z)``."""

    @property
    def family(self) -> Any:
        return _tabulated(self)

    def quantile(self, u: np.ndarray) -> np.ndarray:
        """``log(2 u)`` below the median, ``-log(2 (1 - u))`` above."""
        return np.where(u < 0.5, np.log(2 * u), -np.log(2 * (1 - u)))

    def score(self, z: np.ndarray) -> np.ndarray:
        """``-d log density / dz``."""
        return np.sign(z)


@dataclass(frozen=True)
class StudentT(Noise):
    """Student's t noise of ``df > 2`` degrees of freedom: heavy tails, bounded score.

    The score is ``(df + 1) z / (df + z^2)``, at most ``(df + 1) / (2 sqrt(df))``; the variance is
    ``df / (df - 2)``.
    """

    df: float = 5.0

    def __post_init__(self):
        if not isinstance(self.df, numbers.Real) or not 2.01 <= self.df < np.inf:
            raise ValueError(
                f"df must be finite and at least 2.01, got {self.df!r}: up to 2 degrees of freedom "
                "the variance is infinite"
            )

    @property
    def family(self) -> Any:
        return _tabulated(self)

    def quantile(self, u: np.ndarray) -> np.ndarray:
        """The inverse of the CDF."""
        from scipy.special import stdtrit

        return stdtrit(self.df, u)

    def score(self, z: np.ndarray) -> np.ndarray:
        """``-d log density / dz``."""
        return (self.df + 1) * z / (self.df + z * z)


@ft.lru_cache(maxsize=64)
def _tabulated(noise: Any) -> Any:
    """The tables of a noise that has a quantile and a score, made once for all that are equal."""
    from .kernels.tabulate import Tabulated

    upper = getattr(noise, "upper_quantile", None)
    return Tabulated(noise.name, noise.quantile, noise.score, upper)


_BY_NAME = {family().name: family() for family in (Normal, Gumbel, Logistic, Laplace)}


def as_noise(noise: Noise | str) -> Noise:
    """A ``Noise`` from itself or its name; anything else raises and lists the names."""
    if isinstance(noise, Noise) and type(noise) is not Noise:
        return noise
    if isinstance(noise, str) and noise.lower() in _BY_NAME:
        return _BY_NAME[noise.lower()]
    names = ", ".join(repr(name) for name in _BY_NAME)
    raise ValueError(
        f"noise must be one of {names} or a dpo.Noise such as dpo.Normal(), got {noise!r}"
        + class_hint(noise)
    )
