"""What a run of the suite is told: how much to do, from which seed, and whom to tell."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np

import dpo

from ._cluster import Map

T = TypeVar("T")
Size = Literal["quick", "default", "full"]


@dataclass(frozen=True)
class Settings:
    """Passed to every section; the same settings give the same verdicts."""

    seed: int
    size: Size = "default"
    tick: Callable[[str], None] = lambda words: None
    """Called with a few words whenever a piece of work begins: the moving part of the progress."""

    map: Map = map
    """Does pieces of work, in this process or on a cluster."""
    oracle: dpo.Oracle | None = None
    """The user's own, where that is what is tested."""
    shape: tuple[int, ...] = ()
    """Of one instance of its scores."""

    def on(self, over: Map) -> Settings:
        """The same, its pieces done elsewhere."""
        return replace(self, map=over)

    @property
    def full(self) -> bool:
        """Whether more samples, seeds and sizes are asked for."""
        return self.size == "full"

    def pick(self, default: T, full: T, quick: T | None = None) -> T:
        """One of the sizes; the quick one is the default unless it is given."""
        if self.size == "quick" and quick is not None:
            return quick
        return full if self.full else default

    def seed_for(self, *words: object) -> int:
        """A 64-bit seed of its own for each use, so that no two tests share noise."""
        use = zlib.crc32(" ".join(map(str, words)).encode())
        return int(np.random.SeedSequence((self.seed, use)).generate_state(1, np.uint64)[0])
