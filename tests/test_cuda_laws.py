"""The noise laws in CUDA have the bits of ``kernels/exact/laws.py``."""

from __future__ import annotations

import numpy as np
import simt
from dpo.kernels.exact import laws
from dpo.kernels.noise import LOGISTIC
from helpers import FAMILIES

TYPES = {np.float32: "float", np.float64: "double"}
THREADS = 128


def run(kernel, slots, x, family):
    out = np.zeros((slots, len(x)), x.dtype)
    function = simt.Simulator(folder=simt.HERE).function(
        "laws_probe.cu", f"{kernel}<{TYPES[x.dtype.type]}, {family}>"
    )
    function((-(-len(x) // THREADS),), (THREADS,), (x, np.int32(len(x)), out))
    return out


def points(dtype):
    """Both tails, beyond the ends of the format, and where formulas change."""
    edges = [0.0, -0.0, 1e-30, 0.5, 1.0, 4.6, 12.0, 40.0, 86.9, 87.1, 250.0, 299.0, 301.0, 800.0]
    x = np.concatenate([np.linspace(-12, 12, 801), np.geomspace(1e-6, 80, 200), edges])
    return np.concatenate([x, -x]).astype(dtype)


def test_laws_have_the_same_bits(family, dtype):
    code, u = FAMILIES[family], points(dtype)
    if family == "normal":
        u = u[
            np.abs(u) < (12.5 if dtype == np.float32 else 36)
        ]  # no subnormals: the device's are 0
    minus_log, r = laws.hazard(code, u)
    f, above, below = laws.density(code, u)
    expected = [
        minus_log, r, laws.hazard_alone(code, u), laws.hazard_slope(code, u, r),
        laws.hazard_bend(code, u, r), f, above, below, *laws.score(code, u, below),
    ]  # fmt: skip
    np.testing.assert_array_equal(run("law", 10, u, code), expected)


def test_differences_have_the_same_bits(family, dtype):
    """But for the series of logistic noise in float32, whose coefficients NumPy does not round."""
    code, x = FAMILIES[family], points(dtype)
    ours, expected = run("difference", 4, x, code), np.array(laws.difference(code, x))
    if code == LOGISTIC and dtype == np.float32:
        near = np.abs(x) < 1
        np.testing.assert_array_max_ulp(ours[:, near], expected[:, near], 2)
        ours, expected = ours[:, ~near], expected[:, ~near]
    if dtype == np.float32:  # the device has no subnormals, and what they are added to is near them
        least = np.abs(expected) < 1e-34
        assert (np.abs(ours[least]) < 1e-34).all()
        ours, expected = ours[~least], expected[~least]
    np.testing.assert_array_equal(ours, expected)
