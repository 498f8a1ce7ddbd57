"""Time and error of exact expectations."""

from __future__ import annotations

import numpy as np

from . import common

try:
    import dpo
except ImportError:
    dpo = None

CASES = {
    "argmax": (("Argmax", {}), (128, 10), (16, 1000), (2, 32000)),
    "topk": (("TopK", {"k": 10}), (16, 100), (2, 1000)),
    "ranks": (("Ranks", {}), (128, 10), (16, 100), (4, 5000)),
}
SIZES = [f"{name}, {rows} x {d}" for name, (_, *sizes) in CASES.items() for rows, d in sizes]


def prepared(case: str, noise: str, dtype: str):
    """A layer that has been called, and its inputs."""
    if not hasattr(dpo, "Perturbed") or "tolerance" not in dpo.Perturbed.__dataclass_fields__:
        raise NotImplementedError("this commit has no method='exact'")
    name, size = case.split(", ")
    rows, d = map(int, size.split(" x "))
    oracle, parameters = CASES[name][0]
    layer = dpo.Perturbed(getattr(dpo, oracle)(**parameters), noise, epsilon=1.0, method="exact")
    theta, v = np.random.default_rng(0).standard_normal((2, rows, d)).astype(dtype)
    layer(theta[:1])
    layer.vjp(theta[:1], v[:1])
    return layer, theta, v


class Call:
    """What a call takes as users make it: all threads, everything included."""

    params = [SIZES, common.NOISES, ["float32", "float64"]]
    param_names = ["rows_x_d", "noise", "dtype"]

    def setup(self, case, noise, dtype):
        self.layer, self.theta, self.v = prepared(case, noise, dtype)

    def time_value(self, case, noise, dtype):
        self.layer(self.theta)

    def time_vjp(self, case, noise, dtype):
        self.layer.vjp(self.theta, self.v)


class Error:
    """What float32 loses: the largest error of a value, over the largest value."""

    params = [SIZES, common.NOISES]
    param_names = ["rows_x_d", "noise"]
    unit = "relative"

    def setup(self, case, noise):
        self.layer, self.theta, _ = prepared(case, noise, "float32")

    def track_float32_error(self, case, noise):
        truth = self.layer(self.theta.astype(np.float64))
        return float(np.abs(self.layer(self.theta) - truth).max() / np.abs(truth).max())
