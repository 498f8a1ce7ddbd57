"""What the operations of ``_jax.py`` do, on real arrays: JAX's or NumPy's.

Leading axes that ``vmap`` has added are independent calls.
"""

from __future__ import annotations

import functools as ft
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from ._arrays import as_companion
from ._device import as_host, beside, namespace
from ._losses import fenchel_young
from ._seeds import Place, as_place

if TYPE_CHECKING:
    from ._perturbed import Perturbed


class Spec(NamedTuple):
    """What a trace fixes; hashable, so that an equal call is not compiled again."""

    operation: str
    layer: Perturbed
    """At temperature 1: the operand says which."""
    axes: int
    """Of the scores, as the user's function sees them: axes before those are ``vmap``'s."""
    options: tuple = ()
    """The method's name and its keyword arguments, or what an operation needs to know."""
    slopes: tuple[str, ...] = ()
    """Of ``max`` and ``loss``: in what the slopes are, "theta" or "epsilon"."""
    kept: int = 0
    """Words a row of what a value leaves for its derivatives: a result of the one, (..., kept)
    uint32, and the last array beside the scores of the others."""


def _sampled(layer, theta, place, of: str):
    """The call on the samples that ``of`` sees, whatever they are used for."""
    return layer._prepare(theta, place, of)[0]


def _value(spec: Spec, layer, theta, place):
    if not spec.kept:
        return (layer(theta, seed=place),)
    call = _sampled(layer, theta, place, "value")
    mean, words = call.sampler.packed_forward(spec.kept)
    return call.result(mean, call.scores.shape), words.reshape(*call.scores.batch, spec.kept)


def _kept(call, words):
    """What a value left, if anything."""
    return call.sampler.unpacked(np.asarray(words[0])) if words else None


def _product(spec: Spec, layer, theta, place, t, *kept):
    call = _sampled(layer, theta, place, *spec.options)
    product, _ = call.sampler.jvp(as_companion(t, "a tangent", call.scores))
    return (call.result(product, call.scores.shape),)


def _adjoint(spec: Spec, layer, theta, place, v, *kept):
    call = _sampled(layer, theta, place, *spec.options)
    v = as_companion(v, "a tangent", call.scores)
    product, _ = call.sampler.vjp(v, _kept(call, kept))
    return (call.result(product, call.scores.shape),)


def _second(spec: Spec, layer, theta, place, v, w):
    call = _sampled(layer, theta, place, *spec.options)
    v, w = (as_companion(x, "a tangent", call.scores) for x in (v, w))
    return (call.result(call.sampler.second_order_product(v, w), call.scores.shape),)


def _epsilon_product(spec: Spec, layer, theta, place, tangent, *kept):
    call = _sampled(layer, theta, place, *spec.options)
    columns = call.whole.epsilon.shape[1]
    t = as_companion(tangent, "a tangent", call.scores)[:, :columns]
    return (call.result(call.sampler.epsilon_jvp(t), call.scores.shape),)


def _epsilon_adjoint(spec: Spec, layer, theta, place, v, *kept):
    call = _sampled(layer, theta, place, *spec.options)
    v = as_companion(v, "a tangent", call.scores)
    return (_like_epsilon(call, call.sampler.epsilon_vjp(v, None, _kept(call, kept))),)


def _like_epsilon(call, slope):
    """A slope in (rows, 1) or (rows, d) temperatures, as the operand."""
    epsilon = call.epsilon
    slope = slope.reshape(epsilon.shape).astype(epsilon.dtype)
    return jnp.asarray(as_host(slope)) if isinstance(epsilon, jax.Array) else slope


def _maximum(spec: Spec, layer, theta, place, *y_true):
    """``max`` or ``loss``, and slopes of it, from one pass over the samples."""
    if not spec.slopes:
        if y_true:
            return (layer.loss(theta, *y_true, seed=place, normalize=spec.options[0]),)
        return (layer.max(theta, seed=place),)
    call = _sampled(layer, theta, place, "max")
    maximum, _, mean = call.sampler.maximum()
    value, by_offset = maximum, None
    if y_true:
        targets, offset, by_offset = layer._targets(call, *y_true, *spec.options)
        value = fenchel_young(call.scores.rows, value, targets, call.whole.sign, offset)
    results = [call.result(value, call.scores.batch)]
    if "theta" in spec.slopes:
        results.append(call.result(call.sampler.slope_of_maximum(mean), call.scores.shape))
    if "epsilon" in spec.slopes:
        slope = call.sampler.epsilon_slope_of_maximum(maximum, mean)
        if by_offset is not None:
            slope = slope + beside(by_offset, slope)
        results.append(_like_epsilon(call, slope))
    return tuple(results)


def _method(spec: Spec, layer, theta, place, *directions):
    name, parameters = spec.options
    if name == "estimate":
        direction = directions[0] if directions else None
        result = layer.estimate(theta, seed=place, direction=direction, **dict(parameters))
        number = np.broadcast_to(np.asarray(result.num_samples, np.uint32), batch_of(layer, theta))
        return result.mean, result.standard_error, number
    return (getattr(layer, name)(theta, *directions, seed=place, **dict(parameters)),)


OPERATIONS: dict[str, Callable[..., tuple]] = {
    "value": _value,
    "max": _maximum,
    "loss": _maximum,
    "product": _product,
    "adjoint": _adjoint,
    "second": _second,
    "epsilon_product": _epsilon_product,
    "epsilon_adjoint": _epsilon_adjoint,
    "method": _method,
}
LINEAR = {
    "product": "adjoint",
    "adjoint": "product",
    "second": "second",
    "epsilon_product": "epsilon_adjoint",
    "epsilon_adjoint": "epsilon_product",
}
"""Operations that are linear in the arrays beside the scores, and their transposes."""


def batch_of(layer, theta) -> tuple[int, ...]:
    return theta.shape[: theta.ndim - layer.oracle.event_ndim]


def run(theta, seeds, offsets, epsilon, *arrays, spec: Spec):
    """An operation on real arrays, JAX's or NumPy's, whose leading axes are independent calls."""
    mapped = theta.ndim - spec.axes
    layer = spec.layer._at(epsilon)
    operation = ft.partial(OPERATIONS[spec.operation], spec, layer)
    seeds, offsets = np.asarray(seeds), np.asarray(offsets)
    calls = theta.shape[:mapped]
    words = seeds.reshape(int(np.prod(calls)), *seeds.shape[mapped:])
    firsts = offsets.reshape(len(words), 2)
    if (words == words[:1]).all() and (firsts == firsts[:1]).all():
        rows = np.arange(int(np.prod(batch_of(layer, theta)[mapped:])))
        return operation(theta, _place(words, firsts, np.tile(rows, len(words))), *arrays)
    each = (theta, seeds, offsets, epsilon, *arrays)
    results = [run(*(x[i][None] for x in each), spec=spec) for i in np.ndindex(calls)]
    stack = jnp.stack if isinstance(theta, jax.Array) else namespace(theta).stack
    return tuple(
        stack([r[0] for r in of]).reshape(calls + of[0].shape[1:])
        for of in zip(*results, strict=True)
    )


def _place(words, firsts, rows) -> Place:
    """Where the rows of calls of one seed are in the noise contract."""
    if len(words) == 0:
        return Place(0)
    place = as_place(words[0], *firsts[0])
    return place if len(words) == 1 else place._replace(rows=rows)
