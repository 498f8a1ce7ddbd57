"""Time of the perturbed grid shortest path and its derivative, float32, on terrain costs."""

from __future__ import annotations

from . import common


class Call(common.Call):
    """A training batch of the Warcraft experiment, with one sample and a hundred, and larger maps.

    Nothing is large here but the work: at M = 1 a call is launch and checks as well.
    """

    params = [
        ["normal", "gumbel"],
        [(70, (12, 12), 1), (70, (12, 12), 100), (70, (30, 30), 100)],
    ]
    param_names = ["noise", "B_HW_M"]

    def prepare(self, noise, size):
        return common.prepared(noise, *size, oracle="ShortestPath")


class OneThread(common.OneThread):
    """About a million cells in every column; four neighbours are half the edges of eight."""

    params = [
        ["normal", "gumbel"],
        [
            (35, (12, 12), 200, 8),
            (35, (12, 12), 200, 4),
            (6, (30, 30), 200, 8),
            (1, (100, 100), 100, 8),
        ],
    ]
    param_names = ["noise", "B_HW_M_neighbors"]

    def prepare(self, noise, size):
        *size, neighbors = size
        return common.prepared(noise, *size, oracle="ShortestPath", neighbors=neighbors)
