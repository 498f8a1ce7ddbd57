"""Launch the CPU kernels: allocate, split into tasks, map over threads, add up the strands."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import argmax, argmax_rows
from .accumulate import CHUNK, JACOBIAN, JVP, MAXIMUM, STRANDS, VALUE, VJP
from .simd import LANES
from .threads import get_num_threads, run_tasks

_NS_PER_COORDINATE = 1.0
_STRAND_BYTES = 1 << 26  # bound on the partial sums of rows that are split over threads


class Sums(NamedTuple):
    """What a launch accumulated, row by row."""

    counts: np.ndarray
    """(rows, d) int64: how often each coordinate won; zero for ``vjp``, which has no use for it."""
    total: np.ndarray
    """(rows, k) float64: the operation's sum."""
    total_of_squares: np.ndarray
    """(rows, k) float64: the sum of its squared terms, where asked for or free."""


def perturbed_argmax(
    theta: np.ndarray,
    *,
    epsilon: float,
    family: int,
    seed: tuple[int, int],
    num_samples: int,
    operation: int = VALUE,
    direction: np.ndarray | None = None,
    mean: np.ndarray | None = None,
    decided: np.ndarray | None = None,
    squares: bool = False,
    sample_offset: int = 0,
    row_offset: int = 0,
) -> Sums:
    """One launch of ``kernels/cpu/argmax.py``; its docstring defines what each operation sums.

    ``theta``, ``direction`` and ``mean`` are (rows, d), float32 or float64, all of one dtype.
    ``decided``, (rows, num_samples) int32, is where ``VALUE`` leaves the winner of every sample;
    a ``VJP`` of the same samples that is given it need not decide again.

    ``sample_offset`` and ``row_offset`` shift the noise's coordinates, so a call can be split by
    samples or by rows: integer results add up exactly.
    """
    rows, d = theta.shape
    size = _total_size(operation, d)
    slots = 2 if squares or operation in (MAXIMUM, JVP) else 1
    parts = _parts(rows, num_samples, (slots * size + d) * 8)
    by_rows = _lanes_are_rows(rows, num_samples, operation)
    num_tasks = -(-rows // LANES) if by_rows else rows * parts
    counts = np.zeros((rows * parts, d), np.int64)
    sums = np.zeros((rows * parts, slots, size), np.float64)
    theta = _compiled_layout(theta)
    empty = np.empty((0, 0), theta.dtype)
    direction = empty if direction is None else _compiled_layout(direction)
    mean = empty if mean is None else _compiled_layout(mean)
    decided = np.empty((0, 0), np.int32) if decided is None else decided
    key = np.uint64(seed[0]), np.uint64(seed[1])
    scale = theta.dtype.type(epsilon)

    operands = operation, squares, theta, scale, family, key
    where = num_samples, sample_offset, row_offset, direction, mean, decided, counts, sums
    if by_rows:

        def tasks(begin: int, end: int) -> None:
            argmax_rows.run(begin, end, *operands, *where)

    else:

        def tasks(begin: int, end: int) -> None:
            argmax.run(begin, end, parts, *operands, *where)

    run_tasks(tasks, num_tasks, _NS_PER_COORDINATE * rows * num_samples * d)
    if parts > 1:
        counts = counts.reshape(rows, parts, d).sum(1)
        sums = _add_in_order(sums.reshape(rows, parts, slots, size))
    return Sums(counts, sums[:, 0], sums[:, slots - 1])


def _total_size(operation: int, d: int) -> int:
    sizes = {VALUE: 0, MAXIMUM: 1, VJP: d, JVP: d}
    return d * d if operation == JACOBIAN else sizes[operation]


def _parts(rows: int, num_samples: int, bytes_per_part: int) -> int:
    """Strands a row is split into: all where rows alone cannot keep the threads busy, else one."""
    threads = get_num_threads()
    split_pays = threads > 1 and rows < 2 * threads and num_samples > CHUNK
    fits = rows * STRANDS * bytes_per_part <= _STRAND_BYTES
    return STRANDS if split_pays and fits else 1


def _lanes_are_rows(rows: int, num_samples: int, operation: int) -> bool:
    """Whether ``argmax_rows`` fills more lanes: few samples, many rows. Same results."""
    supported = operation in (VALUE, MAXIMUM, VJP) and num_samples <= argmax_rows.MAX_SAMPLES
    return supported and -(-rows // LANES) * num_samples < rows


def _add_in_order(strands: np.ndarray) -> np.ndarray:
    """Sum over axis 1 in index order: the same additions as when one task runs all strands."""
    total = np.zeros_like(strands[:, 0])
    for k in range(strands.shape[1]):
        total += strands[:, k]
    return total


class _Writable:
    """Presents a read-only array's memory as writable, without a copy.

    Numba compiles read-only arrays as another type; the kernels never write to their inputs.
    """

    def __init__(self, array: np.ndarray):
        self.array = array
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface


def _compiled_layout(array: np.ndarray) -> np.ndarray:
    array = np.ascontiguousarray(array)
    return array if array.flags.writeable else np.asarray(_Writable(array))
