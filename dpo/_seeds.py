"""From whatever a user calls a seed to the two words of the generator's key."""

from __future__ import annotations

import operator
import sys
from typing import Any, NamedTuple

import numpy as np

Seed = tuple[int, int]
"""``(seed_lo, seed_hi)``, each in 0 .. 2^32 - 1."""

_WORD = 2**32


class Repeated(NamedTuple):
    """One seed for several calls at once, each numbering its rows from 0."""

    seed: Any
    rows: np.ndarray
    """The number of every row in the call it belongs to."""


def as_seed(seed, kind: str) -> Seed:
    """Two words from an int, a pair of uint32, a ``torch.Generator``, a JAX key, or None.

    None draws fresh words from the global generator of the framework ``kind`` ("numpy", "torch"),
    so that ``torch.manual_seed`` and ``numpy.random.seed`` fix results; in JAX it is an error.
    """
    if seed is None:
        return _fresh(kind)
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
    if not 0 <= value < _WORD**2:
        raise ValueError(f"seed must be in 0 .. 2**64 - 1, got {value}")
    return value % _WORD, value // _WORD


def _from_words(seed) -> Seed:
    words = np.asarray(seed)
    if words.shape != (2,) or words.dtype.kind not in "iu":
        raise TypeError(
            "seed must be an int, two uint32 words, a torch.Generator or a JAX key, got "
            f"{type(seed).__name__}"
        )
    if words.min() < 0 or words.max() >= _WORD:
        raise ValueError(f"the two words of seed must be in 0 .. 2**32 - 1, got {words}")
    return int(words[0]), int(words[1])


def _from_torch(torch, generator) -> Seed:
    device = None if generator is None else generator.device
    words = torch.randint(_WORD, (2,), generator=generator, device=device)
    return int(words[0]), int(words[1])


def _fresh(kind: str) -> Seed:
    if kind == "jax":
        raise TypeError("seed is required with JAX arrays: pass a key, seed=jax.random.key(0)")
    if kind == "torch":
        return _from_torch(sys.modules["torch"], None)
    words = np.random.randint(0, _WORD, size=2, dtype=np.uint32)  # noqa: NPY002, the global one
    return int(words[0]), int(words[1])
