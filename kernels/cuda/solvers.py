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
from .arrays import divided
from .calls import CHUNK, MAX_THREADS, STRANDS, WARP, Array, Call, Record, quads, template

WORKSPACE_BYTES = 2**26
"""Bound on each of two workspaces: the teams', and a window's solutions (of one row at least)."""

_MANY = 2**12
"""Samples that keep a large GPU busy with a warp each."""
_TASKS = {"OneWarp": 2**14, "WholeBlock": 2**12}
"""Tasks that keep it busy to the end."""
_MAX_BATCH = 64
_WARP_THREADS = 128
"""Of a block whose warps solve a sample each."""
_FEW_COORDINATES, _COLUMNS = 32, 128
"""Of ``lanes.cuh``."""
_FEW_SAMPLES = 16
"""Below, a team a sample is busier than a thread a sample."""

# What is in shared memory, as kernels are compiled: coordinates, padded to quads; for paths, cells
# with a halo (16 x 16, 32 x 32 and 64 x 64 fit).
_WARP_LIMIT = {
    "float": {"topk": 1024, "ranks": 1024, "grid_path": 1156},
    "double": {"topk": 512, "ranks": 512, "grid_path": 324},
}
"""What a warp takes where samples are many."""
_SHORT = {"topk": 128, "ranks": 128, "grid_path": 324}
"""What a warp takes though they are few."""
_CAPACITIES = {"topk": (1024, 4096), "ranks": (1024, 2048, 4096), "grid_path": (1156, 4356)}
"""Of blocks; the last only for float32."""

_DOUBT = 1 / 4
"""Part of a row's cells up to which paths have a warm start: those that two neighbours lead to as
cheaply, to within the temperature. By counts of steps, docs/gpu.md."""
_FEWEST_CELLS = 64
"""Of a warm start: a level of the tree is a step, however many threads a team has."""
_SAMPLES_OF_TREES = 2**16
"""Of all rows: finding their trees, side by side, takes as long as some thousands of samples."""
_FEW_ONES = ("topk", "grid_path")
"""Whose solutions are counted one by one (``solve.cuh``)."""


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
    direction: Array | None = None
    mean: Array | None = None
    weights: Array | None = None
    values: Array | None = None
    solutions: Array | None = None

    def record(self, pull: Any) -> Record:
        """As kernels take it."""
        squares = self.counts is not None and self.counts.shape[1] > 1
        return Record((*self, pull, np.int32(squares)))


class Team(NamedTuple):
    """Who solves a sample (``team.cuh``), and where."""

    name: str
    """"OneWarp" or "WholeBlock"."""
    capacity: int
    """Of shared memory; 0 where that is too small."""


class Deal(NamedTuple):
    """How the samples of a launch are dealt out to teams. No result depends on it."""

    blocks: int
    threads: int
    teams: int
    batch: int
    """Samples of a task: whole pairs."""


def solve(call: Call, request: Request, threads: int | None) -> None:
    """All of a launch."""
    xp, operation = call.device.xp, request.operation
    call.prepare(call.noise_kind)
    wanted = Wanted(counts=request.counts)
    if request.solutions is not None:
        wanted = wanted._replace(solutions=request.solutions)
    if operation == VALUE:
        _run(call, wanted, threads)
        return
    strands = call.strands(request.totals, whole=operation == VJP)
    if operation == VJP:
        weights = xp.empty((call.rows, call.num_samples), call.dtype)
        v, mean = xp.ascontiguousarray(request.direction), _rounded(request.mean, call)
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


def _rounded(mean: Array, call: Call) -> Array:
    """In the compute type."""
    if mean.dtype.type is call.dtype:
        return call.device.xp.ascontiguousarray(mean)
    return divided(mean, 1, call.dtype, device=call.device)


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


def team_for(call: Call) -> Team:
    """A warp where samples are short, or many; else a block."""
    oracle, size = call.problem.oracle, 4 * quads(call.d)
    short, longest = _SHORT[oracle], _WARP_LIMIT[call.real][oracle]
    if oracle == "grid_path":
        size = _halo_cells(call)
    many = call.rows * call.num_samples >= _MANY
    if size <= (longest if many else short):
        if oracle == "grid_path":
            return Team("OneWarp", short if size <= short else longest)
        return Team("OneWarp", max(2 * WARP, _power_of_two(size)))
    capacities = _CAPACITIES[oracle][: None if call.real == "float" else -1]
    return Team("WholeBlock", next((c for c in capacities if size <= c), 0))


def deal_for(call: Call, team: Team, threads: int | None) -> Deal:
    """As many teams as have tasks, or as fit the workspace."""
    batch = -(-call.rows * call.num_samples // _TASKS[team.name])
    batch = min(_MAX_BATCH, max(2, batch + batch % 2))
    tasks = call.rows * -(-call.num_samples // batch)
    teams = max(1, min(tasks, WORKSPACE_BYTES // _bytes_of_team(call, team)))
    warps = team.name == "OneWarp"
    if threads is None:
        threads = WARP
        while threads < min(MAX_THREADS, WARP * teams if warps else quads(call.d)):
            threads *= 2
    if not warps:
        return Deal(teams, threads, teams, batch)
    threads = min(threads, _WARP_THREADS)
    blocks = -(-teams * WARP // threads)
    return Deal(blocks, threads, blocks * threads // WARP, batch)


def _run(call: Call, wanted: Wanted, threads: int | None) -> None:
    """One launch of the solver's kernel."""
    oracle, solver = call.problem.oracle, call.problem.solver
    if solver is not None:
        _run_user(call, solver, wanted)
        return
    if oracle != "grid_path" and call.d <= _FEW_COORDINATES and call.num_samples >= _FEW_SAMPLES:
        _run_in_lanes(call, wanted)
        return
    team = team_for(call)
    deal = deal_for(call, team, threads)
    kernel = template(oracle, call.draw(call.noise_kind), *team)
    own = _OWN_ARGUMENTS[oracle](call, team, deal)
    given = call.record, wanted.record(call.pull), _workspace(call, team, deal)
    call.run(kernel, deal.blocks, deal.threads, *given, *own)
    if oracle == "grid_path" and call.failed is None:
        _check_paths(call)


def _run_in_lanes(call: Call, wanted: Wanted) -> None:
    """A thread a sample, where that fills the threads of a warp."""
    threads = min(_COLUMNS, -(-call.num_samples // WARP) * WARP)
    kernel = template(f"{call.problem.oracle}_in_lanes", call.draw(call.noise_kind))
    blocks = call.rows * -(-call.num_samples // threads)
    own = map(np.int32, call.problem.options)
    call.run(kernel, blocks, threads, call.record, wanted.record(call.pull), *own)


def _bytes_of_team(call: Call, team: Team) -> int:
    """Of the workspace, and of the solver's own."""
    d, oracle, shared = call.d, call.problem.oracle, team.capacity > 0
    size = 8 * d + (0 if shared else 4 * quads(d) * call.theta.itemsize)
    if oracle not in _FEW_ONES:
        size += 16 * d
    if oracle == "ranks" and not shared:
        size += 16 * _power_of_two(d)
    if oracle == "grid_path":
        size += 8 * d + (0 if shared else _halo_cells(call) * call.theta.itemsize)
    return size


def _workspace(call: Call, team: Team, deal: Deal) -> Record:
    """``Workspace`` of ``solve.cuh``."""
    xp, teams, d = call.device.xp, deal.teams, call.d
    seen = None if team.capacity else xp.empty((teams, 4 * quads(d)), call.dtype)
    sums = None if call.problem.oracle in _FEW_ONES else xp.empty((teams, 2 * d), np.int64)
    return Record((xp.empty((teams, 2 * d), np.int32), sums, seen, np.int32(deal.batch)))


# ---------------------------------------------------------------------- what one solver alone takes


def _of_topk(call: Call, team: Team, deal: Deal) -> tuple[Any, ...]:
    return (np.int32(call.problem.options[0]),)


def _of_ranks(call: Call, team: Team, deal: Deal) -> tuple[Any, ...]:
    """Words to sort, where shared memory is too small."""
    n = _power_of_two(call.d)
    words = None if team.capacity else call.device.xp.empty((deal.teams, 2 * n), np.uint64)
    return words, np.int32(n)


def _of_paths(call: Call, team: Team, deal: Deal) -> tuple[Any, ...]:
    """``Grids`` of ``grid_path.cu``, and whether a path was missing."""
    xp = call.device.xp
    height, width, neighbors, bits = call.problem.options
    distances = None if team.capacity else xp.empty((deal.teams, _halo_cells(call)), call.dtype)
    scratch = xp.empty((deal.teams, 2 * call.d), np.int32)
    limit = _cells_in_doubt(call, team)
    trees = None if limit is None else xp.empty((call.rows, call.d), np.uint64)
    shape = np.int32(height), np.int32(width), np.int32(neighbors)
    least = call.dtype(np.int64(bits).view(np.float64))
    grids = Record((call.places, distances, scratch, trees, *shape, least))
    if trees is not None:
        kernel = template("path_trees", call.draw(call.noise_kind), team.capacity)
        threads = min(MAX_THREADS, -(-call.d // WARP) * WARP)
        call.run(kernel, call.rows, threads, call.record, grids, np.int32(limit))
    return grids, _failed(call)


def _cells_in_doubt(call: Call, team: Team) -> int | None:
    """Of a row that has a warm start, at most; None where no row has one.

    Unless forced not of grids that a block has: their trees take far longer than they save. Never
    in global memory: a tree has 16 bits for the place of a cell.
    """
    if call.warm_start is False or not team.capacity:
        return None
    if call.warm_start:
        return call.d
    enough = call.d >= _FEWEST_CELLS and call.rows * call.num_samples >= _SAMPLES_OF_TREES
    return int(call.d * _DOUBT) if enough and team.name == "OneWarp" else None


_OWN_ARGUMENTS = {"topk": _of_topk, "ranks": _of_ranks, "grid_path": _of_paths}


def _run_user(call: Call, bound: BoundSolver, wanted: Wanted) -> None:
    """A thread a sample, as many as the workspace has room for; see ``user.cu``."""
    d = call.d
    bytes_of_thread = 8 * 4 * quads(d) + 4 * d + 8 * bound.work_words
    warps = call.rows * -(-call.num_samples // WARP)
    warps = max(1, min(warps, WORKSPACE_BYTES // (WARP * bytes_of_thread)))
    threads = WARP * min(warps, user.THREADS // WARP)
    blocks = -(-warps * WARP // threads)
    failed = _failed(call)
    room, instances = _room(call, bound, blocks * threads), _instances(call, bound)
    kernel = call.device.linked(template("user", call.draw(call.noise_kind)), bound.solver)
    kernel((blocks,), (threads,), (call.record, wanted.record(call.pull), room, instances, failed))
    if call.failed is None and call.device.flag().raised():
        raise Interrupted


def _room(call: Call, bound: BoundSolver, threads: int) -> Record:
    """``Room`` of ``user.cu``."""
    xp, words = call.device.xp, bound.work_words
    seen = xp.empty((threads, 4 * quads(call.d)), np.float64)
    solutions = xp.empty((threads, call.d), np.int32)
    return Record((seen, solutions, xp.empty((threads, words), np.int64), np.int64(words)))


def _instances(call: Call, bound: BoundSolver) -> Record:
    """``Instances`` of ``user.cu``. What all share may be other numbers in every call."""
    layout, shared = call.device.constant(bound.layout), call.device.xp.asarray(bound.shared)
    place_words = 0 if call.places is None else call.places.shape[1]
    bounds = np.int32(bound.low), np.int32(bound.high)
    return Record((layout, shared, call.places, np.int64(place_words), *bounds))


def _halo_cells(call: Call) -> int:
    height, width = call.problem.options[:2]
    return (height + 2) * (width + 2)


def _power_of_two(n: int) -> int:
    """The least at or above n."""
    return 1 << (n - 1).bit_length()


def _failed(call: Call) -> Array:
    """Where kernels note that a sample has no solution."""
    return call.device.flag().array if call.failed is None else call.failed


def _check_paths(call: Call) -> None:
    """Wait for the device, and see whether a path was missing."""
    if call.device.flag().raised():
        raise ValueError(
            "theta has an instance without a path of finite cost from source to target: "
            "walls (+inf) separate them, or its costs add up to more than the dtype can hold"
        )
