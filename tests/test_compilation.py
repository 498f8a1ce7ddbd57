"""What Numba makes of the kernels: vector code, and a disk cache that notices every edit."""

from __future__ import annotations

import platform

import numpy as np
import pytest
from dpo.kernels.cpu import _jit, argmax
from dpo.kernels.cpu.perturb import noise_words, scores
from dpo.kernels.cpu.simd import LANES, broadcast, load, store, tree_sum
from llvmlite import binding
from numba import njit


@njit
def accumulate(family, like, quads, key, out):
    total = broadcast(np.float32(0))
    for q in range(quads):
        w = noise_words(q, 0, 0, key)
        s = scores(family, like, w, 4, q, 0, 0, key)
        total = total + s[0] + s[1] + s[2] + s[3]
    store(out, 0, total)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads x86 assembly")
def test_noise_compiles_to_vector_instructions():
    """The products of Philox and the multiply-adds of the quantiles use the widest registers."""
    features = binding.get_host_cpu_features()
    if not features.get("avx2"):
        pytest.skip("this CPU has no AVX2")
    register = "%zmm" if features.get("avx512f") else "%ymm"
    out = np.zeros(LANES, np.float32)
    accumulate(0, out, 4, (np.uint64(1), np.uint64(2)), out)
    assert np.isfinite(out).all() and (out != 0).all()
    (assembly,) = accumulate.inspect_asm().values()
    for instruction in ("vpmuludq", "vfmadd", "vdivps"):
        lines = [line for line in assembly.splitlines() if instruction in line]
        assert any(register in line for line in lines), instruction


@njit
def sum_of_lanes(x):
    return tree_sum(load(x, 0))


def test_tree_sum_is_the_documented_tree():
    x = np.random.default_rng(0).standard_normal(LANES).astype(np.float32) * 1e3
    lanes = x
    while len(lanes) > 1:
        lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
    assert sum_of_lanes(x) == lanes[0]


def test_cache_is_stamped_with_every_source(monkeypatch):
    """An edit in any kernel file, not only the entry point's, must not find stale machine code."""
    name, stamp = argmax.run._cache._cache_file._source_stamp
    assert name == argmax.__name__ and stamp == _jit.source_stamp()
    original = _jit.Path.read_bytes

    def edited(path):
        return original(path) + (b"# edited" if path.name == "noise.py" else b"")

    monkeypatch.setattr(_jit.Path, "read_bytes", edited)
    assert _jit.source_stamp.__wrapped__() != stamp
