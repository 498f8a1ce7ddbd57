"""Time of the perturbed top-k and its derivative, float32."""

from __future__ import annotations

from . import common


class Call(common.Call):
    """Few winners among many, as in retrieval, and one in ten."""

    params = [common.NOISES, [(128, 100, 10, 1000), (128, 1000, 10, 200), (4, 32000, 10, 64)]]
    param_names = ["noise", "B_d_k_M"]

    def prepare(self, noise, size):
        rows, d, k, num_samples = size
        return common.prepared(noise, rows, d, num_samples, oracle="TopK", k=k)


class OneThread(common.OneThread):
    """What k costs: 4 million coordinates in every column."""

    params = [common.NOISES, [(4, 1000, k, 1000) for k in (1, 10, 100, 500)]]
    param_names = ["noise", "B_d_k_M"]

    def prepare(self, noise, size):
        rows, d, k, num_samples = size
        return common.prepared(noise, rows, d, num_samples, oracle="TopK", k=k)
