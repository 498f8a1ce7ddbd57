"""Single samples of the library: the noise of each, regenerated in NumPy, and its solution."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from dpo.kernels.codes import Draws
from dpo.kernels.noise import FAMILIES, Family
from dpo.kernels.reference import Noise

from ._backend import call
from ._estimators import Case, layer_of


class Samples(NamedTuple):
    """All (..., d), float64; grids are flattened."""

    z: np.ndarray
    """The noise."""
    seen: np.ndarray
    """The perturbed scores that were maximised: of costs, minus the perturbed costs."""
    y: np.ndarray
    """The solution."""

    @property
    def maximum(self) -> np.ndarray:
        """``F = <y, theta + eps z>``, (...)."""
        return (self.y * self.seen).sum(-1)

    def in_blocks(self, blocks: int) -> Samples:
        """(blocks, samples of a block, d)."""
        return Samples(*(x.reshape(blocks, -1, x.shape[-1]) for x in self))


def draw(case: Case, count: int, seed: int) -> Samples:
    """``count`` independent samples of the case's first row."""
    theta = case.theta[0].astype(np.float32)
    layer = layer_of(case, count, "none")
    y = call(layer.samples, theta, seed=seed).reshape(count, -1).astype(np.float64)
    z = noise_of(case.noise, count, theta.size, seed)
    return Samples(z, sign_of(case) * case.theta[0].ravel() + float(case.epsilon) * z, y)


def noise_of(noise: str, count: int, d: int, seed: int) -> np.ndarray:
    """What ``count`` samples of one row draw in float32, (count, d)."""
    draws = Draws(family_of(noise).code, (seed % 2**32, seed // 2**32), count)
    return Noise(draws, 1, d, np.float32).z[:, 0].astype(np.float64)


def family_of(noise: str) -> Family:
    """By its name."""
    return next(family for family in FAMILIES if family.name == noise)


def sign_of(case: Case) -> float:
    """-1 where scores are costs."""
    return -1.0 if case.oracle.problem(case.theta.shape).minimises else 1.0
