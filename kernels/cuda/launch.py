"""Launch the CUDA kernels: choose instances and grids, allocate, launch, join strands.

``launch`` is called as that of ``kernels/cpu/launch.py`` (but keeps no ``scores``), with device
arrays in and out, and leaves the same sums: decisions and counts equal the CPU's bit for bit
(``precision="portable"``), float sums where its docstring says so.

**Workspace.** Scores padded to quads, (rows, d), and for the argmax a limit of random words each
(``reject.cuh``); eight bytes a cell of rows whose paths may have a warm start (``grid_path.cu``);
one winner, weight or value a sample, (rows, M); partial sums, (rows, 16, size) float64 where
M > 256; ``solvers.py`` adds at most 128 MB, or one row's 4096 solutions. Nothing of size
rows x M x d.

**Graphs.** A launch that was made before copies nothing from the host and waits for nothing, so a
graph can capture it (allocate from a pool that lives as long as the graph). ``draws.seed`` may be a
device array of two uint32: kernels read it when they run, so a replay can have other noise. So must
``draws.row_ids``, ``problem.places`` and ``problem.solver.shared`` be, where there are any: what
the host has is copied at every launch. Paths and users' oracles wait for the device, to tell when
there is no path or the function failed, unless they have an array to note it in, ``failed``.
"""

from __future__ import annotations

import functools as ft
from typing import NamedTuple

import numpy as np

from ..codes import (
    INDEPENDENT,
    MAXIMUM,
    MOMENTS,
    MULTIPLICATIVE,
    RACE,
    SCORE,
    VALUE,
    VJP,
    Draws,
    Problem,
)
from ..noise import GUMBEL, LOGISTIC, NORMAL
from ..user import Interrupted
from . import solvers
from .arrays import all_finite, all_within, apply_slope, divided, filled, has_nan
from .calls import MAX_THREADS, WARP, Array, Call, Device, or_current, quads, template

__all__ = [
    "Plan", "Sums", "all_finite", "all_within", "apply_slope", "divided", "filled", "has_nan",
    "launch", "new_memo", "plan_for",
]  # fmt: skip

_BUSY = 2**18
"""Threads that keep a large GPU busy; with fewer samples than this, several threads share one."""

_DEPTH = 6.0
"""Of early rejection: one sample in 400 is evaluated in full, the others at some six coordinates,
and the busiest of a warp's thirty-two at twelve."""
_SHORTEST = {NORMAL: 64, LOGISTIC: 64, GUMBEL: 96}
"""Coordinates from which it pays, for portable float32 noise."""


class Sums(NamedTuple):
    """What a launch accumulated, row by row, on the device."""

    counts: Array
    """(rows, 1 or 2, d) int64: ``sum y`` and, where asked for, ``sum y^2`` unless it is the same;
    zero for a VJP."""
    totals: Array
    """(rows, slots, size) float64: the operation's sums, see ``accumulate.cu``."""


class Plan(NamedTuple):
    """How samples are dealt out. No result depends on it."""

    threads: int
    """Of a block."""
    team: int
    """Threads that share a sample of an argmax: a power of two, at most ``threads``."""
    depth: float | None = None
    """Early rejection of an argmax (``reject.cuh``) at levels that one sample in exp(depth) falls
    short of: 0 for all of them, inf for none. None to evaluate every coordinate."""
    warm_start: bool | None = None
    """Whether paths are relaxed from what the tree of the row's own paths costs (``grid_path.cu``);
    None for where it pays. Never for grids in global memory."""

    @property
    def batch(self) -> int:
        """Samples of a block: whole pairs."""
        return max(2, self.threads // self.team)


@ft.lru_cache
def plan_for(rows: int, d: int, num_samples: int) -> Plan:
    """A thread a sample, or several where samples are few and long."""
    team = 1
    while rows * num_samples * team < _BUSY and team < MAX_THREADS and 8 * team < quads(d):
        team *= 2
    threads = WARP
    while threads < min(MAX_THREADS, max(team, num_samples * team)):
        threads *= 2
    return Plan(threads, team)


def launch(
    problem: Problem,
    theta: Array,
    epsilon: Array,
    draws: Draws,
    operation: int = VALUE,
    *,
    direction: Array | None = None,
    mean: Array | None = None,
    memo: Array | None = None,
    solutions: Array | None = None,
    squares: bool = False,
    weighting: int = SCORE,
    precision: str = "portable",
    device: Device | None = None,
    plan: Plan | None = None,
    failed: Array | None = None,
) -> Sums:
    """One launch; ``kernels/cpu/launch.py`` says what the arguments are.

    ``precision="fast"`` draws float32 noise by special-function units (``fast32.cuh``). ``device``
    is CuPy's current one unless given. ``failed``, (1,) int32 on the device, is set to 1 where an
    instance has no path or a user's function failed, and never to 0; the sums are then void. With
    it nothing is raised for that and nothing waits, which a graph under capture needs: look at it
    after a replay. ``mean`` may be float64, whatever theta is: it is rounded.

    Counts, JVP, JACOBIAN and MOMENTS are the CPU's to the last bit, and so is the VJP of an argmax
    with independent samples and one temperature a row. Other VJPs and the MAXIMUM differ from the
    CPU's in the last bits, since <v, y> and the values are added up in another order; so does a VJP
    of at most eight samples, which the CPU adds in order.
    """
    device = or_current(device)
    may_fail = problem.oracle == "grid_path" or problem.solver is not None
    if may_fail and failed is None and device.capturing:
        raise RuntimeError(
            "a graph is being captured, and whether every instance has a solution cannot be told "
            "before it runs: pass failed=, an int32 array on the device that is set to 1 where one "
            "has none, and look at it after a replay"
        )
    call = Call(problem, theta, epsilon, draws, weighting, precision, device)
    call.failed = failed
    argmax = problem.oracle == "argmax"
    many = squares and operation == VALUE and (call.paired or not argmax)  # else y^2 = y
    size = call.rows, 1 + many, call.d
    if operation == VJP:
        counts = device.filled(size, 0, np.int64)
    else:
        counts = device.xp.zeros(size, np.int64)
    # Whole, by the kernel that joins strands or by that of a VJP.
    written = operation in (VALUE, VJP) or call.parts > 1
    make = device.xp.empty if written else device.xp.zeros
    totals = make((call.rows, *call.slots_and_size(operation, squares)), np.float64)
    if call.rows > 0:
        request = solvers.Request(operation, direction, mean, squares, solutions, counts, totals)
        if argmax:
            _argmax(call, request, memo, plan)
        else:
            call.warm_start = plan.warm_start if plan else None
            _solve(call, request, plan.threads if plan else None)
    return Sums(counts, totals)


def _solve(call: Call, request: solvers.Request, threads: int | None) -> None:
    try:
        solvers.solve(call, request, threads)
        return
    except Interrupted:
        error = _first_failure(call)
    raise error


def _first_failure(call: Call) -> Exception:
    """Where and why a user's solver failed, found on the CPU: the noise is the same."""
    from ..cpu import launch as cpu

    def host(array):
        if array is None:
            return None
        return array.get() if hasattr(array, "get") else np.asarray(array)

    bound = call.problem.solver._replace(shared=host(call.problem.solver.shared))
    problem = call.problem._replace(places=host(call.problem.places), solver=bound)
    draws, seed = call.draws, call.draws.seed
    if not isinstance(seed, tuple):
        seed = tuple(int(word) for word in host(seed))
    draws = draws._replace(seed=seed, row_ids=host(draws.row_ids))
    return cpu.first_failure(problem, host(call.theta), np.abs(host(call.scale)), draws)


def new_memo(
    problem: Problem, theta: Array, epsilon: Array, draws: Draws, device: Device | None = None
) -> Array | None:
    """Room for what every sample decided: (rows, num_samples) int32; None but for the argmax."""
    if problem.oracle != "argmax":
        return None
    device = or_current(device)
    return device.xp.empty((len(theta), draws.num_samples), np.int32)


# ------------------------------------------------------------------------------------- the argmax


def kind_for(call: Call, operation: int) -> int:
    """How noise meets scores: the CPU's choice, so that its decisions are the same."""
    race = call.draws.family == GUMBEL and not call.per_coordinate and call.weighting == SCORE
    needs_z = operation == MOMENTS
    if operation == MAXIMUM:
        needs_z = call.draws.design != INDEPENDENT
    race = race and not needs_z and not call.draws.multiplicative
    return RACE if race else call.noise_kind


def _depth(call: Call, kind: int) -> float | None:
    """Of early rejection, where it pays: for enough coordinates, whose levels enough samples use.

    The sizes are those from which fewer instructions are executed (``benchmarks/cuda_bounds.py``),
    and enough samples to make up for a row's level, which one block finds: 8 ns a coordinate.
    """
    family, independent = call.draws.family, call.draws.design == INDEPENDENT
    if not isinstance(family, int) or kind == MULTIPLICATIVE or call.problem.minimises:
        return None
    if call.fast and family == NORMAL and independent:
        return None  # Box-Muller: one of its two words alone says too little
    shortest = 32 if call.real == "double" else 512 if call.fast else _SHORTEST[family]
    many = call.num_samples >= 32 and call.rows * call.num_samples >= 2**13
    pays = call.d >= shortest and many
    return _DEPTH if pays and call.d < 2**30 else None


def rejecting_plan(call: Call, kind: int) -> Plan:
    """``plan_for`` a call, and early rejection where it pays."""
    return plan_for(call.rows, call.d, call.num_samples)._replace(depth=_depth(call, kind))


def _argmax(call: Call, request: solvers.Request, memo: Array | None, plan: Plan | None) -> None:
    xp, operation = call.device.xp, request.operation
    kind = kind_for(call, operation)
    if plan is None:
        plan = rejecting_plan(call, kind)
    decides = operation != VJP or memo is None
    if decides or call.per_coordinate:
        call.prepare(kind, plan.depth if decides else None)
    winners = memo
    if winners is None and (operation != VALUE or request.solutions is not None):
        winners = xp.empty((call.rows, call.num_samples), np.int32)
    if decides:
        counts = request.counts
        if operation == VJP:  # which is not asked for them
            counts = xp.zeros(counts.shape, np.int64)
        decide(call, kind, winners, counts, plan)
    if request.solutions is not None:
        problems = call.rows * call.num_samples
        blocks = -(-problems * call.d // MAX_THREADS)
        given = winners, np.int64(problems), np.int32(call.d), request.solutions
        call.run("one_hot", blocks, MAX_THREADS, *given)
    if operation == VALUE:
        return
    strands = call.strands(request.totals, whole=operation == VJP)
    draw = call.draw(call.noise_kind)
    if operation == VJP:
        weights = xp.empty((call.rows, call.num_samples), call.dtype)
        v, mean = map(xp.ascontiguousarray, (request.direction, request.mean))
        given = winners, v, mean, *call.sizes, call.pull
        kernel = template("weigh", draw, "double" if mean.dtype == np.float64 else call.real)
        call.by_sample(kernel, weights, *given)
        call.add_vjp(weights, request.squares, strands)
    elif operation == MAXIMUM:
        values = xp.empty((call.rows, call.num_samples), np.float64)
        given = call.record, winners, call.theta, np.int64(call.d)
        call.by_sample(template("perturbed_values", draw, "double"), values, *given)
        call.add_maximum(values, strands)
    else:
        call.add_solutions(
            operation, "OneHot", winners, request.direction, request.squares, strands
        )
    call.join(strands, request.totals)


def decide(call: Call, kind: int, winners: Array | None, counts: Array | None, plan: Plan) -> None:
    """Who wins every sample of prepared scores, written to what is not None."""
    batches = -(-call.num_samples // plan.batch)
    squares = counts is not None and counts.shape[1] > 1
    call.run(
        template("decide", call.draw(kind), plan.depth is not None),
        call.rows * batches, plan.threads, call.record,
        np.int32(plan.batch), np.int32(batches), np.int32(plan.team),
        np.int32(squares), call.levels, call.limits, winners, counts,
    )  # fmt: skip
