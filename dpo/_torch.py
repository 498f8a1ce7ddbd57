"""torch autograd around the NumPy engine. Imported only once a torch tensor has been seen.

Saved for backward: the scores, the seed, the mean and, where that is small, what was decided for
each sample; the noise is drawn again, but for that of few samples. Differentiating twice is right
where it is offered (``max`` and the loss in ``theta``, whose gradient is the differentiable
perturbed optimum) and an error elsewhere. Exact expectations are differentiable to any order: the
first two derivatives in theta are kernels, the others those of plain torch operations
(``_torch_exact.py``).
"""

from __future__ import annotations

import functools as ft
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ._arrays import owned, view_on_device
from ._device import beside, is_host, launching_on
from ._exact import Expectation
from ._losses import fenchel_young as _fenchel_young

if TYPE_CHECKING:
    from ._perturbed import Call


def _epsilon(call: Call) -> torch.Tensor | None:
    """The temperature, where autograd is to know of it."""
    return call.epsilon if isinstance(call.epsilon, torch.Tensor) else None


_DTYPES = {np.dtype(np.float32): torch.float32, np.dtype(np.float64): torch.float64}


def to_array(gradient: torch.Tensor, like):
    """An incoming gradient as the kernels take it."""
    dense = gradient.detach().to(_DTYPES[like.dtype]).contiguous()
    return dense.numpy() if is_host(like) else view_on_device(dense)


def as_tensor(array) -> torch.Tensor:
    """An array of ours as a tensor."""
    if is_host(array):
        return torch.from_numpy(owned(array))
    return torch.from_dlpack(array)


def from_rows(call: Call, values) -> torch.Tensor:
    """Values of (rows, 1) or (rows, d) temperatures, in the shape of the batch or of theta."""
    shape = call.scores.batch if values.shape[1] == 1 else call.scores.shape
    return as_tensor(values).reshape(shape)


def as_epsilon(call: Call, gradient) -> torch.Tensor:
    """A gradient in (rows, 1) or (rows, d) temperatures, summed to the parameter's shape."""
    return summed(call.epsilon, from_rows(call, gradient))


def summed(epsilon: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """A gradient in the shape of the batch or of theta, summed to that of ``epsilon``."""
    if result.dim() < epsilon.dim():
        result = result.reshape(*result.shape, *(1,) * (epsilon.dim() - result.dim()))
    return result.sum_to_size(epsilon.shape).to(epsilon.dtype)


def on_its_device(backward):
    """Autograd calls ``backward`` with the stream of the forward pass; so do we launch."""

    @ft.wraps(backward)
    def call(ctx, gradient):
        with launching_on(gradient, "torch"):
            return backward(ctx, gradient)

    return call


class _Value(torch.autograd.Function):
    @staticmethod
    def forward(ctx, theta, epsilon, call: Call):
        kept = call.sampler.forward(for_gradient=any(ctx.needs_input_grad[:2]))
        ctx.save_for_backward(theta, epsilon)
        ctx.call, ctx.kept = call, kept
        return call.result(kept.mean, call.scores.shape)

    @staticmethod
    @on_its_device
    def backward(ctx, gradient):
        theta, epsilon = ctx.saved_tensors  # raises if either was changed in place since
        if isinstance(ctx.call.sampler, Expectation) and torch.is_grad_enabled():
            return _exact_vjp(theta, epsilon, gradient, ctx.call)
        return _value_vjp(ctx, gradient)


def _value_vjp(ctx, gradient):
    call, kept = ctx.call, ctx.kept
    rows = call.scores.rows
    v = to_array(gradient, rows).reshape(rows.shape)
    product, result, slope = None, None, None
    if ctx.needs_input_grad[0]:
        product = call.sampler.vjp(v, kept)[0]
        result = call.result(product, call.scores.shape)
    if ctx.needs_input_grad[1]:
        slope = as_epsilon(call, call.sampler.epsilon_vjp(v, product, kept))
    if torch.is_grad_enabled():
        if result is not None:
            result = once(_Adjoint.apply(gradient, result, call), *ctx.saved_tensors)
        return result, once(slope, *ctx.saved_tensors, gradient), None
    return result, slope, None


class _Adjoint(torch.autograd.Function):
    """``v^T J`` as the linear function of ``v`` that it is: what a product ``H v`` by two reverse
    passes differentiates."""

    @staticmethod
    def forward(ctx, v, product, call: Call):
        ctx.call = call
        return product.clone()

    @staticmethod
    @on_its_device
    def backward(ctx, gradient):
        call, rows = ctx.call, ctx.call.scores.rows
        tangent, _ = call.sampler.jvp(to_array(gradient, rows).reshape(rows.shape))
        return once(call.result(tangent, call.scores.shape), gradient), None, None


def once(gradient: torch.Tensor | None, *inputs: torch.Tensor | None) -> torch.Tensor | None:
    """A gradient that under ``create_graph`` is tied to what it depends on, by an error.

    ``once_differentiable`` would not do: where the incoming gradient is a constant it lets this one
    pass for a constant.
    """
    if gradient is None or not torch.is_grad_enabled():
        return gradient
    return gradient + _Once.apply(gradient.detach(), *inputs)


class _Once(torch.autograd.Function):
    """Zero, and an error where it is differentiated: a branch of its own, which derivatives in
    other inputs do not pass through."""

    @staticmethod
    def forward(ctx, like, *inputs):
        return torch.zeros((), dtype=like.dtype, device=like.device)

    @staticmethod
    def backward(ctx, gradient):
        raise NotImplementedError(
            "a mean over samples cannot be differentiated twice; differentiate max or the loss, or "
            "use method='exact' where there is one"
        )


class _Product(torch.autograd.Function):
    """``J v`` of an exact expectation, for a fixed temperature."""

    @staticmethod
    def forward(ctx, theta, v, call: Call):
        ctx.save_for_backward(theta, v)
        ctx.call = call
        rows = call.scores.rows
        product = call.sampler.vjp(to_array(v, rows).reshape(rows.shape))[0]
        return call.result(product, call.scores.shape)

    @staticmethod
    @on_its_device
    def backward(ctx, gradient):
        theta, v = ctx.saved_tensors
        call, rows = ctx.call, ctx.call.scores.rows
        if torch.is_grad_enabled():  # a third derivative
            product = _in_torch(_torch_exact().product, theta, None, call, v)
            slope = torch.autograd.grad(product, theta, gradient, create_graph=True)[0]
        else:
            directions = (to_array(x, rows).reshape(rows.shape) for x in (v, gradient))
            second = call.sampler.second_order_product(*directions)
            slope = call.result(second, call.scores.shape)
        return slope, _Product.apply(theta, gradient, call), None


def _exact_vjp(theta, epsilon, gradient, call: Call):
    """The gradients of an exact value, to be differentiated again."""
    if epsilon is None or not epsilon.requires_grad:
        return _Product.apply(theta, gradient, call), None, None
    value = _in_torch(_torch_exact().optimum, theta, epsilon, call)
    inputs = [x for x in (theta, epsilon) if x.requires_grad]
    slopes = torch.autograd.grad(value, inputs, gradient, create_graph=True)
    by_theta = slopes[0] if theta.requires_grad else None
    return by_theta, slopes[-1], None


def _torch_exact():
    from . import _torch_exact

    return _torch_exact


def _in_torch(function, theta, epsilon, call: Call, *directions):
    """``function`` of ``_torch_exact.py``, with the caller's shapes and dtype."""
    rows = call.scores.rows
    with torch.enable_grad():
        # A view of its own, so that scores without a history can be differentiated by, too.
        x = theta if theta.requires_grad else theta.detach().requires_grad_()
        temperatures = torch.from_numpy(call.whole.epsilon.copy())
        if epsilon is not None:
            temperatures = _expand(epsilon, call)
        shaped = (v.reshape(rows.shape) for v in directions)
        result = function(call.sampler, x.reshape(rows.shape), temperatures, *shaped)
        return result.reshape(call.scores.shape).to(theta.dtype)


def _expand(epsilon: torch.Tensor, call: Call) -> torch.Tensor:
    """Temperatures as ``as_temperatures`` lays them out, still tied to the parameter."""
    scores, columns = call.scores, call.whole.epsilon.shape[1]
    if columns > 1 or epsilon.ndim == len(scores.shape):
        whole = epsilon.expand(scores.shape).reshape(scores.rows.shape)
        return whole if columns > 1 else whole[:, :1]
    return epsilon.expand(scores.batch).reshape(-1, 1)


class _Envelope(torch.autograd.Function):
    """A value per row, ``Fbar - <theta, y> + constant``, whose gradient is ``ybar - y``.

    ``offset`` is the derivative of the constant in ``eps``, shaped like the temperatures.
    """

    @staticmethod
    def forward(ctx, theta, epsilon, y_true, call: Call, targets, constant, offset):
        maximum, _, mean = call.sampler.maximum()
        ctx.save_for_backward(theta, epsilon, y_true)  # whose memory the targets may be
        ctx.call = call, targets, offset, maximum, mean
        value = maximum
        if targets is not None:
            value = _fenchel_young(call.scores.rows, maximum, targets, call.whole.sign, constant)
        return call.result(value, call.scores.batch)

    @staticmethod
    @on_its_device
    def backward(ctx, gradient):
        theta, epsilon, _ = ctx.saved_tensors
        call, targets, _, _, mean = ctx.call
        shape = call.scores.shape
        event = shape[len(call.scores.batch) :]
        scale = gradient.reshape(gradient.shape + (1,) * len(event))
        result, by_epsilon = None, None
        if ctx.needs_input_grad[0]:
            if torch.is_grad_enabled():  # create_graph=True: the same numbers, differentiable again
                slope = _again(theta, epsilon, call, mean)
                if targets is not None:
                    slope = slope - call.whole.sign * call.scores.restore(targets.reshape(shape))
            else:
                by_theta = call.sampler.slope_of_maximum(mean)
                if targets is not None:
                    by_theta = by_theta - call.whole.sign * targets
                slope = call.result(by_theta, shape)
            result = scale * slope
        if ctx.needs_input_grad[1]:
            by_epsilon = _envelope_epsilon(ctx, theta, epsilon, gradient)
        return result, by_epsilon, None, None, None, None, None


def _envelope_epsilon(ctx, theta, epsilon, gradient):
    """The gradient in the temperature."""
    call, _, offset, maximum, mean = ctx.call
    exact = isinstance(call.sampler, Expectation)
    # The offset is eps times a constant where a row has one temperature: its slope stays.
    if exact and torch.is_grad_enabled() and (offset is None or offset.shape[1] == 1):
        with torch.enable_grad():
            x, temperatures = theta.reshape(call.scores.rows.shape), _expand(epsilon, call)
            value = _torch_exact().potential(call.sampler, x, temperatures)
            if offset is not None:
                value = value + (temperatures * torch.from_numpy(offset))[:, 0]
            value, upstream = value.reshape(gradient.shape), gradient.double()
            return torch.autograd.grad(value, epsilon, upstream, create_graph=True)[0]
    by_epsilon = call.sampler.epsilon_slope_of_maximum(maximum, mean)
    if offset is not None:
        by_epsilon = by_epsilon + beside(offset, by_epsilon)
    rows = to_array(gradient.double(), by_epsilon).reshape(-1, 1)
    by_epsilon = as_epsilon(call, rows * by_epsilon)
    return as_constant(by_epsilon, theta, epsilon, gradient)


def _again(theta, epsilon, call: Call, mean: np.ndarray) -> torch.Tensor:
    """``d Fbar / d theta`` as a differentiable function of theta and epsilon."""
    if call.whole.draws.multiplicative:
        result = call.result(call.sampler.slope_of_maximum(mean), call.scores.shape)
        return as_constant(result, theta, epsilon)
    return call.whole.sign * _Value.apply(theta, epsilon, call)


def as_constant(result: torch.Tensor, *inputs: Any) -> torch.Tensor:
    """A result that depends on ``inputs`` and has no derivative: in any of them an error."""
    tied = [x for x in inputs if isinstance(x, torch.Tensor) and x.requires_grad]
    return _Constant.apply(result, *tied) if tied and torch.is_grad_enabled() else result


class _Constant(torch.autograd.Function):
    @staticmethod
    def forward(ctx, result, *inputs):
        return result.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise NotImplementedError(
            "samples, estimates, explicit derivatives, what pullback returns and derivatives in "
            "epsilon are not differentiable; differentiate layer(theta), layer.max(theta) or "
            "layer.loss(theta, y_true), or detach theta first"
        )


def is_functional() -> bool:
    """Whether calls are being transformed by ``torch.func`` or forward-mode differentiation."""
    return (
        torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0
    )


def is_transformed() -> bool:
    """Whether calls are being transformed, or traced."""
    return (
        torch.compiler.is_compiling() or is_functional() or torch._C._len_torch_dispatch_stack() > 0
    )


def transformed(name: str, layer, theta, *args, **parameters):
    """``layer.name(theta, ...)`` as operators of torch's, see ``_torch_operators.py``."""
    from . import _torch_operators

    return _torch_operators.call(name, layer, theta, *args, **parameters)


def made(name: str, oracle, options: tuple, fields: dict, theta, *args, **parameters):
    """``Perturbed(oracle(*options), **fields).name(theta, ...)``, in the same way."""
    from . import _torch_operators

    return _torch_operators.call_made(name, oracle, options, fields, theta, *args, **parameters)


def perturbed_value(call: Call) -> torch.Tensor:
    """``Perturbed.__call__`` on a tensor."""
    return _Value.apply(call.theta, _epsilon(call), call)


def perturbed_max(call: Call) -> torch.Tensor:
    """``Perturbed.max`` on a tensor."""
    return _Envelope.apply(call.theta, _epsilon(call), None, call, None, None, None)


def fenchel_young(
    call: Call,
    y_true: torch.Tensor,
    targets: np.ndarray,
    constant: np.ndarray,
    offset: np.ndarray | None,
) -> torch.Tensor:
    """``Perturbed.loss`` on a tensor; ``targets`` are ``y_true`` as rows."""
    given = call.theta, _epsilon(call), y_true, call, targets, constant, offset
    return _Envelope.apply(*given)


def constant(call: Call, result: torch.Tensor, *directions: Any) -> torch.Tensor:
    """``result``, tied to its inputs only by an error on ``backward``."""
    return as_constant(result, call.theta, call.epsilon, *directions)
