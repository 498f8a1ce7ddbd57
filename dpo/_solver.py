"""A user's function on windows of perturbed scores: called, checked, in parallel, with good errors.

A ``Solver`` lives for one call of a perturbed function. It turns (samples, rows, d) scores into
(samples, rows, D) solutions, whatever the function takes and returns: batched or one instance at a
time, arrays of any framework, trees of them.
"""

from __future__ import annotations

import functools as ft
import inspect
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import numpy as np

from . import _trees as trees
from .kernels.user import SolverError

_PIECES_PER_WORKER = 8  # slack for instances that take longer than others


@dataclass(frozen=True, eq=False)
class PerInstance:
    """An argument with an entry an instance: its leading axes are theta's batch.

    A function of one instance at a time gets that instance's entry. A batched function gets the
    entries of the instances that it is called on, in their order.
    """

    values: Any

    def of_rows(self, rows: np.ndarray | int | None, batch: tuple[int, ...]) -> Any:
        """The entries of some rows; of all, in the caller's shape, for None."""
        if isinstance(self.values, (list, tuple)):
            return PerInstance(np.asarray(self.values)).of_rows(rows, batch)
        if tuple(self.values.shape[: len(batch)]) != batch:
            raise ValueError(
                f"dpo.PerInstance needs an array whose leading axes are theta's batch {batch}, "
                f"got shape {tuple(self.values.shape)}"
            )
        if rows is None:
            return self.values
        return self.values.reshape(-1, *self.values.shape[len(batch) :])[rows]

    def like_one(self, batch: tuple[int, ...]) -> np.ndarray:
        """Zeros like an instance's entry."""
        return np.zeros(np.shape(self.values)[len(batch) :])


class Structure(NamedTuple):
    """What the function returns of one instance."""

    skeleton: Any
    shapes: tuple[tuple[int, ...], ...]
    """Of every leaf, one instance's."""

    @property
    def sizes(self) -> list[int]:
        """Entries of every leaf."""
        return [int(np.prod(shape)) for shape in self.shapes]

    @property
    def size(self) -> int:
        """Entries of all leaves: D."""
        return sum(self.sizes)

    def split(self, flat: Any) -> list[Any]:
        """(rows, D, *rest) cut into leaves, (rows, size, *rest)."""
        ends = np.cumsum(self.sizes)
        return [flat[:, end - size : end] for end, size in zip(ends, self.sizes, strict=True)]

    def tree(self, values: Sequence[Any]) -> Any:
        """The leaves in their places."""
        return trees.fill(self.skeleton, iter(values))


class Window(NamedTuple):
    """Which problems a block of scores holds."""

    rows: np.ndarray
    """The number of every row; those of one instance, its randomisations, are neighbours."""
    first: int
    """The first sample."""
    num_samples: int
    """Of a row, in all."""
    seed: int


class Solver:
    """``fun`` with the arguments of one call."""

    def __init__(
        self,
        fun: Callable,
        args: tuple,
        kwargs: dict[str, Any],
        *,
        batched: bool,
        batch: tuple[int, ...],
        event: tuple[int, ...],
        to_user: Callable[[np.ndarray], Any],
        solves: bool = False,
        workers: int | Executor | None = None,
        progress: Any = None,
        memory: int = 2**26,
    ):
        self.fun, self.args, self.kwargs = fun, args, kwargs
        self.batched, self.batch, self.event = batched, batch, event
        self.to_user, self.workers, self.progress = to_user, workers, progress
        self.solves, self.memory = solves, memory
        self.structure: Structure | None = None
        self._warms = takes_warm_start(fun)
        self._previous: dict[int, Any] = {}

    # ------------------------------------------------------------------------------------- solve

    def begin(self) -> None:
        """Forget solutions of earlier passes: a pass depends on its samples alone."""
        self._previous.clear()

    def __call__(self, p: np.ndarray, window: Window, report: Callable[[int], None]) -> np.ndarray:
        """Solutions of ``p``, (samples, rows, d), as (samples, rows, D) in its dtype."""
        samples, rows, d = p.shape
        # Randomisations of an instance are more samples of it.
        count = _repeats(window.rows)
        instances = window.rows[::count]
        split = p.reshape(samples, len(instances), count, d).swapaxes(1, 2)
        scores = split.reshape(samples * count, len(instances), d)
        solve = self._solve_batched if self.batched else self._solve_singly
        y = solve(scores, instances, _Places(window, count), report)
        y = y.astype(p.dtype, copy=False).reshape(samples, count, len(instances), y.shape[-1])
        return y.swapaxes(1, 2).reshape(samples, rows, y.shape[-1])

    def learn_structure(self, dtype: np.dtype) -> Structure:
        """What the function returns, where there may be no row to call it on.

        A batched function is called on an empty batch, one of an instance on zeros; a solver is not
        called at all.
        """
        if self.structure is None and self.solves:
            self.structure = Structure(0, (self.event,))
        elif self.structure is None:
            places = _Places(Window(np.zeros(0, np.int64), 0, 1, 0), 1)
            if self.batched:
                self._solve_batched(
                    np.zeros((1, 0, int(np.prod(self.event))), dtype), places.window.rows, places,
                    lambda done: None,
                )  # fmt: skip
            else:
                args, kwargs = self._arguments(lambda x: x.like_one(self.batch))
                zeros = self.to_user(np.zeros(self.event, dtype))
                self._flatten(_call(self.fun, zeros, args, kwargs, self._warms, None), ())
        assert self.structure is not None
        return self.structure

    def _solve_batched(self, scores, rows, places: _Places, report) -> np.ndarray:
        whole = len(rows) == int(np.prod(self.batch)) and (np.diff(rows) == 1).all()
        lead = self.batch if whole else (len(rows),)
        args, kwargs = self._arguments(lambda x: x.of_rows(None if whole else rows, self.batch))
        warm = self._previous.get(-1)

        def solve(block: np.ndarray) -> tuple[np.ndarray, Any]:
            shaped = self.to_user(block.reshape(len(block), *lead, *self.event))
            result = _call(self.fun, shaped, args, kwargs, self._warms, warm)
            flat = self._flatten(result, (len(block), *lead))
            return flat.reshape(len(block), len(rows), flat.shape[-1]), result

        def guarded(block: np.ndarray, at: int) -> tuple[np.ndarray, Any]:
            try:
                return solve(block)
            except Exception as error:
                raise self._located(error, solve, block, at, rows, places) from error

        pieces = np.array_split(scores, min(len(scores), _count(self.workers)))
        starts = np.cumsum([0, *map(len, pieces[:-1])])
        with _pool(self.workers, processes=False) as pool:
            run = map if pool is None else pool.map
            parts, result = [], None
            for part, result in run(guarded, pieces, starts):  # noqa: B007, the last is used
                parts.append(part)
                report(part.shape[0] * len(rows))
        if self._warms:
            self._previous[-1] = trees.fill(result, iter([x[-1] for x in trees.leaves(result)]))
        return np.concatenate(parts)

    def _located(self, error, solve, block, at, rows, places: _Places) -> SolverError:
        """The error of a batched function, pinned to the first sample that raises by itself."""
        for k in range(len(block)):
            try:
                solve(block[k : k + 1])
            except Exception:
                row = int(rows[0]) if len(rows) == 1 else None
                return places.error(error, row, at + k)
        return places.error(error, None, None)

    def _solve_singly(self, scores, rows, places: _Places, report) -> np.ndarray:
        tasks = list(self._tasks(len(scores), rows))
        y = np.empty(0)
        with _pool(self.workers) as pool:
            jobs = (
                self._job(scores[begin:end, place], int(rows[place])) for place, begin, end in tasks
            )
            done = zip(tasks, _run(pool, jobs), strict=True)
            for (place, begin, end), (results, failure) in done:
                row = int(rows[place])
                fail = ft.partial(self._fail, places, row, begin)
                if failure is not None:
                    fail(len(results), failure)
                if self._warms:
                    self._previous[row] = results[-1]
                flat = self._flatten_each(results, fail)
                if y.size == 0:
                    y = np.empty((*scores.shape[:2], flat.shape[1]), scores.dtype)
                y[begin:end, place] = flat
                report(len(results))
        return y

    def _tasks(self, samples: int, rows: np.ndarray) -> Iterator[tuple[int, int, int]]:
        """(place of the row, first sample, end): whole rows where a solution starts the next."""
        pieces = 1
        if not self._warms:
            wanted = _PIECES_PER_WORKER * _count(self.workers)
            pieces = min(samples, -(-wanted // max(1, len(rows))))
        for place in range(len(rows)):
            for k in range(pieces):
                yield place, samples * k // pieces, samples * (k + 1) // pieces

    def _job(self, scores: np.ndarray, row: int) -> Callable[[], tuple[list, Exception | None]]:
        args, kwargs = self._arguments(lambda x: x.of_rows(row, self.batch))
        shaped = self.to_user(scores.reshape(len(scores), *self.event))
        warm = self._previous.get(row)
        return ft.partial(_solve_each, self.fun, shaped, args, kwargs, self._warms, warm)

    def _arguments(self, of: Callable[[PerInstance], Any]) -> tuple[list, dict[str, Any]]:
        """The extra arguments, with the entries of some rows."""

        def pick(x: Any) -> Any:
            return of(x) if isinstance(x, PerInstance) else x

        return list(map(pick, self.args)), {key: pick(x) for key, x in self.kwargs.items()}

    @staticmethod
    def _fail(places: _Places, row: int, begin: int, k: int, error: Exception) -> NoReturn:
        raise places.error(error, row, begin + k) from error

    def _flatten_each(self, results: list, fail: Callable[[int, Exception], NoReturn]):
        """Results of single instances, (results, D); ``fail(k, error)`` where one is wrong."""
        k = 0
        try:
            if all(type(x) is np.ndarray and x.shape == results[0].shape for x in results):
                # All at once, which is much faster; what is wrong is wrong from the first on.
                return self._flatten(np.array(results), (len(results),))
            flat = []
            for k, result in enumerate(results):  # noqa: B007, the last one is named
                flat.append(self._flatten(result, ()))
            return np.stack(flat)
        except (TypeError, ValueError) as error:
            fail(k, error)

    def _flatten(self, result: Any, lead: tuple[int, ...]) -> np.ndarray:
        """A result as one array, (*lead, D); all results must be alike."""
        arrays = [as_real(leaf) for leaf in trees.leaves(result)]
        for array in arrays:
            if array.shape[: len(lead)] != lead:
                raise wrong_axes(lead, self.event, array.shape)
        found = Structure(
            trees.skeleton(result), tuple(array.shape[len(lead) :] for array in arrays)
        )
        if self.structure is None:
            if not arrays:
                raise WrongResult("the function must return an array or a tree of arrays, got none")
            if self.solves and found.shapes != (self.event,):
                raise WrongResult(
                    "a solver must return one array of the scores' shape: of an instance "
                    f"{self.event}, got {found.tree(found.shapes)}; without maximizer=True or "
                    "minimizes=True a function may return anything"
                )
            self.structure = found
        elif found != self.structure:
            raise WrongResult(
                "the function must return the same structure and shapes for every sample, got "
                f"{found.tree(found.shapes)} after {self.structure.tree(self.structure.shapes)}"
            )
        flat = [x.reshape(*lead, size) for x, size in zip(arrays, found.sizes, strict=True)]
        return flat[0] if len(flat) == 1 else np.concatenate(flat, axis=-1)


class _Places(NamedTuple):
    """Where the samples of a block of scores stand among all."""

    window: Window
    randomisations: int

    def error(self, error: Exception, row: int | None, index: int | None) -> SolverError:
        """What is raised for ``error`` on the ``index``-th sample of the block."""
        _, first, num_samples, seed = self.window
        total = num_samples * self.randomisations
        said = f"the function raised {type(error).__name__}: {error}"
        if isinstance(error, WrongResult):
            said = f"{error}: seen"
        if index is None:
            return SolverError(
                f"{said} on samples from {first} on, together but on none of "
                f"them alone; their scores are f.perturbed_scores(theta, seed={seed})",
                None, None, seed,
            )  # fmt: skip
        sample = index % self.randomisations * num_samples + first + index // self.randomisations
        where = f"sample {sample} of {total}"
        again = f"f.perturbed_scores(theta, seed={seed}, sample={sample}, num_samples={total}"
        if row is not None:
            where, again = f"row {row}, {where}", f"{again}, row={row}"
        return SolverError(
            f"{said} on {where} (seed {seed}); its scores are {again})",
            row, sample, seed,
        )  # fmt: skip


# -------------------------------------------------------------------------------- calling functions


@ft.lru_cache(maxsize=256)
def takes_warm_start(fun: Callable) -> bool:
    """Whether a function has a parameter ``warm_start``."""
    try:
        return "warm_start" in inspect.signature(fun).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return False


class WrongResult(ValueError):
    """What is wrong with what a function returned, which raised nothing itself."""


def wrong_axes(lead: tuple, event: tuple, shape: tuple) -> WrongResult:
    """What a batched function that returns arrays of another batch did wrong."""
    return WrongResult(
        f"a batched function of scores {(*lead, *event)} must return arrays whose leading axes are "
        f"{lead}, got shape {shape}; for a function of one instance at a time pass batched=False"
    )


def _call(fun, scores, args, kwargs, warms: bool, previous) -> Any:
    if warms:
        kwargs = {"warm_start": previous, **kwargs}
    return fun(scores, *args, **kwargs)


def _solve_each(fun, scores, args, kwargs, warms: bool, previous) -> tuple[list, Exception | None]:
    """Results of consecutive samples of a row, and what stopped them; also in other processes."""
    results: list[Any] = []
    for one in scores:
        try:
            previous = _call(fun, one, args, kwargs, warms, previous)
        except Exception as error:
            return results, error
        results.append(_copied(previous))  # a function may use its array again
    return results, None


def _copied(result: Any) -> Any:
    """A result in memory of its own; arrays that cannot change (JAX's) stay."""
    copies = (
        x.copy() if isinstance(x, np.ndarray) else x.clone() if hasattr(x, "clone") else x
        for x in trees.leaves(result)
    )
    return trees.fill(result, copies)


def _run(pool: Executor | None, jobs: Iterator[Callable]) -> Iterator[Any]:
    """Results of jobs, in order; what has not begun is cancelled if the caller stops."""
    if pool is None:
        for job in jobs:
            yield job()
        return
    futures = [pool.submit(job) for job in jobs]
    try:
        for future in futures:
            yield future.result()
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        if "pickle" not in str(error):
            raise
        raise TypeError(
            "processes need a function and arguments that can be pickled: define the function at "
            f"the level of a module, and write f = dpo.perturbed(function) ({error})"
        ) from error
    finally:
        for future in futures:
            future.cancel()


@contextmanager
def _pool(workers: int | Executor | None, processes: bool = True) -> Iterator[Executor | None]:
    """An executor to use: threads of this call's own, the user's, or none."""
    if isinstance(workers, int) and workers > 1:
        with ThreadPoolExecutor(workers, thread_name_prefix="dpo-solver") as pool:
            yield pool
    else:
        yield workers if isinstance(workers, Executor) and processes else None


def _count(workers: int | Executor | None) -> int:
    if isinstance(workers, Executor):
        return getattr(workers, "_max_workers", None) or os.cpu_count() or 1
    return workers or 1


def _repeats(rows: np.ndarray) -> int:
    """How many times in a row every entry of ``rows`` stands there."""
    other = np.flatnonzero(rows != rows[:1])
    return max(1, int(other[0]) if len(other) else len(rows))


def as_real(x: Any) -> np.ndarray:
    """A leaf as a NumPy array of real numbers."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        x = x.detach().cpu()
        array = (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    else:
        array = x.get() if hasattr(x, "get") and hasattr(x, "__cuda_array_interface__") else x
        array = np.asarray(array)
        if array.dtype.name == "bfloat16":
            array = array.astype(np.float32)
    if array.dtype.kind not in "biuf":
        raise WrongResult(f"the function must return arrays of real numbers, got {array.dtype}")
    return array
