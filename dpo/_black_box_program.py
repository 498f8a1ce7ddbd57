"""A function of perturbed scores as a program of JAX's: its arguments, and passes over samples.

What is traced of a call, but for derivatives and the public methods (``_black_box_jax.py``, which
describes the whole).
"""

from __future__ import annotations

import dataclasses
import functools as ft
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from ._arrays import Scores
from ._black_box import PerturbedFunction
from ._designs import Replicated, designed
from ._host_jax import Host, host_p
from ._seeds import Place, as_int, as_seed
from ._solved import SolvedSampler, window_size
from ._solver import PerInstance, Solver, Structure, Window, takes_warm_start, wrong_axes
from .kernels.codes import SCORE, VALUE, VJP, Problem

# -------------------------------------------------------------------------------------- arguments


class Arguments:
    """The function's further arguments: arrays, which a program is given, and all else, fixed."""

    def __init__(self, args: tuple, kwargs: dict[str, Any]):
        leaves, self._tree = jax.tree.flatten((args, kwargs))
        self._each = [isinstance(x, PerInstance) for x in leaves]
        self._fixed = [None if _is_array(x) else (x,) for x in leaves]
        arrays = [x.values if isinstance(x, PerInstance) else x for x in leaves if _is_array(x)]
        self.arrays = tuple(map(jnp.asarray, arrays))

    def rebuilt(
        self, arrays: tuple, each: Callable[[PerInstance], Any] = lambda x: x
    ) -> tuple[tuple, dict[str, Any]]:
        """``args`` and ``kwargs`` of ``arrays``; ``each`` says what becomes of an instance's."""
        given = iter(arrays)
        leaves = [
            fixed[0] if fixed else each(PerInstance(next(given))) if own else next(given)
            for fixed, own in zip(self._fixed, self._each, strict=True)
        ]
        return jax.tree.unflatten(self._tree, leaves)

    def of_instances(self, arrays: tuple) -> list:
        """Those arrays that have an entry an instance."""
        own = [each for each, fixed in zip(self._each, self._fixed, strict=True) if not fixed]
        return [x for x, each in zip(arrays, own, strict=True) if each]


def _is_array(x: Any) -> bool:
    return isinstance(x, (jax.Array, np.ndarray, PerInstance))


# ------------------------------------------------------------------------------------ one program


class Layout(NamedTuple):
    """How the samples of a row are laid out: (samples, randomisations)."""

    samples: int
    randomisations: int
    window: int
    """Samples of each randomisation at a time."""


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """What a trace fixes: the function, its settings, and the shapes of its scores.

    In the methods ``theta`` is (rows, d), solutions are (samples, randomisations, rows, D).
    """

    function: PerturbedFunction
    scores: Scores
    """Zeros, for their shapes and their dtype."""
    arguments: Arguments

    @property
    def event(self) -> tuple[int, ...]:
        """The shape of an instance's scores."""
        return self.scores.shape[len(self.scores.batch) :]

    @ft.cached_property
    def whole(self) -> SolvedSampler:
        """The problem of zero scores, and one sample of each."""
        f = self.function
        rows = len(self.scores.rows)
        places = np.arange(rows)[:, None]
        problem = Problem("function", places=places, minimises=f.minimizes)
        return SolvedSampler(*f._layer._whole(self.scores, Place(0))._replace(problem=problem))

    def sampler(self, theta: np.ndarray, words: Any) -> tuple[SolvedSampler, int]:
        """The samples of a randomisation, and how many of those there are; on the host."""
        draws = self.whole.draws._replace(seed=as_seed(words, "numpy"))
        sampler = designed(self.whole._replace(theta=theta, draws=draws), self.num_samples)
        inner, count = sampler, 1
        if isinstance(sampler, Replicated):
            inner, count = sampler.inner, sampler.count
        assert isinstance(inner, SolvedSampler)
        return inner, count

    @property
    def num_samples(self) -> int:
        """``M``."""
        assert isinstance(self.function.num_samples, int)
        return self.function.num_samples

    @ft.cached_property
    def layout(self) -> Layout:
        """How many samples of what there are."""
        inner, count = self.sampler(self.scores.rows, 0)
        rows, d = self.scores.rows.shape
        fits = window_size(rows * count, max(d, self.structure.size), self.function.memory)
        return Layout(inner.num_samples, count, min(inner.num_samples, fits))

    # ------------------------------------------------------------------------------ the function

    @ft.cached_property
    def _result(self) -> tuple[Any, Structure]:
        """The tree of the function's results, and what it returns of an instance."""
        f, batch = self.function, self.scores.batch
        scores = jax.ShapeDtypeStruct((2, *self.scores.shape), self.scores.rows.dtype)
        if f.is_solver:
            result, lead = jax.ShapeDtypeStruct(self.event, np.float32), 0
        elif f.callback:
            shapes = jax.tree.leaves(f.result_shape)
            if not shapes or not all(hasattr(x, "shape") for x in shapes):
                raise TypeError(
                    "with callback=True inside a JAX transformation, result_shape must say what "
                    "the function returns of one instance, for example "
                    f"jax.ShapeDtypeStruct((), 'float32'), or a tree of such; got {f.result_shape}"
                )
            result, lead = f.result_shape, 0
        else:
            result = jax.eval_shape(self._traced, scores, self.arguments.arrays)
            lead = 1 + len(batch)
        leaves, tree = jax.tree.flatten(result)
        if not leaves:
            raise TypeError("the function must return an array or a tree of arrays, got none")
        for leaf in leaves:
            if leaf.shape[:lead] != scores.shape[:lead]:
                raise wrong_axes(scores.shape[:lead], self.event, leaf.shape)
        return tree, Structure(0, tuple(tuple(leaf.shape[lead:]) for leaf in leaves))

    @property
    def structure(self) -> Structure:
        """The shapes of what the function returns of an instance."""
        return self._result[1]

    def _traced(self, p: jax.Array, arrays: tuple) -> Any:
        """The function's results for (samples, *batch, *event) scores."""
        f, batch = self.function, self.scores.batch
        start = {"warm_start": None} if takes_warm_start(f.fun) else {}

        def one(scores, *values):
            given = iter(values)
            args, kwargs = self.arguments.rebuilt(arrays, lambda x: next(given))
            return f.fun(scores, *args, **start, **kwargs)

        whole = [PerInstance(x).of_rows(None, batch) for x in self.arguments.of_instances(arrays)]
        try:
            if f.batched:
                return one(p, *whole)
            for _ in batch:
                one = jax.vmap(one)
            return jax.vmap(one, in_axes=(0, *(None for _ in whole)))(p, *whole)
        except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
            raise TypeError(
                "the function cannot be traced by JAX; write it in jax.numpy, or pass "
                "callback=True to call it on NumPy arrays"
            ) from error

    def _solve(self, p: jax.Array, arrays: tuple) -> jax.Array:
        """Solutions by the traced function."""
        lead = p.shape[:3]
        samples = lead[0] * lead[1]
        leaves = jax.tree.leaves(self._traced(p.reshape(samples, *self.scores.shape), arrays))
        shapes = tuple((samples, *self.scores.batch, *shape) for shape in self.structure.shapes)
        if tuple(x.shape for x in leaves) != shapes:
            raise ValueError(
                f"the function must return arrays of shapes {shapes} for scores "
                f"{(samples, *self.scores.shape)}, got {tuple(x.shape for x in leaves)}"
            )
        sizes = self.structure.sizes
        flat = [x.reshape(*lead, n).astype(p.dtype) for x, n in zip(leaves, sizes, strict=True)]
        return jnp.concatenate(flat, axis=-1)

    def _solve_on_host(self, inner: SolvedSampler, p: np.ndarray, first: int, arrays) -> np.ndarray:
        """Solutions by the function of NumPy arrays, (samples, rows, D)."""
        f = self.function
        args, kwargs = self.arguments.rebuilt(arrays)
        solver = Solver(
            f.fun, args, kwargs, batched=f.batched, batch=self.scores.batch, event=self.event,
            to_user=lambda p: p, solves=f.is_solver, workers=f.workers,
        )  # fmt: skip
        seed = as_int(inner.draws.seed)
        window = Window(inner.problem.places[:, 0], first, inner.num_samples, seed)
        y = solver(p, window, lambda more: None)
        if y.shape[-1] != self.structure.size:
            raise TypeError(
                f"result_shape promises shapes {self.structure.shapes} of an instance, but the "
                f"function returned {solver.learn_structure(p.dtype).shapes}"
            )
        return y

    # ------------------------------------------------------------------------------- the samples

    def window(self, theta, words, arrays, first, count: int, operation: int, known=None):
        """Solutions, perturbed scores and, for a ``VJP``, their scores, of a window of samples."""
        rows, d = self.scores.rows.shape
        r, dtype = self.layout.randomisations, self.scores.rows.dtype
        on_host = self.function.callback and known is None

        def host(theta, words, first, *arrays):
            inner, _ = self.sampler(theta, words)
            seen = inner._perturb(operation, SCORE, int(first), count)
            parts = [seen.p, seen.s] if operation == VJP else [seen.p]
            if on_host:
                parts.append(self._solve_on_host(inner, seen.p.copy(), int(first), arrays))
            split = (x.reshape(count, rows, r, x.shape[-1]) for x in parts)
            return tuple(x.swapaxes(1, 2) for x in split)

        sizes = [d] * (1 + (operation == VJP)) + [self.structure.size] * on_host
        shapes = tuple(((count, r, rows, size), dtype) for size in sizes)
        operands = (theta, words, first, *(arrays if on_host else ()))
        p, *rest = host_p.bind(*operands, host=Host(host, shapes), lead=())
        if on_host:
            known = rest.pop()
        y = self._solve(p, arrays) if known is None else known
        return y, p, rest[0] if rest else None

    def _sum(self, step: Callable, zeros: Any, known: tuple | None = None) -> tuple[Any, tuple]:
        """``step(first, known, count)`` of every window: its first results added, its second kept.

        What is kept is a pair: of the windows of equal size, stacked, and of the one that is left.
        """
        samples, _, count = self.layout
        full, rest = divmod(samples, count)
        stacked, last = known or (None, None)

        def body(total, x):
            sums, kept = step(*x, count=count)
            return jax.tree.map(jnp.add, total, sums), kept

        total, kept = jax.lax.scan(body, zeros, (jnp.arange(full) * count, stacked))
        if rest == 0:
            return total, (kept, None)
        sums, remainder = step(full * count, last, count=rest)
        return jax.tree.map(jnp.add, total, sums), (kept, remainder)

    def _zeros(self, *shape: int) -> jax.Array:
        return jnp.zeros(shape, self.scores.rows.dtype)

    def forward(self, theta, words, arrays, keep: bool = False, maximum: bool = False):
        """Sums of solutions, and of their values, over the samples; and solutions, if they fit."""
        rows, d = theta.shape
        size, r = self.structure.size, self.layout.randomisations
        keep = keep and theta.dtype.itemsize * self.num_samples * rows * size <= (
            self.function.memory
        )

        def step(first, _, count):
            y, p, _ = self.window(theta, words, arrays, first, count, VALUE)
            sums = {"y": y.sum(0)}
            if maximum:
                terms = y * jnp.where(y == 0, 0, p)
                sums |= {"value": terms.sum((0, 1, 3)), "moments": terms.sum((0, 1))}
            return sums, y if keep else None

        zeros = {"y": self._zeros(r, rows, size)}
        if maximum:
            zeros |= {"value": self._zeros(rows), "moments": self._zeros(rows, d)}
        sums, kept = self._sum(step, zeros)
        return sums, kept if keep else None

    def product(self, theta, words, arrays, total, kept, t):
        """``J t``, linear in ``t``, from the sum of solutions of each randomisation."""
        along = t.reshape(theta.shape).astype(theta.dtype) * self._slope(theta) / self.num_samples

        @ft.partial(jax.checkpoint, static_argnums=2)
        def remade(first, known, count):
            y, _, s = self.window(theta, words, arrays, first, count, VJP, known)
            b = jnp.einsum("krnd,nd->krn", s, along)
            return jnp.einsum("krnD,krn->nD", self._centred(y, total), b)

        def step(first, known, count):
            return remade(first, known, count), None

        return self._sum(step, self._zeros(len(theta), self.structure.size), kept)[0]

    def _centred(self, y, total):
        """Solutions minus the mean of those that share no noise with them."""
        m, whole = self.num_samples, total.sum(0)
        samples, randomisations, _ = self.layout
        if self.function.variance_reduction == "none":
            return y
        if self.function.variance_reduction == "qmc":
            others = m - samples
            return y - (whole - total) / others if randomisations > 1 else y
        if self.whole.draws.is_paired and m > 2:
            pairs = y.reshape(-1, 2, *y.shape[1:]).sum(1, keepdims=True)
            own = jnp.broadcast_to(pairs, (len(y) // 2, 2, *y.shape[1:])).reshape(y.shape)
            return y - (whole - own) / (m - 2)
        if self.whole.draws.is_paired or m == 1:
            return y
        return (y - whole / m) * (m / (m - 1))

    def _slope(self, theta):
        """As ``Sampler._slope``."""
        inverse = jnp.asarray(1 / self.whole.epsilon, theta.dtype)
        if self.whole.draws.multiplicative:
            slope = jnp.where(theta == 0, 0, inverse / jnp.where(theta == 0, 1, theta))
        else:
            slope = self.whole.sign * inverse
        return jnp.where(jnp.isinf(theta), 0, slope)

    def slope_of_maximum(self, theta, sums):
        """As ``Sampler.slope_of_maximum``."""
        if not self.whole.draws.multiplicative:
            return self.whole.sign * sums["y"].sum(0) / self.num_samples
        weighted = sums["moments"] / self.num_samples
        fixed = (theta == 0) | jnp.isinf(theta)
        slope = jnp.where(fixed, 0, weighted) / jnp.where(fixed, 1, theta)
        mean = sums["y"].sum(0) / self.num_samples
        return self.whole.sign * jnp.where(fixed, mean, slope)
