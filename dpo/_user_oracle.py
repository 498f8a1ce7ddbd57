"""Oracles made of a Python function: ``@dpo.oracle``."""

from __future__ import annotations

import dis
import functools as ft
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ._checks import as_flag
from ._oracles import _TOLERANCE, Oracle, _first, is_concrete
from .kernels.codes import Problem
from .kernels.user import (
    MAX_ENTRY,
    ROW,
    SHARED,
    WORK,
    Argument,
    BoundSolver,
    Solver,
    laid_out,
    solution_of,
)


@dataclass(frozen=True)
class _Values:
    """A parameter's array, hashable."""

    dtype: str
    shape: tuple[int, ...]
    content: bytes

    @classmethod
    def of(cls, name: str, value) -> _Values:
        if getattr(value, "requires_grad", False):
            raise TypeError(
                f"{name} requires a gradient, but solutions are differentiable in the scores only; "
                f"pass {name}.detach()"
            )
        array = np.asarray(value)
        kind = array.dtype.kind
        if kind not in "biuf":
            raise TypeError(f"{name} must be a number or an array of numbers, got {value!r}")
        if kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
            raise ValueError(f"{name} must fit 64-bit integers, got {int(array.max())}")
        if kind == "f" and np.isnan(array).any():
            raise ValueError(f"{name} must not contain NaN")
        array = np.ascontiguousarray(array, np.float64 if kind == "f" else np.int64)
        return cls(array.dtype.name, np.shape(value), array.tobytes())

    def __str__(self) -> str:
        return f"<{self.dtype} {list(self.shape)}>" if self.shape else str(self.array.item())

    @property
    def array(self) -> np.ndarray:
        """Read-only."""
        return np.frombuffer(self.content, self.dtype).reshape(self.shape)


@dataclass(frozen=True)
class Declaration:
    """What the decorator was told: the function, its arguments and its options."""

    function: Callable
    event_ndim: int
    minimises: bool
    binary: bool
    parameter_ndim: tuple[tuple[str, int], ...]
    workspace: Callable[..., Mapping[str, np.ndarray]] | None
    check_bounds: bool

    @property
    def name(self) -> str:
        return self.function.__name__

    def __reduce__(self):
        """By its module and name where it has them; else with the function's code."""
        where = self.function.__module__, self.function.__qualname__
        try:
            if _named(*where) == self:
                return _named, where
        except (ImportError, AttributeError):
            pass
        from numba import cloudpickle

        fields = {k: v for k, v in vars(self).items() if k not in ("function", "workspace")}
        code = cloudpickle.dumps((self.function, self.workspace))
        return _from_code, (code, fields)


def _named(module: str, qualname: str) -> Declaration:
    """The declaration of the oracle of that name."""
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found.declaration


def _from_code(code: bytes, fields: dict[str, Any]) -> Declaration:
    from numba import cloudpickle

    function, workspace = cloudpickle.loads(code)
    return Declaration(function=function, workspace=workspace, **fields)


@dataclass(frozen=True, repr=False)
class UserOracle(Oracle):
    """A user's solver, compiled into the fused kernels; made by ``dpo.oracle``.

    Calling it with parameters gives the oracle that has them: ``knapsack(weights=w, capacity=9)``.
    """

    declaration: Declaration
    parameters: tuple[tuple[str, _Values], ...] = ()

    def __call__(self, *unnamed, **parameters) -> UserOracle:
        """The oracle with these parameters: numbers, or arrays whose leading axes are batch."""
        known = dict(self.declaration.parameter_ndim)
        if unnamed:
            given = ", ".join(f"{name}=..." for name in known) or "none"
            raise TypeError(
                f"oracle {self.declaration.name} takes its parameters by name ({given}); scores "
                f"are solved by .solve(scores), and perturbed by dpo.Perturbed({self!r})"
            )
        values = dict(self.parameters)
        for name, value in parameters.items():
            if name not in known:
                raise TypeError(
                    f"oracle {self.declaration.name} has no parameter {name!r}; it has "
                    f"{', '.join(known) or 'none'}"
                )
            values[name] = _Values.of(name, value)
            if len(values[name].shape) < known[name]:
                raise ValueError(
                    f"{name} must have at least {known[name]} axes (those before are batch), got "
                    f"shape {values[name].shape}"
                )
        return replace(self, parameters=tuple((k, values[k]) for k in known if k in values))

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={values}" for name, values in self.parameters)
        return f"{self.declaration.name}({given})" if given else self.declaration.name

    @property
    def event_ndim(self) -> int:
        return self.declaration.event_ndim

    def solve(self, scores) -> np.ndarray:
        """Solutions of unperturbed scores (or costs), (...) to int32 of the same shape.

        By the uncompiled function, so a debugger can step through it; raises what it raises.
        """
        scores = np.asarray(scores, np.float64)
        problem = self.problem(scores.shape)
        assert problem.solver is not None
        rows = scores.reshape(-1, int(np.prod(problem.solver.shape, dtype=np.int64)))
        solutions = np.empty(rows.shape, np.int32)
        for b, row in enumerate(rows):
            words = None if problem.places is None else problem.places[b]
            solutions[b] = solution_of(problem.solver, row, words)
        return solutions.reshape(scores.shape)

    def problem(self, shape: tuple[int, ...]) -> Problem:
        if is_concrete(shape):
            return _problem(self, tuple(shape))
        # Symbols of a program, which asks what a row is like: of parameters one batch will do.
        ndims = dict(self.declaration.parameter_ndim)
        batches = (x.shape[: len(x.shape) - ndims[name]] for name, x in self.parameters)
        event = map(int, shape[len(shape) - self.event_ndim :])
        return _problem(self, (*np.broadcast_shapes(*batches), *event))

    def check_targets(self, targets: np.ndarray, shape: tuple[int, ...]) -> str | None:
        if not self.declaration.binary:
            return None
        row = _first((targets.min(-1) < -_TOLERANCE) | (targets.max(-1) > 1 + _TOLERANCE))
        if row is None:
            return None
        return (
            "y_true must be a 0/1 solution or a mean of solutions, in [0, 1], but row "
            f"{row} has minimum {targets[row].min():g} and maximum {targets[row].max():g}"
        )


def oracle(
    function: Callable | None = None,
    *,
    event_ndim: int = 1,
    minimizes: bool = False,
    binary: bool = True,
    parameters: Mapping[str, int] | None = None,
    workspace: Callable[..., Mapping[str, np.ndarray]] | None = None,
    check_bounds: bool = True,
):
    """Make an oracle of a Python function, compiled into the fused kernels: ``@dpo.oracle``.

    The function solves one sample, ``solve(scores, solution, ...)``: ``scores`` are float64 (its to
    overwrite), ``solution`` is int32 and arrives full of zeros, both in the shape of one instance.
    It must be a maximiser ``solution = argmax_{y in Y} <y, scores>`` whose ``Y`` does not depend on
    the scores, and decide alike for equal scores. Numba compiles it, once for float32 and float64
    scores; noise, solver and sums are then one pass. Solutions are integers; for real ones use
    ``dpo.perturbed``.

    Parameters
    ----------
    event_ndim
        Axes of one instance, 1 or 2.
    minimizes
        Scores are costs, which the function minimizes; samples see ``costs - eps Z``.
    binary
        Entries of solutions are 0 or 1; they are then kept, a bit each, for the backward pass.
        ``False``: any integers up to 2^20 in absolute value.
    parameters
        Further arguments that users give, and how many axes each has: ``{"weights": 1,
        "capacity": 0}``. The function gets int64 or float64 numbers, or read-only arrays. Axes
        before those are batch, and broadcast against the scores' batch.
    workspace
        ``workspace(shape, **parameters)`` returns ``{name: array}``: float64 or int64 arrays of the
        size that the function needs to work in. They are made once a thread, and hold garbage when
        a sample begins. Arrays can also be made in the function, for about 0.1 us each.
    check_bounds
        An index out of bounds is an error; ``False`` makes it undefined and inner loops faster.

    Raises
    ------
    TypeError, ValueError
        At decoration, of arguments that do not fit; at the first call, if Numba cannot compile the
        function. ``SolverError`` at a call in which the function raised or left its range, naming
        row, sample and seed.

    Examples
    --------
    >>> import dpo
    >>> @dpo.oracle(parameters={"least": 0})
    ... def best_from(scores, solution, least):
    ...     best = least
    ...     for i in range(least, scores.size):
    ...         if scores[i] > scores[best]:
    ...             best = i
    ...     solution[best] = 1
    >>> layer = dpo.Perturbed(best_from(least=1), noise="gumbel", num_samples=10_000)
    >>> layer([9.0, 1.0, 1.0], seed=0).round(1)
    array([0. , 0.5, 0.5])
    """
    if function is None:
        return ft.partial(
            oracle,
            event_ndim=event_ndim,
            minimizes=minimizes,
            binary=binary,
            parameters=parameters,
            workspace=workspace,
            check_bounds=check_bounds,
        )
    function = getattr(function, "py_func", function)  # of numba.njit
    if not inspect.isfunction(function):
        raise TypeError(f"oracle must decorate a Python function, got {function!r}")
    if _returns(function):
        raise TypeError(
            f"{function.__name__} returns something, which is lost: it must write into its second "
            "argument, the solution, and return nothing"
        )
    if event_ndim not in (1, 2) or isinstance(event_ndim, bool):
        raise ValueError(f"event_ndim must be 1 or 2, got {event_ndim!r}")
    declared = dict(parameters or {})
    _check_arguments(function, declared, workspace is not None)
    return UserOracle(
        Declaration(
            function=function,
            event_ndim=event_ndim,
            minimises=as_flag("minimizes", minimizes),
            binary=as_flag("binary", binary),
            parameter_ndim=tuple(declared.items()),
            workspace=workspace,
            check_bounds=as_flag("check_bounds", check_bounds),
        )
    )


def _returns(function: Callable) -> bool:
    """Whether a function has a ``return`` with a value."""
    before = None
    for instruction in dis.get_instructions(function):
        name, value = instruction.opname, instruction.argval
        if name == "RETURN_CONST" and value is not None:
            return True
        if name == "RETURN_VALUE" and before != ("LOAD_CONST", None):
            return True
        before = name, value
    return False


def _extra_names(function: Callable) -> list[str]:
    """The arguments after scores and solution."""
    return list(inspect.signature(function).parameters)[2:]


def _check_arguments(function: Callable, declared: dict[str, int], works: bool) -> None:
    """What the function takes must be what was declared, or an array to work in."""
    names = list(inspect.signature(function).parameters)
    if len(names) < 2 or not set(declared) <= set(names[2:]):
        raise TypeError(
            f"{function.__name__} must take (scores, solution, {', '.join(declared) or '...'}), "
            f"got ({', '.join(names)})"
        )
    undeclared = [name for name in names[2:] if name not in declared]
    if undeclared and not works:
        raise TypeError(
            f"{function.__name__} takes {', '.join(undeclared)}: say how many axes of each belong "
            f"to an instance, @dpo.oracle(parameters={{{undeclared[0]!r}: 1}}), or make it an "
            "array to work in, workspace=..."
        )
    for name, ndim in declared.items():
        if isinstance(ndim, bool) or not isinstance(ndim, int) or not 0 <= ndim <= 3:
            raise ValueError(f"parameters[{name!r}] must be a number of axes, 0 to 3, got {ndim!r}")


# ------------------------------------------------------------------------------------- binding


@ft.lru_cache(maxsize=256)
def _problem(oracle: UserOracle, shape: tuple[int, ...]) -> Problem:
    """What the kernels are told; made once for an oracle and a shape."""
    declaration = oracle.declaration
    batch, event = shape[: -declaration.event_ndim], shape[-declaration.event_ndim :]
    ndims, parameters = dict(declaration.parameter_ndim), _parameters(oracle)
    work = _workspace(declaration, event, parameters)
    arguments, shapes = [], []
    words: dict[int, list[np.ndarray]] = {SHARED: [np.zeros(0, np.int64)], ROW: []}
    for name in _extra_names(declaration.function):
        array = work[name] if name in work else parameters[name]
        ndim = ndims.get(name, array.ndim)
        place = WORK if name in work else SHARED if array.ndim == ndim else ROW
        arguments.append(Argument(name, place, array.dtype.name, ndim))
        shapes.append(array.shape[array.ndim - ndim :])
        if place == SHARED:
            words[SHARED].append(array.reshape(-1).view(np.int64))
        elif place == ROW:
            words[ROW].append(_by_rows(name, array, ndim, batch).view(np.int64))
    solver = Solver(
        declaration.function, declaration.event_ndim, tuple(arguments), declaration.check_bounds
    )
    layout, sizes = laid_out(solver, event, shapes)
    low, high = (0, 1) if declaration.binary else (-MAX_ENTRY, MAX_ENTRY)
    shared = np.concatenate(words[SHARED])
    return Problem(
        "user",
        places=np.ascontiguousarray(np.concatenate(words[ROW], 1)) if words[ROW] else None,
        minimises=declaration.minimises,
        solver=BoundSolver(solver, layout, shared, sizes[WORK], low, high),
    )


def _parameters(oracle: UserOracle) -> dict[str, np.ndarray]:
    """All parameters as arrays."""
    given = {name: values.array for name, values in oracle.parameters}
    wanted = [name for name, _ in oracle.declaration.parameter_ndim]
    if set(given) != set(wanted):
        needed = ", ".join(f"{name}=..." for name in wanted)
        name = oracle.declaration.name
        raise TypeError(f"oracle {name} needs its parameters: {name}({needed})")
    return given


def _by_rows(name: str, array: np.ndarray, ndim: int, batch: tuple[int, ...]) -> np.ndarray:
    """A parameter that differs between instances as (rows, words)."""
    own = array.shape[array.ndim - ndim :]
    try:
        whole = np.broadcast_to(array, batch + own)
    except ValueError:
        raise ValueError(
            f"{name} must be one for all, of shape {own}, or broadcast to the batch {batch} before "
            f"that, got shape {array.shape}"
        ) from None
    return np.ascontiguousarray(whole).reshape(int(np.prod(batch, dtype=np.int64)), -1)


def _workspace(
    declaration: Declaration, event: tuple[int, ...], arrays: Mapping[str, np.ndarray]
) -> Mapping[str, np.ndarray]:
    """The arrays to work in, of which only dtype and shape matter."""
    if declaration.workspace is None:
        return {}
    work = declaration.workspace(event, **arrays)
    wanted = {name for name in _extra_names(declaration.function) if name not in arrays}
    if set(work) != wanted:
        raise ValueError(
            f"workspace of oracle {declaration.name} must make {', '.join(sorted(wanted))}, got "
            f"{', '.join(sorted(work)) or 'nothing'}"
        )
    for name, array in work.items():
        if getattr(array, "dtype", None) not in (np.float64, np.int64):
            raise TypeError(f"workspace array {name} must be float64 or int64, got {array!r}")
    return work
