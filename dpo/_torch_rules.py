"""Derivatives of the operators of ``_torch_operators.py``, reverse and forward, each by operators.

Inputs are (theta, epsilon or None, seed, *tensors, layer, axes, *options): ``axes`` is the number
of the scores' axes as the user's function sees them, those before being ``vmap``'s.
"""

from __future__ import annotations

import torch

from ._checks import refuse_second_slope
from ._perturbed import Perturbed
from ._torch_layers import named_layer

FUNCTIONS: dict[str, type[torch.autograd.Function]] = {}
"""An autograd function an operator, of the rules below, for ``torch.func`` and forward mode."""


def apply(name: str, *inputs):
    """An operator, differentiable by its rules."""
    if torch.compiler.is_compiling():
        return getattr(torch.ops.dpo, name).default(*inputs)
    return FUNCTIONS[name].apply(*inputs)


class Rule:
    """An operator without derivatives; others override what they have."""

    arrays = 0
    """Tensors after the seed."""

    @classmethod
    def save(cls, ctx, inputs, output):
        theta, epsilon, seed, *rest = inputs
        tensors = (theta, epsilon, seed, *rest[: cls.arrays])
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.where, ctx.options = rest[cls.arrays : cls.arrays + 2], rest[cls.arrays + 2 :]
        ctx.set_materialize_grads(False)

    @classmethod
    def backward(cls, ctx, *gradients):
        raise _not_differentiable()

    @classmethod
    def jvp(cls, ctx, *tangents):
        raise _not_differentiable()


def _not_differentiable() -> NotImplementedError:
    return NotImplementedError(
        "samples, estimates, explicit derivatives, second derivatives and derivatives in epsilon "
        "are not differentiable; differentiate layer(theta), layer.max(theta) or "
        "layer.loss(theta, y_true), or detach theta first"
    )


def _refuse_epsilon(what: str) -> None:
    raise NotImplementedError(
        f"{what} cannot be differentiated in epsilon here: use backward() on an eager call with "
        "method='exact', or detach epsilon"
    )


class ValueRule(Rule):
    @classmethod
    def save(cls, ctx, inputs, output):
        super().save(ctx, inputs, output)
        tensors = (*inputs[:3], output[1])
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @classmethod
    def backward(cls, ctx, v, _):
        theta, epsilon, seed, kept = ctx.saved_tensors
        given, by_epsilon = (theta, epsilon, seed, v), None
        product = apply("adjoint", *given, kept, *ctx.where, "value")
        if ctx.needs_input_grad[1]:
            by_epsilon = apply("value_in_epsilon", *given, product, kept, *ctx.where)
        return product, by_epsilon, None, None, None, None

    @classmethod
    def jvp(cls, ctx, t, t_epsilon, *_):
        *given, kept = ctx.saved_tensors
        return _change_of_value(ctx, given, t, t_epsilon, kept, "value"), None


def _change_of_value(ctx, given, t, t_epsilon, kept, of: str):
    """``J t + d y / d eps t_epsilon``, on the samples that ``of`` sees."""
    terms = []
    if t is not None:
        terms.append(apply("product", *given, t, kept, *ctx.where, of))
    if t_epsilon is not None:
        terms.append(apply("value_along_epsilon", *given, t_epsilon, *ctx.where, of))
    return sum(terms[1:], terms[0])


class ProductRule(Rule):
    """``J t``: linear in the vector; in theta it has a derivative where it is exact."""

    arrays = 2
    same, swapped = "product", "adjoint"

    @classmethod
    def backward(cls, ctx, u):
        theta, epsilon, seed, t, kept = ctx.saved_tensors
        by_theta = by_t = None
        if ctx.needs_input_grad[1]:
            _refuse_epsilon("a derivative of the perturbed optimum")
        if ctx.needs_input_grad[0]:
            by_theta = apply("second", theta, epsilon, seed, t, u, *ctx.where, *ctx.options)
        if ctx.needs_input_grad[3]:
            by_t = apply(cls.swapped, theta, epsilon, seed, u, kept, *ctx.where, *ctx.options)
        return by_theta, None, None, by_t, None, None, None, None

    @classmethod
    def jvp(cls, ctx, along, along_epsilon, _, moved, *__):
        theta, epsilon, seed, t, kept = ctx.saved_tensors
        if along_epsilon is not None:
            _refuse_epsilon("a derivative of the perturbed optimum")
        terms = []
        if moved is not None:
            given = (theta, epsilon, seed, moved, kept)
            terms.append(apply(cls.same, *given, *ctx.where, *ctx.options))
        if along is not None:
            given = (theta, epsilon, seed, t, along, *ctx.where, *ctx.options)
            terms.append(apply("second", *given))
        return sum(terms[1:], terms[0])


class AdjointRule(ProductRule):
    """``v^T J``, likewise."""

    same, swapped = "adjoint", "product"


class MaximumRule(Rule):
    arrays = 1

    @classmethod
    def save(cls, ctx, inputs, output):
        super().save(ctx, inputs, output)
        _, slope, offset_slope = output
        tensors = (*inputs[:3], slope, offset_slope)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @classmethod
    def backward(cls, ctx, v, v_slope, v_offset):
        theta, epsilon, seed, slope, offset_slope = ctx.saved_tensors
        layer = named_layer(ctx.where[0])
        by_theta = by_epsilon = None
        if v is not None and ctx.needs_input_grad[0]:
            scale = v.reshape(*v.shape, *(1,) * layer.oracle.event_ndim)
            by_theta = scale * slope
        if v_slope is not None:
            product = cls._along_slope(ctx, theta, epsilon, seed, v_slope)
            by_theta = product if by_theta is None else by_theta + product
        if ctx.needs_input_grad[1]:
            if v_slope is not None or v_offset is not None:
                _refuse_epsilon("a gradient of max or the loss")
            given = (theta, epsilon, seed, v, offset_slope, *ctx.where)
            by_epsilon = apply("maximum_in_epsilon", *given)
        return by_theta, by_epsilon, None, None, None, None, None

    @classmethod
    def _along_slope(cls, ctx, theta, epsilon, seed, v):
        """``v^T`` times the slope's derivative; the slope is the perturbed optimum, up to sign."""
        layer = named_layer(ctx.where[0])
        if layer.perturbation == "multiplicative":
            refuse_second_slope()
        product = apply("adjoint", theta, epsilon, seed, v, None, *ctx.where, "max")
        return product if _sign(layer, theta) > 0 else -product

    @classmethod
    def jvp(cls, ctx, t, t_epsilon, *_):
        theta, epsilon, seed, slope, offset_slope = ctx.saved_tensors
        layer = named_layer(ctx.where[0])
        changes = []
        if t is not None:
            changes.append((slope * t).sum(tuple(range(-layer.oracle.event_ndim, 0))))
        if t_epsilon is not None:
            given = (theta, epsilon, seed, t_epsilon, offset_slope, *ctx.where)
            changes.append(apply("maximum_along_epsilon", *given))
        # What slopes change by is seen by second derivatives alone.
        if layer.perturbation == "multiplicative":
            moved = torch.full_like(slope, torch.nan)
        else:
            moved = _change_of_value(ctx, (theta, epsilon, seed), t, t_epsilon, None, "max")
            moved = moved if _sign(layer, theta) > 0 else -moved
        linear = t_epsilon is None or layer.method == "mc"  # the offset is, in the temperature
        offset_moved = torch.full_like(offset_slope, 0.0 if linear else torch.nan)
        return sum(changes[1:], changes[0]), moved, offset_moved


def _sign(layer: Perturbed, theta) -> int:
    """-1 where scores are costs."""
    return -1 if layer.oracle.problem(tuple(theta.shape)).minimises else 1


class OneVector(Rule):
    arrays = 1


class TwoVectors(Rule):
    arrays = 2


class ThreeVectors(Rule):
    arrays = 3
