"""Coordinates shared out among the processes of ``torch.distributed``: see ``_shards.py``."""

from __future__ import annotations

import contextlib
import zlib
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ._arrays import as_scores
from ._device import as_host, beside, is_host, launching_on, namespace
from ._perturbed import Perturbed
from ._seeds import as_place, as_seed
from ._shards import MOST_COORDINATES, Shard, check_layer, kernels_for, packed, unpacked
from ._torch import as_tensor, on_its_device, once, summed, to_array


def coordinates_sharded(layer: Perturbed, theta: Tensor, *, seed, of: str, row_offset, group):
    """See ``distributed.py``."""
    with contextlib.ExitStack() as stack:
        shard = _agreed(layer, theta, seed, of, row_offset, group, stack)
        epsilon = layer.epsilon if isinstance(layer.epsilon, Tensor) else None
        return (_Value if of == "value" else _Maximum).apply(theta, epsilon, shard, group)


# --------------------------------------------------------------------- before anything is computed

_SAME = {
    "theta's number of rows": 1,
    "row_offset": 5,
    "whether epsilon is learned": 7,
    "whether theta is on a GPU": 8,
}
"""What processes have in common: the columns of ``_agreed``'s facts."""


def _agreed(
    layer: Perturbed, theta: Tensor, seed, of: str, row_offset, group, stack: contextlib.ExitStack
) -> Shard:
    """This process's shard. What is wrong with any process's is raised in all: none waits.

    The GPU and the stream of a tensor are entered here, which CuPy is needed for.
    """
    shard, error, facts = None, None, np.zeros(10, np.int64)
    if theta.is_cuda:
        stack.enter_context(torch.cuda.device(theta.device))  # objects travel by the current one
    try:
        stack.enter_context(launching_on(theta, "torch"))
        check_layer(layer)
        words = as_seed(seed, "torch")
        place = as_place(words, row_offset, 0)
        shard = Shard.of(layer, as_scores(theta, "theta"), place, 0)
        learns = getattr(layer.epsilon, "requires_grad", False)
        temperatures = zlib.crc32(as_host(shard.sampler.epsilon).tobytes())
        rows, d = shard.sampler.theta.shape
        places = place.row_offset, temperatures, learns, theta.is_cuda
        facts[:] = 1, rows, d, *words, *places, _digest(shard, theta, of)
    except Exception as problem:  # whatever it is, others must not wait
        error = problem
    every = _said(facts, group)
    if error is not None:
        raise error
    assert shard is not None
    offsets = _checked(every, shard.k)
    draws = shard.sampler.draws._replace(coordinate_offset=offsets[dist.get_rank(group)])
    return shard._replace(sampler=shard.sampler._replace(draws=draws))


def _digest(shard: Shard, theta: Tensor, of: str) -> int:
    """Of what a call has to have in common with the others' beside its operands."""
    s, family = shard.sampler, shard.sampler.draws.family
    noise = family if isinstance(family, int) else zlib.crc32(family.table(np.float64).tobytes())
    same = s.problem.oracle, shard.k, noise, s.num_samples, s.centred, s.precision, theta.dtype, of
    return zlib.crc32(repr(same).encode())


def _checked(every: np.ndarray, k: int) -> list[int]:
    """The number of every process's first coordinate, from what ``_agreed`` gathered."""
    if not every[:, 0].all():
        raise ValueError(f"process {every[:, 0].argmin()} of the group refused its call: see there")
    for name, column in _SAME.items():
        if (every[:, column] != every[0, column]).any():
            raise ValueError(
                f"{name} must be the same in every process, got {every[:, column].tolist()}"
            )
    if (every[:, 9] != every[0, 9]).any():
        raise ValueError(
            "the layer (its oracle, noise, num_samples, variance_reduction and precision), theta's "
            "dtype and of= must be the same in every process"
        )
    if (every[:, 3:5] != every[0, 3:5]).any():
        raise ValueError("seed must be the same in every process")
    if (every[:, 6] != every[0, 6]).any():
        raise ValueError("epsilon must be the same in every process")
    sizes = every[:, 2].tolist()
    if any(d % 4 for d in sizes[:-1]):
        raise ValueError(
            "theta must have a multiple of 4 coordinates in every process but the last, since four "
            f"share a block of random words; got {sizes}"
        )
    if sum(sizes) > MOST_COORDINATES or k > sum(sizes):
        raise ValueError(
            f"theta may have k = {k} to {MOST_COORDINATES} coordinates in all, got {sum(sizes)}"
        )
    return [sum(sizes[:rank]) for rank in range(len(sizes))]


# ------------------------------------------------------------------------------------- collectives


# Of arrays on a GPU tensors there, but for gloo, which carries little else than the CPU's.


def _is_gloo(group) -> bool:
    return dist.get_backend(group) == dist.Backend.GLOO


def _said(facts: np.ndarray, group) -> np.ndarray:
    """The integers of every process, (processes, n): whatever backend there is takes objects."""
    if _is_gloo(group):
        return np.stack(_gathered(facts, group))
    every: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(every, facts.tolist(), group)
    return np.array(every)


def _copied(array: np.ndarray, group) -> Tensor:
    """A tensor of its own, of which torch makes results in place."""
    if is_host(array) or _is_gloo(group):
        return torch.from_numpy(np.array(as_host(array), order="C"))
    return torch.from_dlpack(namespace(array).array(array, order="C"))


def _array(tensor: Tensor, like: np.ndarray) -> np.ndarray:
    """A tensor as an array where ``like`` is."""
    if tensor.is_cuda:
        return namespace(like).from_dlpack(tensor)
    return beside(tensor.numpy(), like)


def _gathered(array: np.ndarray, group) -> list[np.ndarray]:
    """The arrays of all processes, of one shape, in the order of ranks."""
    own = _copied(array, group)
    every = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(every, own, group)
    return [_array(x, array) for x in every]


def _reduced(array: np.ndarray, operation, group) -> np.ndarray:
    """An array reduced over the processes."""
    result = _copied(array, group)
    dist.all_reduce(result, operation, group)
    return _array(result, array)


def _total(array: np.ndarray, group) -> np.ndarray:
    return _reduced(array, dist.ReduceOp.SUM, group)


def _largest(array: np.ndarray, group) -> np.ndarray:
    return _reduced(array, dist.ReduceOp.MAX, group)


class _Decided(NamedTuple):
    """What the samples of all shards decided, (rows, M, k)."""

    values: np.ndarray
    winners: np.ndarray


def _decide(shard: Shard, group) -> _Decided:
    """Every shard's best, merged: one all-reduce of a word a sample, two in float64.

    Top-k gathers the lists of all shards.
    """
    largest = _largest(shard.largest(), group) if shard.is_race else None
    values, numbers = shard.best(largest)
    if shard.sampler.problem.oracle == "topk":
        values, numbers = (np.concatenate(_gathered(x, group), -1) for x in (values, numbers))
        return _Decided(*kernels_for(values).merged(values, numbers, shard.k))
    if values.dtype == np.float32:
        return _Decided(*unpacked(_largest(packed(values, numbers), group)))
    best = _largest(values, group)
    beaten = np.where(values == best, numbers, np.iinfo(np.int64).max)
    return _Decided(best, _reduced(beaten, dist.ReduceOp.MIN, group))


# ------------------------------------------------------------------------------------- derivatives


class _Value(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, theta: Tensor, epsilon: Tensor | None, shard: Shard, group):
        ctx.shard, ctx.group = shard, group
        ctx.winners = _decide(shard, group).winners
        ctx.save_for_backward(theta, epsilon)
        return _restored(shard, shard.mean(ctx.winners), shard.scores.shape)

    @staticmethod
    @on_its_device
    def backward(ctx: Any, gradient: Tensor):  # type: ignore[override]
        shard, rows = ctx.shard, ctx.shard.sampler.theta
        v = to_array(gradient, rows).reshape(rows.shape)
        own = shard.projections(v, ctx.winners)
        product = shard.vjp(_total(own, ctx.group))
        result = _restored(shard, product, shard.scores.shape)
        by_epsilon = None
        if ctx.needs_input_grad[1]:
            part = shard.epsilon_vjp(product, _total(shard.finite_scores(), ctx.group))
            by_epsilon = _in_epsilon(ctx, _total(part, ctx.group))
        given = *ctx.saved_tensors, gradient
        return once(result, *given), once(by_epsilon, *given), None, None


class _Maximum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, theta: Tensor, epsilon: Tensor | None, shard: Shard, group):
        ctx.shard, ctx.group = shard, group
        values, ctx.winners = _decide(shard, group)
        if shard.is_race:
            values = _total(shard.perturbed_scores(ctx.winners), group)
        ctx.save_for_backward(theta, epsilon)
        return _restored(shard, shard.maximum(values), shard.scores.batch)

    @staticmethod
    @on_its_device
    def backward(ctx: Any, gradient: Tensor):  # type: ignore[override]
        shard = ctx.shard
        mean = _restored(shard, shard.mean(ctx.winners), shard.scores.shape)
        result = gradient.detach()[..., None] * mean
        by_epsilon = None
        if ctx.needs_input_grad[1]:
            slope = _total(shard.epsilon_slope_of_maximum(ctx.winners), ctx.group)
            upstream = to_array(gradient, slope).reshape(-1)
            by_epsilon = _in_epsilon(ctx, upstream * slope)
        given = *ctx.saved_tensors, gradient
        return once(result, *given), once(by_epsilon, *given), None, None


def _in_epsilon(ctx: Any, gradient: np.ndarray) -> Tensor:
    """A gradient in the temperatures of rows, (rows,), as that of the parameter: the whole of it,
    the same in every process."""
    shape = ctx.shard.scores.batch
    return summed(ctx.saved_tensors[1], as_tensor(gradient).reshape(shape))


def _restored(shard: Shard, values: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    """A result as theta's kind and dtype."""
    return shard.scores.restore(values.reshape(shape))
