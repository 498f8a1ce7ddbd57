"""Perturbed scores, their scores and their noise as arrays, for solvers that are no kernel.

    p[m, b] = what the solver sees (``codes.py``)     s[m, b] = its score     z[m, b] = its noise

A window of samples of every row, with the bits that ``fused.py`` sees. A task is a row; lanes are
samples. Thirty-two samples (256 where d is small) at a time are transposed from lanes to rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..codes import ADDITIVE, MULTIPLICATIVE, SCORE, Draws
from ._jit import jitable, kernel
from .accumulate import CHUNK
from .fused import WIDE, room
from .launch import compiled_family, compiled_key, padded_row_ids
from .layout import compiled_layout
from .perturb import fill
from .simd import LANES, lane_array
from .threads import run_tasks

_NS_PER_COORDINATE = 2.0


@jitable
def scatter(lanes, count, rows):
    """``rows[m, i] = lanes[i, m]``, where there is room."""
    if rows.size > 0:
        for first in range(0, rows.shape[1], 16):  # a block at a time stays in the L1 cache
            for m in range(count):
                for i in range(first, min(first + 16, rows.shape[1])):
                    rows[m, i] = lanes[i, m]


@kernel
def run(begin, end, draw, key, directions, theta, scale, row_ids, first_sample, p, s, z):
    """Rows ``begin .. end - 1`` of ``p``, ``s`` and ``z``, (samples, rows, d) or without room."""
    d = theta.shape[1]
    size = (d + 3) // 4 * 4
    block = CHUNK if d <= WIDE else LANES
    padded, scales = np.zeros(size, theta.dtype), np.ones(size, theta.dtype)
    p_lanes = lane_array(size, block, theta)
    s_lanes = room(s.size > 0, size, block, theta)
    z_lanes = room(z.size > 0, size, block, theta)
    sample, row = np.zeros(1, np.uint64), np.zeros(1, np.uint64)
    for b in range(begin, end):
        row[0] = row_ids[b]
        for i in range(d):
            padded[i] = theta[b, i]
            scales[i] = scale[b, i if scale.shape[1] > 1 else 0]
        for at in range(0, p.shape[0], block):
            count = min(block, p.shape[0] - at)
            sample[0] = first_sample + at
            fill(
                draw, key, directions, sample, row, padded, scales, d, count, p_lanes, s_lanes,
                z_lanes,
            )  # fmt: skip
            scatter(p_lanes, count, p[at:, b])
            scatter(s_lanes, count, s[at:, b])
            scatter(z_lanes, count, z[at:, b])


class Perturbation(NamedTuple):
    """What a window of samples sees, (samples, rows, d) each."""

    p: np.ndarray
    """Perturbed scores."""
    s: np.ndarray
    """The weights of derivatives; (0, rows, d) where they were not asked for."""
    z: np.ndarray
    """The noise; likewise."""


def perturb(
    theta: np.ndarray,
    epsilon: np.ndarray,
    draws: Draws,
    first: int,
    count: int,
    *,
    minimises: bool = False,
    weighting: int = SCORE,
    scores: bool = False,
    noise: bool = False,
) -> Perturbation:
    """Samples ``first .. first + count - 1`` of every row.

    ``theta`` is (rows, d), float32 or float64, ``epsilon`` (rows, 1) or (rows, d). ``minimises``:
    scores are costs, and samples see ``theta - eps z``.
    """
    rows, d = theta.shape
    theta = compiled_layout(theta)
    scale = np.asarray(epsilon, theta.dtype)
    if minimises and not draws.multiplicative:
        scale = -scale
    p, s, z = (
        np.empty((count if wanted else 0, rows, d), theta.dtype) for wanted in (True, scores, noise)
    )
    kind = MULTIPLICATIVE if draws.multiplicative else ADDITIVE
    directions = np.empty((0, 0), np.uint32) if draws.directions is None else draws.directions
    operands = (
        (compiled_family(draws, theta.dtype), kind, draws.design, weighting),
        compiled_key(draws), compiled_layout(directions), theta, compiled_layout(scale),
        padded_row_ids(draws, rows), draws.sample_offset + first, p, s, z,
    )  # fmt: skip
    run_tasks(lambda begin, end: run(begin, end, *operands), rows, _NS_PER_COORDINATE * p.size)
    return Perturbation(p, s, z)
