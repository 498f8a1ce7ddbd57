"""torch autograd around any function of perturbed scores. Imported once a tensor has been seen.

The function runs on tensors, on theta's device; noise and sums are NumPy's, so that scores on a GPU
come from the CPU and results go there (not yet run on a GPU). Saved for backward are the scores,
the seed, the mean and, within ``memory``, the solutions. Differentiating twice is right where it is
offered (``max`` and ``loss`` in theta, whose gradient is the perturbed solution) and otherwise an
error; so is a gradient that would have to flow through the function itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from . import _trees as trees
from ._device import launching_on
from ._losses import fenchel_young as _fenchel_young
from ._torch import as_constant, as_epsilon, is_functional, on_its_device, once

if TYPE_CHECKING:
    from ._black_box import PerturbedFunction
    from ._black_box_call import Call


class Watched:
    """A function of tensors whose results must need no gradient of their own."""

    def __init__(self, fun: Callable):
        self.__wrapped__ = fun
        self.enabled = torch.is_grad_enabled()

    def __call__(self, *args, **kwargs) -> Any:
        # In other threads the caller's mode may not be the current one.
        if torch.is_grad_enabled() == self.enabled:
            result = self.__wrapped__(*args, **kwargs)
        else:
            with torch.set_grad_enabled(self.enabled):
                result = self.__wrapped__(*args, **kwargs)
        if type(result) is np.ndarray:  # a solver's: no time is to be lost
            return result
        if any(getattr(leaf, "requires_grad", False) for leaf in trees.leaves(result)):
            raise TypeError(
                "the function's result requires a gradient of its own: it depends on tensors (of "
                "its arguments or of a model) that do. Derivatives are those in theta and epsilon "
                "alone; detach those tensors, or compute under torch.no_grad()"
            )
        return result


def _as_called(call: Call) -> torch.set_grad_enabled:
    """The mode of the caller, which within a forward pass is not the current one."""
    assert isinstance(call.whole.solver.fun, Watched)
    return torch.set_grad_enabled(call.whole.solver.fun.enabled)


def _host(gradient: torch.Tensor, call: Call) -> np.ndarray:
    """An incoming gradient in the dtype of the sums."""
    return gradient.detach().cpu().double().numpy().astype(call.whole.theta.dtype)


def _restored(call: Call, values: np.ndarray, shape: tuple[int, ...]) -> torch.Tensor:
    return call.scores.restore(values.reshape(shape))


class _Value(torch.autograd.Function):
    """``ybar``, (rows, D)."""

    @staticmethod
    def forward(ctx, theta, epsilon, call: Call):
        with _as_called(call):
            ctx.kept = call.sampler.forward(for_gradient=any(ctx.needs_input_grad[:2]))
        ctx.save_for_backward(theta, epsilon)
        ctx.call = call
        return _restored(call, ctx.kept.mean, ctx.kept.mean.shape)

    @staticmethod
    @on_its_device
    def backward(ctx, gradient):
        theta, epsilon = ctx.saved_tensors
        call, kept = ctx.call, ctx.kept
        v = _host(gradient, call)
        product, by_theta, by_epsilon = None, None, None
        if ctx.needs_input_grad[0]:
            product = call.sampler.vjp(v, kept)[0]
            result = _restored(call, product, call.scores.shape)
            by_theta = once(result, theta, epsilon, gradient)
        if ctx.needs_input_grad[1]:
            slope = as_epsilon(call, call.sampler.epsilon_vjp(v, product, kept))
            by_epsilon = once(slope, theta, epsilon, gradient)
        return by_theta, by_epsilon, None


class _Envelope(torch.autograd.Function):
    """``Fbar - <theta, y> + offset`` of every row, whose gradient is ``ybar - y``."""

    @staticmethod
    def forward(ctx, theta, epsilon, call: Call, y_true, targets, offset, slope):
        with _as_called(call):
            maximum, _, mean = call.sampler.maximum()
        ctx.save_for_backward(theta, epsilon, y_true)  # whose memory the targets may be
        ctx.call = call, targets, slope, maximum, mean
        value = maximum
        if targets is not None:
            sign = call.whole.sign
            value = _fenchel_young(call.whole.theta, maximum, targets, sign, offset)
        return _restored(call, value, call.scores.batch)

    @staticmethod
    @on_its_device
    def backward(ctx, gradient):
        theta, epsilon, _ = ctx.saved_tensors
        call, targets, slope, maximum, mean = ctx.call
        shape, sampler = call.scores.shape, call.sampler
        by_theta, by_epsilon = None, None
        if ctx.needs_input_grad[0]:
            residual = _slope(theta, epsilon, call, mean)
            if targets is not None:
                residual = residual - call.whole.sign * _restored(call, targets, shape)
            by_theta = gradient.reshape(gradient.shape + (1,) * len(call.event)) * residual
        if ctx.needs_input_grad[1]:
            by_epsilon = sampler.epsilon_slope_of_maximum(maximum, mean) + slope
            weighted = _host(gradient, call).reshape(-1, 1).astype(np.float64) * by_epsilon
            by_epsilon = as_constant(as_epsilon(call, weighted), theta, epsilon, gradient)
        return by_theta, by_epsilon, None, None, None, None, None


def _slope(theta, epsilon, call: Call, mean: np.ndarray) -> torch.Tensor:
    """``d Fbar / d theta``; under ``create_graph`` the same numbers, differentiable again."""
    sampler, shape = call.sampler, call.scores.shape
    if not torch.is_grad_enabled():
        return _restored(call, sampler.slope_of_maximum(mean), shape)
    if call.whole.draws.multiplicative:
        slope = _restored(call, sampler.slope_of_maximum(mean), shape)
        return as_constant(slope, theta, epsilon)
    return call.whole.sign * _Value.apply(theta, epsilon, call).reshape(shape)


@torch.compiler.disable(reason="the function runs between graphs")
def eagerly(method, function: PerturbedFunction, theta, *args, **parameters):
    """Call a ``method`` outside ``torch.compile``'s graphs, on the tensor's stream."""
    if is_functional():
        raise NotImplementedError(
            "a dpo.perturbed function runs eagerly, on real tensors: in torch.func and forward "
            "mode use dpo.Perturbed, with a solver of your own by @dpo.oracle"
        )
    with launching_on(theta, "torch"):
        return method(function, theta, *args, **parameters)


def _apply(function: type[torch.autograd.Function], call: Call, *rest: Any) -> torch.Tensor:
    epsilon = call.epsilon if isinstance(call.epsilon, torch.Tensor) else None
    return function.apply(call.theta, epsilon, call, *rest)


def value(call: Call) -> Any:
    """``PerturbedFunction.__call__`` on a tensor."""
    flat = _apply(_Value, call)
    parts = zip(call.structure.split(flat), call.structure.shapes, strict=True)
    return call.structure.tree([x.reshape(call.scores.batch + shape) for x, shape in parts])


def maximum(call: Call) -> torch.Tensor:
    """``PerturbedFunction.max`` on a tensor."""
    return _apply(_Envelope, call, None, None, None, 0.0)


def fenchel_young(
    call: Call, y_true: torch.Tensor, targets: np.ndarray, offset: np.ndarray, slope: np.ndarray
) -> torch.Tensor:
    """``PerturbedFunction.loss`` on a tensor; ``targets`` are ``y_true`` as rows."""
    return _apply(_Envelope, call, y_true, targets, offset, slope)


def constant(call: Call, result: torch.Tensor) -> torch.Tensor:
    """``result``, tied to its inputs only by an error on ``backward``."""
    return as_constant(result, call.theta, call.epsilon, *call.directions)
