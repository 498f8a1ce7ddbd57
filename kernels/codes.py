"""How a launch is told what to do: small integers and two records, shared by every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .user import BoundSolver

if TYPE_CHECKING:
    from .tabulate import Tabulated

VALUE, MAXIMUM, VJP, JVP, JACOBIAN, MOMENTS = range(6)
"""Operations: what is accumulated. Each kernel's docstring gives the sums."""

ADDITIVE, RACE, MULTIPLICATIVE = range(3)
"""How noise meets scores, ``p`` being what the solver sees:

    ADDITIVE        p = theta + eps z
    RACE            p = -E exp((max theta - theta) / eps), in the order of theta + eps z (Gumbel)
    MULTIPLICATIVE  p = theta exp(eps z - eps^2 / 2)

The race serves what needs decisions and scores only; sums of p itself or of z are ADDITIVE.
"""

FEW = 8
"""Samples a row up to which lanes are filled with several rows, and sums run in order."""

INDEPENDENT, ANTITHETIC, SOBOL = range(3)
"""Designs of the samples of a row:

    INDEPENDENT  every sample reads words of its own
    ANTITHETIC   samples 2 j and 2 j + 1, of an even number, read the words of sample j, the second
                 complemented
    SOBOL        sample j reads point j of a Sobol' sequence, its digits shifted at random; every
                 row has its own shift, so a row is one randomisation
"""

SCORE, SCALE_SCORE = range(2)
"""What derivatives weigh solutions by: ``s(z)``, for theta, or for eps ``s(z) z - 1`` (additive)
and ``s(z) z - 1 - eps s(z)`` (multiplicative); see ``kernels/cpu/perturb.py``."""


class Problem(NamedTuple):
    """A solver and its parameters, for rows of ``d`` coordinates."""

    oracle: str = "argmax"
    """The file of ``kernels/cpu`` that solves it: "argmax", "topk", "ranks", "grid_path" or
    "user"."""
    options: tuple[int, ...] = ()
    """The solver's integers, the same for every row."""
    places: np.ndarray | None = None
    """The solver's integers (or reals' bits) of every row, (rows, n) int64."""
    minimises: bool = False
    """Whether scores are costs: samples then see ``theta - eps z``."""
    total: float | None = None
    """What the coordinates of every solution sum to, where that is the same for all."""
    solver: BoundSolver | Callable | None = None
    """A user's function compiled into the kernels, where ``oracle`` is "user"; or what solves it
    where no kernel does, and ``places`` then holds the number of every row."""


NO_COORDINATE = 2**32 - 1
"""The number of a coordinate that does not exist, in lists of the best; its value is -inf."""


def pull_of(paired, num_samples):
    """``1 / (M - 2)``, which makes a centre that is the mean of all samples that of all other
    pairs: ``a + pull (a + mate)`` for a centred weight ``a``; 0 where there are no other pairs."""
    return 1.0 / (num_samples - 2) if paired and num_samples > 2 else 0.0


class Draws(NamedTuple):
    """Which noise: everything but the scores and their temperature."""

    family: int | Tabulated
    """A code of ``noise.py``, or a family that is a table."""
    seed: tuple[int, int]
    num_samples: int
    design: int = INDEPENDENT
    multiplicative: bool = False
    directions: np.ndarray | None = None
    """Direction numbers of Sobol' points, (whole quads, digits) uint32."""
    row_ids: np.ndarray | None = None
    """What each row is called in the noise contract; 0, 1, ... by default."""
    sample_offset: int = 0
    """The first sample; a call can be split by samples, integer results add up exactly."""
    coordinate_offset: int = 0
    """The first coordinate, of a problem whose coordinates are split: a multiple of four."""

    @property
    def is_paired(self) -> bool:
        """Whether neighbouring samples are an antithetic pair."""
        return self.design == ANTITHETIC

    @property
    def pull(self) -> float:
        """See ``pull_of``."""
        return pull_of(self.is_paired, self.num_samples)

    def own(self, numbers, d: int):
        """Which coordinates, as the whole problem numbers them, are among the ``d`` of this shard,
        and their places in it (0 for the others)."""
        place = numbers - self.coordinate_offset
        is_own = (place >= 0) & (place < d)
        return is_own, np.where(is_own, place, 0)

    @property
    def first_quad(self) -> int:
        """The Philox block of the first coordinate. Raises where there is none of its own."""
        quad, rest = divmod(self.coordinate_offset, 4)
        if rest or not 0 <= quad < 2**32:
            raise ValueError(
                "coordinate_offset must be a multiple of 4, the coordinates of a block of words, "
                f"got {self.coordinate_offset}: let every shard but the last hold a multiple of 4"
            )
        if quad and self.design == SOBOL:
            raise ValueError("coordinate_offset is not for Sobol' points: they belong together")
        return quad
