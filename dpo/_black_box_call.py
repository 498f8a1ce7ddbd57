"""One call of a perturbed function: arrays in and out, and what is estimated in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import _trees as trees
from ._arrays import Scores, as_companion
from ._designs import AnySampler, Grouped, Replicated
from ._device import as_host, take
from ._engine import MeanAndError
from ._solved import SolvedSampler
from ._solver import Structure


class Call(NamedTuple):
    """One call of a perturbed function: its scores, its samples, and the function's results."""

    theta: Any
    """As the user passed it."""
    epsilon: Any
    """Likewise."""
    scores: Scores
    whole: SolvedSampler
    """The problem, all rows, and one sample of each: ``sampler`` is made of it."""
    sampler: AnySampler | Grouped
    directions: tuple = ()
    """Arrays that the results are linear in: the ``v`` of a VJP, as the user passed it."""

    @property
    def structure(self) -> Structure:
        """What the function returns; known once it has been called."""
        return self.whole.solver.learn_structure(self.whole.theta.dtype)

    @property
    def event(self) -> tuple[int, ...]:
        """The shape of an instance's scores."""
        return self.scores.shape[len(self.scores.batch) :]

    def along(self, direction: Any) -> Call:
        """The call, whose results are linear in a tree of arrays, too."""
        return self._replace(directions=tuple(trees.leaves(direction)))

    def result(self, values: np.ndarray, shape: tuple[int, ...]) -> Any:
        """An array of the caller's kind; in torch, ``backward`` says that it has no derivative."""
        result = self.scores.restore(values.reshape(shape))
        if self.scores.kind != "torch":
            return result
        from . import _black_box_torch

        return _black_box_torch.constant(self, result)

    def results(self, values: np.ndarray, lead: tuple = (), rest: tuple = ()) -> Any:
        """(rows, D, *rest) as the function's tree of (*lead, *batch, *leaf, *rest) results."""
        batch, structure = (*lead, *self.scores.batch), self.structure
        parts = zip(structure.split(values), structure.shapes, strict=True)
        return structure.tree([self.result(x, (*batch, *shape, *rest)) for x, shape in parts])

    def direction(self, v: Any) -> np.ndarray:
        """A tree like the function's results, (rows, D): the ``v`` of a VJP."""
        structure, scores, whole = self.structure, self.scores, self.whole
        if trees.skeleton(v) != structure.skeleton:
            literal = isinstance(structure.skeleton, int) and isinstance(v, (list, tuple))
            if not literal:
                raise ValueError(
                    "v must have the structure of the function's results "
                    f"{structure.tree(structure.shapes)} (shapes of an instance), got "
                    f"{trees.skeleton(v)}"
                )
            v = np.asarray(v)
        columns = []
        for leaf, shape, size in zip(
            trees.leaves(v), structure.shapes, structure.sizes, strict=True
        ):
            like = scores._replace(
                shape=(*scores.batch, *shape), rows=scores.rows[:, :1].repeat(size, axis=1)
            )
            columns.append(as_host(as_companion(leaf, "v", like, of="the function's result")))
        return np.concatenate(columns, axis=1).astype(whole.theta.dtype)

    def tangent(self, t: Any) -> np.ndarray:
        """A direction in scores, (rows, d): the ``t`` of a JVP."""
        return as_host(as_companion(t, "t", self.scores))


def estimate(
    call: Call, sampler, of: str, direction, index: np.ndarray | None, errors: bool
) -> MeanAndError:
    """Mean and standard error of ``of``, for some of the rows."""
    if of == "value":
        return sampler.value() if errors else (sampler.forward().mean, np.zeros(()))
    if of == "max":
        return sampler.maximum()[:2]
    if of == "jacobian":
        return sampler.jacobian(errors=errors)
    if of == "jvp":
        tangent = call.tangent(direction)
        return sampler.jvp(tangent if index is None else take(tangent, index), errors=errors)
    kept = sampler.forward(for_gradient=True)  # and with it the structure of v is known
    v = call.direction(direction)
    return sampler.vjp(v if index is None else take(v, index), kept, errors=errors)


def perturbed_scores(sampler: AnySampler) -> np.ndarray:
    """What every sample sees, (num_samples, rows, d)."""
    if isinstance(sampler, Replicated):
        p = perturbed_scores(sampler.inner)
        points, rows, d = p.shape
        p = p.reshape(points, rows // sampler.count, sampler.count, d)
        return np.moveaxis(p, 2, 0).reshape(sampler.num_samples, -1, d)
    assert isinstance(sampler, SolvedSampler)
    return sampler.perturbed_scores(0, sampler.num_samples)


def to_user(theta: Any, kind: str, callback: bool) -> Callable[[np.ndarray], Any]:
    """Perturbed scores as the function takes them: in theta's framework, on its device."""
    if kind == "torch":
        import torch

        return lambda p: torch.from_numpy(p).to(theta.device)
    if kind == "cupy":
        import cupy

        return cupy.asarray
    if kind == "jax" and not callback:
        from jax import numpy as jnp

        return jnp.asarray
    return lambda p: p


def watched(fun: Callable, kind: str) -> Callable:
    """The function; in torch, its results must need no gradient of their own."""
    if kind != "torch":
        return fun
    from . import _black_box_torch

    return _black_box_torch.Watched(fun)
