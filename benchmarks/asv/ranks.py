"""Time of the perturbed ranks and their derivative, float32: d log d work a sample, not d."""

from __future__ import annotations

from . import common


class Call(common.Call):
    """Many small rows, the middle, few wide rows: a sort is cheap, then in cache, then large."""

    params = [common.NOISES, [(128, 10, 1000), (128, 100, 1000), (16, 1000, 200)]]
    param_names = ["noise", "B_d_M"]

    def prepare(self, noise, size):
        return common.prepared(noise, *size, oracle="Ranks")


class OneThread(common.OneThread):
    """Every d has 2 million coordinates: the growth along a row is that of the sort."""

    params = [common.NOISES, [(200, 10, 1000), (20, 100, 1000), (10, 1000, 200), (2, 10000, 100)]]
    param_names = ["noise", "B_d_M"]

    def prepare(self, noise, size):
        return common.prepared(noise, *size, oracle="Ranks")
