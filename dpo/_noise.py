"""The noise families, as users name them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Noise:
    """A distribution of i.i.d. noise: one of ``Normal()``, ``Gumbel()``, ``Logistic()``."""

    @property
    def name(self) -> str:
        """The family's name, as ``noise=`` accepts it."""
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Normal(Noise):
    """Standard normal noise, density ``exp(-z^2 / 2) / sqrt(2 pi)``; the score is ``z``."""


@dataclass(frozen=True)
class Gumbel(Noise):
    """Standard Gumbel noise, density ``exp(-z - exp(-z))``; the score is ``1 - exp(-z)``.

    The perturbed argmax is then ``softmax(theta / eps)``. For a *minimisation* perturb ``-cost``:
    Gumbel noise is not symmetric, and ``cost + eps Z`` would not give the softmin.
    """


@dataclass(frozen=True)
class Logistic(Noise):
    """Standard logistic noise, CDF ``1 / (1 + exp(-z))``; the score is ``tanh(z / 2)``."""


_BY_NAME = {family().name: family() for family in (Normal, Gumbel, Logistic)}


def as_noise(noise: Noise | str) -> Noise:
    """A ``Noise`` from itself or its name; anything else raises and lists the names."""
    if isinstance(noise, Noise) and type(noise) is not Noise:
        return noise
    if isinstance(noise, str) and noise.lower() in _BY_NAME:
        return _BY_NAME[noise.lower()]
    names = ", ".join(repr(name) for name in _BY_NAME)
    raise ValueError(
        f"noise must be one of {names} or a dpo.Noise such as dpo.Normal(), got {noise!r}"
    )
