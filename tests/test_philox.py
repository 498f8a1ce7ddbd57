"""The generator: known answers on every backend, and how its words are addressed."""

from __future__ import annotations

import numpy as np
import pytest
from dpo.kernels import philox
from dpo.kernels.cpu._jit import kernel

# Random123's known answers (tests/kat_vectors): counter, key, output.
KNOWN_ANSWERS = [
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@kernel
def compiled_philox(c0, c1, c2, c3, k0, k1):
    return philox.philox4x32(c0, c1, c2, c3, k0, k1)


@pytest.mark.parametrize("counter, key, expected", KNOWN_ANSWERS)
def test_known_answers_numpy(counter, key, expected):
    out = philox.words(counter[0], counter[1], counter[2], np.uint64(counter[3]), key)
    assert tuple(int(w) for w in out) == expected


@pytest.mark.parametrize("counter, key, expected", KNOWN_ANSWERS)
def test_known_answers_numba(counter, key, expected):
    out = compiled_philox(*(np.uint64(x) for x in counter + key))
    assert tuple(int(w) for w in out) == expected


def test_agrees_with_jax_philox():
    """An implementation that shares nothing with ours, where it is installed."""
    jax_philox = pytest.importorskip("jax._src.random.philox4x32")
    theirs = getattr(jax_philox, "_philox4x32_lowering", None)
    if theirs is None:
        pytest.skip("a private function of JAX that this version names otherwise")
    counter = np.random.default_rng(0).integers(0, 2**32, (4, 1000), dtype=np.uint32)
    with np.errstate(over="ignore"):
        out = np.stack([np.asarray(w) for w in theirs(np.uint32(7), np.uint32(9), *counter)], -1)
    ours = [philox.words(c[0], c[1], c[2], np.uint64(c[3]), (7, 9)) for c in counter.T]
    assert (np.stack(ours) == out).all()


def test_words_broadcast_and_layout():
    """``words(quad, sample, row)`` is elementwise: any slice equals the call on the slice."""
    quad, sample, row = np.arange(3)[None, None], np.arange(4)[:, None, None], np.arange(2)[:, None]
    block = philox.words(quad, sample, row, philox.STREAM_NOISE, (1, 2))
    assert block.shape == (4, 2, 3, 4) and block.dtype == np.uint32
    single = philox.words(2, 3, 1, philox.STREAM_NOISE, (1, 2))
    assert (block[3, 1, 2] == single).all()


def test_streams_and_seeds_differ():
    a = philox.words(np.arange(64), 0, 0, philox.STREAM_NOISE, (1, 2))
    b = philox.words(np.arange(64), 0, 0, philox.STREAM_REFINE, (1, 2))
    c = philox.words(np.arange(64), 0, 0, philox.STREAM_NOISE, (1, 3))
    assert not (a == b).any() and not (a == c).any()
