"""From whatever a user calls a seed to the two words of the generator's key."""

from __future__ import annotations

import operator
import sys
from typing import Any, NamedTuple

import numpy as np

Seed = tuple[int, int]
"""``(seed_lo, seed_hi)``, each in 0 .. 2^32 - 1."""

WORD = 2**32


class Place(NamedTuple):
    """Where in the noise contract a call is: its seed, and what its rows and samples are called."""

    seed: Any = None
    row_offset: int = 0
    """The first row's number."""
    sample_offset: int = 0
    """The first sample's."""
    rows: np.ndarray | None = None
    """The number of every row, before the offset; 0, 1, ... by default."""

    def row_ids(self, count: int) -> np.ndarray | None:
        """Every row's number, where that is not its index."""
        if self.rows is None and self.row_offset == 0:
            return None
        rows = np.arange(count) if self.rows is None else self.rows
        if count and self.row_offset + int(rows.max()) >= WORD:
            raise ValueError(
                f"row_offset + the number of rows must be at most 2**32, got {self.row_offset}"
            )
        return rows.astype(np.uint64) + np.uint64(self.row_offset)


def as_place(seed: Any, row_offset: Any, sample_offset: Any) -> Place:
    """A call's place, from what its user gave."""
    if isinstance(seed, Place):
        return seed
    row, sample = _as_offset("row_offset", row_offset), _as_offset("sample_offset", sample_offset)
    return Place(seed, row, sample)


def _as_offset(name: str, value: Any) -> int:
    """A row or a sample is one 32-bit word of the generator's counter."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if not 0 <= (number := operator.index(value)) < WORD:
        raise ValueError(f"{name} must be in 0 .. 2**32 - 1, got {number}")
    return number


def as_seed(seed, kind: str) -> Seed:
    """Two words from an int, a pair of uint32, a ``torch.Generator``, a JAX key, or None.

    None draws fresh words from the global generator of the framework ``kind`` ("numpy", "torch"),
    so that ``torch.manual_seed`` and ``numpy.random.seed`` fix results; in JAX it is an error.
    """
    if seed is None:
        return _fresh(kind)
    if type(seed) is tuple and len(seed) == 2 and all(type(w) is int for w in seed):
        low, high = seed
        if 0 <= low < WORD and 0 <= high < WORD:
            return seed
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(seed, torch.Generator):
        return _from_torch(torch, seed)
    jax = sys.modules.get("jax")
    if jax is not None and isinstance(seed, jax.Array):
        if jax.dtypes.issubdtype(seed.dtype, jax.dtypes.prng_key):
            with jax.ensure_compile_time_eval():
                seed = jax.random.key_data(seed)
        seed = np.asarray(seed)
    if isinstance(seed, (bool, np.bool_)):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    try:
        value = operator.index(seed)
    except TypeError:
        return _from_words(seed)
    if not 0 <= value < WORD**2:
        raise ValueError(f"seed must be in 0 .. 2**64 - 1, got {value}")
    return value % WORD, value // WORD


def as_int(words: Seed) -> int:
    """The same seed as one integer."""
    return int(words[0]) + WORD * int(words[1])


def _from_words(seed) -> Seed:
    words = np.asarray(seed)
    if words.shape != (2,) or words.dtype.kind not in "iu":
        got = type(seed).__name__
        if words.dtype.kind in "iu" and words.shape[1:] == (2,):
            got = f"{len(words)} of them: jax.vmap maps a call over keys"
        elif words.dtype.kind in "iu" and words.shape == (4,):
            got = "four words, as JAX's rbg keys have: pass jax.random.key_data(key)[:2]"
        raise TypeError(
            "seed must be an int, two uint32 words, a torch.Generator or a JAX key, got " + got
        )
    if words.min() < 0 or words.max() >= WORD:
        raise ValueError(f"the two words of seed must be in 0 .. 2**32 - 1, got {words}")
    return int(words[0]), int(words[1])


def _from_torch(torch, generator) -> Seed:
    device = None if generator is None else generator.device
    low, high = torch.randint(WORD, (2,), generator=generator, device=device).tolist()
    return low, high


def _fresh(kind: str) -> Seed:
    if kind == "jax":
        raise TypeError("seed is required with JAX arrays: pass a key, seed=jax.random.key(0)")
    if kind == "torch":
        return _from_torch(sys.modules["torch"], None)
    draw = np.random.random_sample
    return int(draw() * WORD), int(draw() * WORD)
