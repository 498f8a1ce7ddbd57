"""What Numba makes of the kernels: vector code, and a disk cache that notices every edit."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import numpy as np
import pytest
from dpo.kernels.cpu import _jit, argmax
from dpo.kernels.cpu.perturb import consecutive, noise_words, scores
from dpo.kernels.cpu.simd import CHECK_BOUNDS, LANES, broadcast, load, store, tree_sum
from llvmlite import binding
from numba import njit


@njit
def accumulate(family, like, quads, key, out):
    total = broadcast(np.float32(0))
    for q in range(quads):
        w = noise_words(q, consecutive(0), 0, key)
        s = scores(family, like, w, w, 4)
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
    accumulate(0, out, 4, (np.uint64(1), np.uint64(2), np.uint64(0)), out)
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
    name, stamp, checked = argmax.run._cache._cache_file._source_stamp
    assert name == argmax.__name__ and stamp == _jit.source_stamp()
    assert checked is CHECK_BOUNDS
    original = _jit.Path.read_bytes

    def edited(path):
        return original(path) + (b"# edited" if path.name == "noise.py" else b"")

    monkeypatch.setattr(_jit.Path, "read_bytes", edited)
    assert _jit.source_stamp.__wrapped__() != stamp


EVERY_SHAPE = """
import hashlib, numpy as np, dpo
v = np.random.default_rng(0).standard_normal((70, 600)).astype(np.float32)
digest = hashlib.sha256()
for noise in ("normal", "gumbel", "logistic"):
    for shape in [(1, 1, 1), (70, 5, 3), (2, 33, 257), (40, 600, 8), (2, 600, 40), (1, 9, 5000)]:
        rows, d, m = shape
        layer, theta = dpo.Perturbed(noise=noise, num_samples=m), v[:rows, :d]
        results = [layer(theta, seed=0), layer.max(theta, seed=0), layer.samples(theta, seed=0)]
        results.extend(layer.estimate(theta, of="vjp", direction=theta, seed=0)[:2])
        results.append(layer.jvp(theta, theta, seed=0))
        if d < 50:
            results.extend(layer.estimate(theta, of="jacobian", seed=0)[:2])
            results.append(layer.jacobian(theta, seed=0))
            layer = dpo.Perturbed(dpo.TopK((d + 1) // 2), noise, num_samples=m)
            results += layer.vjp(theta, theta, seed=0), layer.max(theta, seed=0)
            layer = dpo.Perturbed(dpo.ShortestPath(), noise, num_samples=m)
            costs = abs(theta.reshape(rows, 1, d) if d % 3 else theta.reshape(rows, 3, d // 3))
            results += layer.vjp(costs, costs, seed=0), layer.jvp(costs, costs, seed=0)
        layer = dpo.Perturbed(dpo.Ranks(), noise, num_samples=m)
        results += layer.vjp(theta, theta, seed=0), layer.vjp_epsilon(theta, theta, seed=0)
        for x in results:
            digest.update(np.ascontiguousarray(x).tobytes())
print(digest.hexdigest())
"""

OTHER_REGISTERS = """
from numba.core import codegen
true = codegen.get_host_cpu_features
codegen.get_host_cpu_features = lambda: "" if "+avx512f" in true().split(",") else "+avx512f"
from dpo.kernels.cpu import simd
codegen.get_host_cpu_features = true
assert simd.MANY_REGISTERS != ("+avx512f" in true().split(","))
"""


def test_indices_are_in_bounds_and_bits_do_not_depend_on_registers(tmp_path, capsys):
    """Every kernel with every index checked, vector loads and stores included; written as for a
    CPU with AVX-512 if this one has none, and the other way round."""
    checked = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    checked["NUMBA_OPT"] = "1"  # three quarters of the time to compile, and the same bits
    checked.pop("NUMBA_CPU_FEATURES", None)
    command = [sys.executable, "-c", OTHER_REGISTERS + EVERY_SHAPE]
    out = subprocess.run(command, env=checked, capture_output=True, text=True, check=False)
    exec(EVERY_SHAPE, {})
    assert out.stdout == capsys.readouterr().out, out.stderr[-2000:]


@njit
def read_beyond(x):
    store(x, 0, load(x, 1))


def test_the_bounds_check_can_fail():
    code = "import sys; sys.path.insert(0, 'tests'); import numpy, test_compilation as t;"
    code += "t.read_beyond(numpy.zeros(32, numpy.float32))"
    checked = {**os.environ, "NUMBA_BOUNDSCHECK": "1"}
    command = [sys.executable, "-c", code]
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    out = subprocess.run(
        command, env=checked, cwd=root, capture_output=True, text=True, check=False
    )
    assert "IndexError: vector load out of bounds" in out.stderr
