"""Rows and samples shared out among the processes of ``torch.distributed``: ``distributed.py``."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ._device import as_host, beside, launching_on
from ._perturbed import Perturbed
from ._seeds import as_place, as_seed
from ._torch import once, to_array


def row_offset(rows: int, group: dist.ProcessGroup | None) -> int:
    """See ``distributed.py``."""
    counts: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(counts, rows, group)
    return sum(counts[: dist.get_rank(group)])


def sharded(layer: Perturbed, theta: Tensor, *, seed, group) -> Tensor:
    """See ``distributed.py``."""
    world = dist.get_world_size(group)
    if not isinstance(layer.num_samples, int) or layer.variance_reduction not in ("loo", "none"):
        raise ValueError(
            "sharded samples are independent: use a fixed num_samples and variance_reduction='loo' "
            f"or 'none', got {layer!r}"
        )
    if layer.method != "mc":
        raise ValueError(f"sharded is for method='mc', got {layer.method!r}: share out the batch")
    if layer.num_samples < world:
        raise ValueError(
            f"num_samples must be at least the number of processes, {world}, got "
            f"{layer.num_samples}"
        )
    if isinstance(layer.epsilon, Tensor) and layer.epsilon.requires_grad:
        raise ValueError("sharded has no gradient in epsilon: pass epsilon.detach()")
    return _Sharded.apply(theta, layer, as_seed(seed, "torch"), group)


def _share(layer: Perturbed, theta: Tensor, seed, group):
    """The call on this process's share of the samples."""
    rank, world, total = dist.get_rank(group), dist.get_world_size(group), layer.num_samples
    assert isinstance(total, int)
    first, end = (total * k // world for k in (rank, rank + 1))
    place = as_place(seed, 0, first)
    share = dataclasses.replace(layer, num_samples=end - first)
    return share._prepare(theta.detach(), place, "value")[0]


def _sum(array, like: Tensor, group) -> np.ndarray:
    """An array summed over the processes."""
    result = torch.from_numpy(np.ascontiguousarray(as_host(array))).to(like.device)
    dist.all_reduce(result, group=group)
    return result.cpu().numpy()


class _Sharded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, theta, layer: Perturbed, seed, group):
        with launching_on(theta, "torch"):
            call = _share(layer, theta, seed, group)
            own = call.sampler.forward(for_gradient=ctx.needs_input_grad[0])
            counts = np.rint(as_host(own.mean) * call.sampler.num_samples).astype(np.int64)
            mean = _sum(counts, theta, group) / layer.num_samples
            ctx.layer, ctx.call, ctx.group = layer, call, group
            ctx.kept, ctx.mean = own, mean
            ctx.save_for_backward(theta)
            return call.result(mean, call.scores.shape)

    @staticmethod
    def backward(ctx, gradient):
        """``sum_m <v, y_m - mean> s_m``, centred by the mean of all samples."""
        call, total = ctx.call, ctx.layer.num_samples
        rows, sampler = call.scores.rows, call.sampler
        centred = sampler.centred and total > 1
        with launching_on(gradient, "torch"):
            v = to_array(gradient, rows).reshape(rows.shape)
            if centred:
                sampler = sampler._replace(centre=beside(ctx.mean, rows))
            part = sampler.vjp(v, ctx.kept)[0] * sampler.num_samples
            product = _sum(part, gradient, ctx.group) / (total - centred)
            result = call.result(product, call.scores.shape)
            return once(result, *ctx.saved_tensors, gradient), None, None, None
