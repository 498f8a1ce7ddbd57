"""Top-k, ranks and shortest paths: launches of the kernels that ``solve.cuh`` runs through.

VALUE, MAXIMUM and VJP use every solution where it is found. The outer products of JVP, JACOBIAN and
MOMENTS need many samples of one coordinate at a time: solutions are then written out, a window of
4096 samples of some rows after another, in a bounded workspace.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..codes import MAXIMUM, VALUE, VJP
from ..user import BoundSolver, Interrupted
from . import user
from .calls import CHUNK, MAX_THREADS, STRANDS, WARP, Array, Call, quads, template

WORKSPACE_BYTES = 2**26
"""Bound on each of two workspaces: the blocks', and a window's solutions (of one row at least)."""

_TASKS = 2**12
"""Tasks that keep a large GPU busy."""
_MAX_BATCH = 64
_FEW_COORDINATES, _COLUMNS = 32, 128
"""Of ``lanes.cuh``."""
_FEW_SAMPLES = 16
"""Below, a block a sample is busier than a thread a sample."""
_CAPACITIES = {"topk": (1024, 4096), "ranks": (64, 256, 1024, 2048), "grid_path": (256, 1156, 4356)}
"""Sizes of what is in shared memory, as kernels are compiled; the last only for float32.

Coordinates, padded to quads; for paths, cells with a halo: up to 64 x 64."""


class Request(NamedTuple):
    """What a launch is asked for, and where it goes."""

    operation: int
    direction: Array | None
    mean: Array | None
    squares: bool
    solutions: Array | None
    counts: Array
    totals: Array


class Wanted(NamedTuple):
    """The pointers of ``Wanted`` in ``solve.cuh``; None is not wanted."""

    counts: Array | None = None
    squares: bool = False
    direction: Array | None = None
    mean: Array | None = None
    weights: Array | None = None
    values: Array | None = None
    solutions: Array | None = None

    def arguments(self, pull: Any) -> tuple[Any, ...]:
        """As kernels take them."""
        counted = self.counts, np.int32(self.squares), self.direction, self.mean
        return *counted, pull, self.weights, self.values, self.solutions


def solve(call: Call, request: Request, threads: int | None) -> None:
    """All of a launch."""
    xp, operation = call.device.xp, request.operation
    call.prepare(call.noise_kind)
    wanted = Wanted(counts=request.counts, squares=request.counts.shape[1] > 1)
    if request.solutions is not None:
        wanted = wanted._replace(solutions=request.solutions)
    if operation == VALUE:
        _run(call, wanted, threads)
        return
    strands = call.strands(request.totals)
    if operation == VJP:
        weights = xp.empty((call.rows, call.num_samples), call.dtype)
        v, mean = map(xp.ascontiguousarray, (request.direction, request.mean))
        _run(call, Wanted(direction=v, mean=mean, weights=weights), threads)
        call.add_vjp(weights, request.squares, strands)
    elif operation == MAXIMUM:
        values = xp.empty((call.rows, call.num_samples), np.float64)
        _run(call, wanted._replace(values=values), threads)
        call.add_maximum(values, strands)
    else:
        for part, first_row in _windows(call):
            here = slice(first_row, first_row + part.rows)
            solutions = xp.empty((part.rows, part.num_samples, part.d), np.int32)
            direction = request.direction
            direction = direction[here] if direction is not None else None
            _run(part, Wanted(counts=request.counts[here], solutions=solutions), threads)
            part.add_solutions(
                operation, "Dense", solutions, direction, request.squares, strands[here]
            )
    call.join(strands, request.totals)


def _windows(call: Call):
    """Parts of a call whose solutions fit the workspace, in the order of their sums."""
    window = STRANDS * CHUNK
    bytes_of_row = 4 * call.d * min(window, call.num_samples)
    rows = max(1, min(call.rows, WORKSPACE_BYTES // bytes_of_row))
    for first_row in range(0, call.rows, rows):
        for first in range(0, call.num_samples, window):
            size = min(rows, call.rows - first_row), min(window, call.num_samples - first)
            part = call.part(first_row, size[0], first, size[1])
            yield part, first_row


def _run(call: Call, wanted: Wanted, threads: int | None) -> None:
    """One launch of the solver's kernel."""
    xp, oracle, d = call.device.xp, call.problem.oracle, call.d
    if call.problem.solver is not None:
        _run_user(call, call.problem.solver, wanted)
        return
    if oracle != "grid_path" and d <= _FEW_COORDINATES and call.num_samples >= _FEW_SAMPLES:
        _run_in_lanes(call, wanted)
        return
    size = _halo_cells(call) if oracle == "grid_path" else 4 * quads(d)
    capacities = _CAPACITIES[oracle][: None if call.real == "float" else -1]
    capacity = next((c for c in capacities if size <= c), 0)
    sorted_words = 1 << (d - 1).bit_length() if oracle == "ranks" and capacity == 0 else 0
    batch = -(-call.rows * call.num_samples // _TASKS)
    batch = min(_MAX_BATCH, max(2, batch + batch % 2))
    bytes_of_block = 24 * d + 16 * sorted_words
    if capacity == 0:
        bytes_of_block += 2 * size * call.theta.itemsize
    if oracle == "grid_path":
        bytes_of_block += 8 * d
    blocks = call.rows * -(-call.num_samples // batch)
    blocks = max(1, min(blocks, WORKSPACE_BYTES // bytes_of_block))
    if threads is None:
        threads = WARP
        while threads < min(MAX_THREADS, quads(d)):
            threads *= 2
    seen = xp.empty((blocks, 4 * quads(d)), call.dtype) if capacity == 0 else None
    extra = _extra(call, blocks, capacity, sorted_words)
    call.run(
        template(oracle, call.draw(call.noise_kind), capacity), blocks, threads,
        call.scores, *call.noise, *call.window, np.int64(call.rows), np.int32(batch),
        *wanted.arguments(call.pull), xp.empty((blocks, 2 * d), np.int32),
        xp.empty((blocks, 2 * d), np.int64), seen, *extra,
    )  # fmt: skip
    if oracle == "grid_path" and bool(extra[-1][0]):
        raise ValueError(
            "theta has an instance without a path of finite cost from source to target: "
            "walls (+inf) separate them, or its costs add up to more than the dtype can hold"
        )


def _run_in_lanes(call: Call, wanted: Wanted) -> None:
    """A thread a sample, where that fills the threads of a warp."""
    threads = min(_COLUMNS, -(-call.num_samples // WARP) * WARP)
    options = tuple(map(np.int32, call.problem.options))
    call.run(
        template(f"{call.problem.oracle}_in_lanes", call.draw(call.noise_kind)),
        call.rows * -(-call.num_samples // threads), threads,
        call.scores, *call.noise, *call.window, np.int64(call.rows), *wanted.arguments(call.pull),
        *options,
    )  # fmt: skip


def _run_user(call: Call, bound: BoundSolver, wanted: Wanted) -> None:
    """A thread a sample, as many as the workspace has room for; see ``user.cu``."""
    xp, d = call.device.xp, call.d
    room_of_thread = 8 * 4 * quads(d) + 4 * d + 8 * bound.work_words
    warps = call.rows * -(-call.num_samples // WARP)
    warps = max(1, min(warps, WORKSPACE_BYTES // (WARP * room_of_thread)))
    threads = WARP * min(warps, user.THREADS // WARP)
    blocks = -(-warps * WARP // threads)
    every = blocks * threads
    layout, shared = xp.asarray(bound.layout), xp.asarray(bound.shared)
    place_words = 0 if call.places is None else call.places.shape[1]
    failed = xp.zeros(1, np.int32)
    call.device.linked(template("user", call.draw(call.noise_kind)), bound.solver)(
        (blocks,), (threads,),
        (
            call.scores, *call.noise, *call.window, np.int64(call.rows),
            *wanted.arguments(call.pull), layout, shared, call.places, np.int64(place_words),
            np.int32(bound.low), np.int32(bound.high), xp.empty((every, 4 * quads(d)), np.float64),
            xp.empty((every, d), np.int32), xp.empty((every, bound.work_words), np.int64),
            np.int64(bound.work_words), failed,
        ),
    )  # fmt: skip
    if bool(failed[0]):
        raise Interrupted


def _halo_cells(call: Call) -> int:
    height, width = call.problem.options[:2]
    return (height + 2) * (width + 2)


def _extra(call: Call, blocks: int, capacity: int, sorted_words: int) -> tuple[Any, ...]:
    """The arguments that only one solver takes."""
    xp, problem = call.device.xp, call.problem
    if problem.oracle == "topk":
        return (np.int32(problem.options[0]),)
    if problem.oracle == "ranks":
        words = xp.empty((blocks, 2 * sorted_words), np.uint64) if sorted_words else None
        return words, np.int32(sorted_words)
    height, width, neighbors, bits = problem.options
    distances = None
    if capacity == 0:
        distances = xp.empty((blocks, _halo_cells(call)), call.dtype)
    return (
        np.int32(height), np.int32(width), np.int32(neighbors),
        call.dtype(np.int64(bits).view(np.float64)), call.places, distances,
        xp.full((blocks, 2 * call.d), -1, np.int32), xp.zeros(1, np.int32),
    )  # fmt: skip
