"""One launch's arrays on the device, and the kernels that every oracle shares.

Kernels write what they are given; nothing here waits for the device.
"""

from __future__ import annotations

import copy
import functools as ft
import struct
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from ..codes import (
    ADDITIVE,
    JACOBIAN,
    JVP,
    MAXIMUM,
    MOMENTS,
    MULTIPLICATIVE,
    RACE,
    VALUE,
    VJP,
    Draws,
    Problem,
)
from ..noise import TABULATED
from ..user import Solver

CHUNK, STRANDS = 256, 16
"""Of the fixed summation tree (``accumulate.cuh``)."""

MAX_THREADS = 256
WARP = 32
_BLOCKS = 2**10
"""That keep a large GPU busy."""
FILES = {
    kernel: file
    for file, kernels in {
        "argmax.cu": "prepare decide weigh perturbed_values one_hot",
        "accumulate.cu": "vjp score_products jvp jacobian moments maximum add_strands",
        "topk.cu": "topk topk_in_lanes",
        "ranks.cu": "ranks ranks_in_lanes",
        "grid_path.cu": "grid_path path_trees",
        "shard.cu": "best_k merge_best count_winners project",
    }.items()
    for kernel in kernels.split()
}
"""Where a kernel is."""

TYPES = {
    np.float32: "float", np.float64: "double", np.int64: "i64", np.uint32: "u32", np.uint64: "u64",
}  # fmt: skip
"""As C++ spells them."""

Array = Any
Kernel = Callable[[tuple[int], tuple[int], Sequence[Any]], None]


class Record(tuple):
    """Arguments that a kernel takes as one struct: its fields in order, None for a null pointer."""


def fields(arguments: Sequence[Any]) -> list[Any]:
    """The arguments of a kernel, with the fields of its structs in their place."""
    found: list[Any] = []
    for x in arguments:
        if type(x) is Record:
            found.extend(x)
        else:
            found.append(x)
    return found


def layout(arguments: Sequence[Any]) -> struct.Struct:
    """Where C++ puts the ``fields`` of the arguments; one of them is a NumPy scalar or an address.

    A struct begins and ends where an integer of eight bytes could.
    """
    codes = []
    for x in arguments:
        inner = "".join(map(_code, x)) if type(x) is Record else None
        codes.append(_code(x) if inner is None else f"0q{inner}0q")
    return struct.Struct(f"@{''.join(codes)}")


def _code(x: Any) -> str:
    return x.dtype.char if isinstance(x, np.generic) else "P"


class Flag(Protocol):
    """One int32 that kernels set where something is amiss."""

    array: Array

    def raised(self) -> bool:
        """Wait for the device; whether the flag was set, and lower it."""


class Device(Protocol):
    """What launches need of a device: ``device.py`` is CuPy's, the tests have a simulated one."""

    xp: Any
    """The array module: ``empty``, ``zeros``, ``full``, ``arange``, ``asarray``, ..."""

    @property
    def capturing(self) -> bool:
        """Whether a graph records launches instead of running them."""

    def constant(self, values: np.ndarray) -> Array:
        """An array that kernels read, copied to the device at its first use only, and kept."""

    def filled(self, shape: tuple[int, ...], value: float, dtype: type) -> Array:
        """An array of one number that nobody writes to."""

    def flag(self) -> Flag:
        """A lowered flag, to be left so: the one of this thread."""

    def function(self, file: str, kernel: str) -> Kernel:
        """A kernel by name and template arguments, to be called with (grid, block, arguments).

        An argument is an array, None for a null pointer, a NumPy scalar, or a ``Record``.
        """

    def linked(self, kernel: str, solver: Solver) -> Kernel:
        """A kernel of ``user.cu`` with a user's function in it."""


def or_current(device: Device | None) -> Device:
    """The device, by default CuPy's current one."""
    if device is None:
        from .device import current

        return current()
    return device


def quads(d: int) -> int:
    """Philox blocks of a row."""
    return -(-d // 4)


@ft.lru_cache(maxsize=4096, typed=True)
def template(name: str, *arguments: Any) -> str:
    """``name<arguments...>`` as C++ spells it."""
    spelled = [str(a).lower() if isinstance(a, bool) else str(a) for a in arguments]
    return f"{name}<{', '.join(spelled)}>"


def noise_data(draws: Draws, dtype: type) -> np.ndarray | None:
    """What noise reads from memory: the table of a family, then the numbers of Sobol' points."""
    data = []
    if not isinstance(draws.family, int):
        data.append(draws.family.table(dtype).reshape(-1).view(np.uint32))
    if draws.directions is not None:
        data.append(draws.directions.reshape(-1))
    return np.concatenate(data) if data else None


class Call:
    """A problem's rows and samples on the device, and a method for each shared kernel."""

    scores: Array | None = None
    """What decisions compare, once prepared."""
    failed: Array | None = None
    """Where kernels note that a sample has no solution, if the caller looks itself."""
    warm_start: bool | None = None
    """Of paths: forced on or off; None for where it pays."""

    def __init__(
        self,
        problem: Problem,
        theta: Array,
        epsilon: Array,
        draws: Draws,
        weighting: int,
        precision: str,
        device: Device,
    ):
        xp = device.xp
        self.problem, self.draws, self.weighting, self.device = problem, draws, weighting, device
        self.theta = xp.ascontiguousarray(theta)
        self.rows, self.d = self.theta.shape
        self.num_samples, self.first_sample = draws.num_samples, draws.sample_offset
        self.first_quad = draws.first_quad
        self.dtype = self.theta.dtype.type
        self.real = TYPES[self.dtype]
        self.fast = precision == "fast" and self.real == "float"
        self.paired = draws.is_paired
        scale = xp.asarray(epsilon, self.dtype)
        if problem.minimises and not draws.multiplicative:
            scale = -scale
        self.scale = self.padded_scale = xp.ascontiguousarray(scale)
        self.per_coordinate = self.scale.shape[1] > 1
        self.pull = self.dtype(draws.pull)
        self.parts = min(STRANDS, -(-draws.num_samples // CHUNK))
        host_seed = isinstance(draws.seed, tuple)
        self.seed = None if host_seed else draws.seed
        self.seed_words = tuple(map(np.uint32, draws.seed if host_seed else (0, 0)))
        self.row_ids = None if draws.row_ids is None else xp.asarray(draws.row_ids, np.int64)
        places = problem.places
        self.places = None if places is None else xp.asarray(places, np.int64)
        data = noise_data(draws, self.dtype)
        self.noise_data = None if data is None else device.constant(data)
        self.digits = 0 if draws.directions is None else draws.directions.shape[1]

    def part(self, first_row: int, rows: int, first: int, num_samples: int) -> Call:
        """Some of the rows and, from a multiple of 4096 on, of the samples, with the same noise.

        Its sums join the same strands: sixteen chunks are one of every strand.
        """
        part, here = copy.copy(self), slice(first_row, first_row + rows)
        part.rows, part.num_samples = rows, num_samples
        part.first_sample = self.first_sample + first
        part.theta, part.scale = self.theta[here], self.scale[here]
        part.scores, part.padded_scale = self.scores[here], self.padded_scale[here]
        part.places = None if self.places is None else self.places[here]
        row_ids = self.row_ids
        if row_ids is None:
            row_ids = self.device.xp.arange(self.rows, dtype=np.int64)
        part.row_ids = row_ids[here]
        return part

    def columns(self, first: int, d: int) -> Call:
        """Some of the coordinates, from a multiple of four on, for kernels that see no scores."""
        part = copy.copy(self)
        part.first_quad, part.d = self.first_quad + first // 4, d
        return part

    @property
    def record(self) -> Record:
        """``Rows`` of ``row.cuh``."""
        sizes = np.int64(self.rows), np.int64(self.num_samples)
        first = np.uint32(self.first_sample), np.uint32(self.first_quad)
        return Record(
            (
                self.scores, self.padded_scale, self.seed, self.noise_data, self.row_ids,
                *self.seed_words, *sizes, *first, np.int32(self.d), np.int32(self.digits),
            )
        )  # fmt: skip

    @property
    def sizes(self) -> tuple[Any, ...]:
        return np.int32(self.d), np.int64(self.num_samples)

    def draw(self, kind: int) -> str:
        """The noise as a C++ type."""
        family = self.draws.family if isinstance(self.draws.family, int) else TABULATED
        is_shard = (True,) if self.first_quad else ()
        return template(
            "Draw", self.real, family, kind, self.draws.design, self.weighting,
            self.per_coordinate, self.fast, *is_shard,
        )  # fmt: skip

    @property
    def noise_kind(self) -> int:
        """How noise meets scores where z itself is needed."""
        return MULTIPLICATIVE if self.draws.multiplicative else ADDITIVE

    # ----------------------------------------------------------------------------------- launching

    def run(self, kernel: str, blocks: int, threads: int, *arguments: Any) -> None:
        if blocks >= 2**31:
            raise ValueError(
                f"theta has {self.rows} rows of {self.num_samples} samples, more than one launch "
                "can take: split the rows"
            )
        file = FILES[kernel.partition("<")[0]]
        self.device.function(file, kernel)((blocks,), (threads,), arguments)

    def by_sample(self, kernel: str, output: Array, *arguments: Any) -> None:
        """A thread a sample."""
        batches = -(-self.num_samples // MAX_THREADS)
        blocks = self.rows * batches
        self.run(kernel, blocks, MAX_THREADS, *arguments, np.int32(batches), output)

    def by_warp(self, kernel: str, items: int, strands: Array, *arguments: Any) -> None:
        """A warp an item of a strand of a row."""
        warps = min(MAX_THREADS // WARP, items)
        groups = -(-items // warps)
        blocks = self.rows * self.parts * groups
        counts = np.int32(self.parts), np.int32(groups)
        self.run(kernel, blocks, WARP * warps, *arguments, *counts, strands)

    def prepare(self, kind: int, depth: float | None = None, largest: Array | None = None) -> None:
        """Scores, and temperatures if there are many, padded to whole quads.

        ``largest``, (rows,), is the largest finite score of each row, of a race whose other
        coordinates are elsewhere.
        With a ``depth`` also ``levels`` and ``limits`` of early rejection (``reject.cuh``): the
        logarithm of how rarely a sample is to fall short of its row's level.
        """
        xp, padded = self.device.xp, 4 * quads(self.d)
        self.scores = xp.empty((self.rows, padded), self.dtype)
        self.levels = self.limits = None
        if depth is not None:
            self.levels = xp.empty(self.rows, self.dtype)
            self.limits = xp.empty((self.rows, padded), np.uint32)
        if self.per_coordinate:
            self.padded_scale = xp.empty((self.rows, padded), self.dtype)
        blocks = 1
        if largest is not None:
            largest = xp.ascontiguousarray(largest)
        if depth is None and (kind != RACE or largest is not None):  # no question to a whole row
            blocks = min(-(-_BLOCKS // self.rows), -(-padded // MAX_THREADS))
        self.run(
            template("prepare", self.draw(kind)),
            self.rows * blocks, min(MAX_THREADS, -(-padded // WARP) * WARP),
            self.theta, self.scale, largest, np.int32(self.d), np.int32(blocks),
            np.float32(depth or 0), self.scores, self.padded_scale, self.levels, self.limits,
        )  # fmt: skip

    # ---------------------------------------------------------------------------------------- sums

    def slots_and_size(self, operation: int, squares: bool) -> tuple[int, int]:
        d = self.d
        if operation == VALUE:
            return 1, 0
        if operation == MAXIMUM:
            return 2, 1
        if operation == MOMENTS:
            return 2, d
        if operation == VJP:
            return 1 + squares, d
        return 1 + 2 * squares, d + 1 if operation == JVP else (d + 1) * d

    def strands(self, totals: Array, whole: bool = False) -> Array:
        """Room for the sums of every strand: the totals themselves if there is only one.

        Zeros to add to, unless a kernel writes the ``whole`` of it.
        """
        if self.parts == 1:
            return totals
        make = self.device.xp.empty if whole else self.device.xp.zeros
        return make((self.rows, self.parts, *totals.shape[1:]), np.float64)

    def join(self, strands: Array, totals: Array) -> None:
        if self.parts > 1:
            size = totals.shape[1] * totals.shape[2]
            self.run(
                "add_strands", -(-self.rows * size // MAX_THREADS), MAX_THREADS,
                strands, np.int64(self.rows), np.int32(self.parts), np.int64(size), totals,
            )  # fmt: skip

    def add_vjp(self, weights: Array, squares: bool, strands: Array) -> None:
        kernel = template("vjp", self.draw(self.noise_kind), squares)
        self.by_warp(kernel, quads(self.d), strands, self.record, weights)

    def add_maximum(self, values: Array, strands: Array) -> None:
        warps = MAX_THREADS // WARP
        self.run(
            template("maximum", self.paired), -(-self.rows * self.parts // warps), MAX_THREADS,
            values, np.int64(self.rows), np.int64(self.num_samples), np.int32(self.parts), strands,
        )  # fmt: skip

    def add_solutions(
        self,
        operation: int,
        form: str,
        solutions: Array,
        direction: Array | None,
        squares: bool,
        strands: Array,
    ) -> None:
        """JVP, JACOBIAN or MOMENTS of solutions, "OneHot" or "Dense"."""
        draw = self.draw(self.noise_kind)
        if operation == JVP:
            xp = self.device.xp
            products = xp.empty((self.rows, self.num_samples), self.dtype)
            t = xp.ascontiguousarray(direction)
            self.by_sample(template("score_products", draw), products, self.record, t)
            kernel = template("jvp", self.real, form, self.paired, squares)
            given = solutions, products, *self.sizes, self.pull
            self.by_warp(kernel, self.d + 1, strands, *given)
        elif operation == JACOBIAN:
            kernel = template("jacobian", draw, form, squares)
            self.by_warp(kernel, quads(self.d), strands, self.record, solutions, self.pull)
        else:
            kernel = template("moments", draw, form)
            self.by_warp(kernel, quads(self.d), strands, self.record, solutions)
