"""torch autograd around the NumPy engine. Imported only once a torch tensor has been seen.

Saved for backward: the scores, the seed, the mean and, where that is small, which coordinate won
each sample; the noise is drawn again. Differentiating
twice is right where it is offered (``max`` and the loss, whose gradient is the differentiable
perturbed argmax) and an error elsewhere.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from ._arrays import Scores
from ._engine import Sampler
from ._losses import fenchel_young as _fenchel_young


def _numpy(gradient: torch.Tensor, like: np.ndarray) -> np.ndarray:
    """An incoming gradient as the kernels take it."""
    dense = gradient.detach().to(torch.from_numpy(like[:0]).dtype)
    return np.ascontiguousarray(dense.numpy())


class _Value(torch.autograd.Function):
    @staticmethod
    def forward(ctx, theta, scores: Scores, sampler: Sampler):
        winners = sampler.room_for_winners() if ctx.needs_input_grad[0] else None
        mean = sampler.decide(winners)
        ctx.call = scores, sampler, mean, winners
        return scores.restore(mean.reshape(scores.shape))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        scores, sampler, mean, winners = ctx.call
        v = _numpy(gradient, sampler.theta).reshape(sampler.theta.shape)
        result, _ = sampler.vjp(v, mean, winners)
        return scores.restore(result.reshape(scores.shape)), None, None


class _Envelope(torch.autograd.Function):
    """A value per row whose gradient is ``ybar - target``, from the same samples."""

    @staticmethod
    def forward(ctx, theta, scores: Scores, sampler: Sampler, value, residual, target):
        ctx.save_for_backward(theta)
        ctx.call = scores, sampler, residual, target
        return scores.restore(value.reshape(scores.shape[:-1]))

    @staticmethod
    def backward(ctx, gradient):
        (theta,) = ctx.saved_tensors
        scores, sampler, residual, target = ctx.call
        if torch.is_grad_enabled():  # create_graph=True: the same numbers, differentiable again
            slope = _Value.apply(theta, scores, sampler)
            if target is not None:
                slope = slope - scores.restore(target.reshape(scores.shape))
        else:
            slope = scores.restore(residual.reshape(scores.shape))
        return gradient.unsqueeze(-1) * slope, None, None, None, None, None


class _Constant(torch.autograd.Function):
    @staticmethod
    def forward(ctx, theta, result):
        return result.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise NotImplementedError(
            "samples, estimates and explicit derivatives are not differentiable; differentiate "
            "layer(theta), layer.max(theta) or layer.loss(theta, y_true), or detach theta first"
        )


@torch.compiler.disable(reason="dpo layers run between graphs; fullgraph=True is not available yet")
def eagerly(method, *args, **parameters):
    """Call ``method`` outside ``torch.compile``'s graphs."""
    return method(*args, **parameters)


def perturbed_value(theta: torch.Tensor, scores: Scores, sampler: Sampler) -> torch.Tensor:
    """``Perturbed.__call__`` on a tensor."""
    return _Value.apply(theta, scores, sampler)


def perturbed_max(theta: torch.Tensor, scores: Scores, sampler: Sampler) -> torch.Tensor:
    """``Perturbed.max`` on a tensor."""
    maximum, _, mean = sampler.maximum()
    return _Envelope.apply(theta, scores, sampler, maximum, mean, None)


def fenchel_young(
    theta: torch.Tensor, scores: Scores, sampler: Sampler, targets: np.ndarray, offset: np.ndarray
) -> torch.Tensor:
    """``Perturbed.loss`` on a tensor."""
    value, residual = _fenchel_young(sampler, targets, offset)
    return _Envelope.apply(theta, scores, sampler, value, residual, targets)


def constant(theta: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """``result``, tied to ``theta`` only by an error on ``backward``."""
    if theta.requires_grad and torch.is_grad_enabled():
        return _Constant.apply(theta, result)
    return result
