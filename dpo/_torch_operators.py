"""Layers inside torch.compile, torch.func and forward-mode AD: the operators ``torch.ops.dpo``.

Eager calls under plain autograd do not come here (``_torch.py``, which keeps what a forward pass
leaves behind); programs of torch do. An operator is a pure function of tensors, any of which may be
traced, and of the name of a layer in a register:

    operator               results                           reverse          forward
    value                  y = layer(theta)                  adjoint, in eps  product, along eps
    maximum                F or the loss, and dF / dtheta    its results      its results, product
    product                J t                               adjoint, second  product, second
    adjoint                v^T J                             product, second  adjoint, second
    second                 D^2 y [v, w], where exact
    value_in_epsilon       v^T d y / d eps
    value_along_epsilon    d y / d eps t
    maximum_in_epsilon     v^T d F / d eps
    maximum_along_epsilon  d F / d eps t
    explicit               any other method

Where no derivative is given there is an error. The seed is a tensor, together with what the first
row and sample are called, so that one compiled program serves every step.

``vmap`` maps: each instance is what the call of it alone gives, with the noise of its own rows and
its seed. Instances of one seed are one launch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from operator import index
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._arrays import as_companion, kind_of, spread
from ._device import launching_on
from ._engine import Sampler, kept_words
from ._estimate import Estimate
from ._exact import Expectation
from ._losses import check_needs_no_gradient, fenchel_young
from ._noise import Noise
from ._perturbed import DESIGNS, Call, Perturbed
from ._seeds import Place, as_place, as_seed
from ._torch import as_epsilon, from_rows, to_array
from .kernels.codes import Draws

_WORD = 2**32
_LAYERS: dict[str, Perturbed] = {}


@torch.compiler.assume_constant_result
def _registered(*parts) -> str:
    """The name by which operators find the layer of these field values, see ``_parts``."""
    layer = Perturbed(*(x[0](*x[1]) if isinstance(x, tuple) else x for x in parts))
    _LAYERS[repr(layer)] = layer
    return repr(layer)


@torch.compiler.assume_constant_result
def _field_names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def _parts(x: Any) -> Any:
    """A field's value, as constants that a program compares; it would trace an integer.

    A dataclass is its type and its own values.
    """
    if x is None or isinstance(x, (str, float, bool)):
        return x
    if isinstance(x, int):
        return index(x)
    if isinstance(x, tuple):
        return tuple([_parts(y) for y in x])
    return type(x), tuple([_parts(getattr(x, name)) for name in _field_names(type(x))])


def _layer(name: str) -> Perturbed:
    if name not in _LAYERS:
        raise RuntimeError(
            f"this program needs a layer that is not known in this process: call {name} once, "
            "inside torch.func or torch.compile, before running it"
        )
    return _LAYERS[name]


# -------------------------------------------------------------------- what operators do and return


def _value(layer: Perturbed, theta, place: Place, kept: int):
    """The value, and what it leaves for its derivatives: ``kept`` words a row."""
    call, _ = layer._prepare(theta, place, "value")
    if kept:
        assert isinstance(call.sampler, Sampler)
        mean, words = call.sampler.packed_forward()
        left = torch.from_numpy(words.view(np.int32))
    else:
        mean, left = call.sampler.forward().mean, theta.new_empty(0, dtype=torch.int32)
    return call.result(mean, call.scores.shape), left.reshape(*call.scores.batch, kept)


def _kept(call: Call, words: Tensor | None):
    """What a value left, if anything."""
    if words is None or words.shape[-1] == 0:
        return None
    assert isinstance(call.sampler, Sampler)
    return call.sampler.unpacked(words.contiguous().numpy().view(np.uint32))


def _product(layer: Perturbed, theta, place: Place, t, kept, of: str):
    call, _ = layer._prepare(theta, place, of)
    product, _ = call.sampler.jvp(as_companion(t, "a tangent", call.scores))
    return call.result(product, call.scores.shape)


def _adjoint(layer: Perturbed, theta, place: Place, v, kept, of: str):
    call, _ = layer._prepare(theta, place, of)
    product, _ = call.sampler.vjp(as_companion(v, "a tangent", call.scores), _kept(call, kept))
    return call.result(product, call.scores.shape)


def _second(layer: Perturbed, theta, place: Place, v, w, of: str):
    call, _ = layer._prepare(theta, place, of)
    if not isinstance(call.sampler, Expectation):
        raise NotImplementedError(
            "the perturbed optimum cannot be differentiated twice by sampling; use method='exact'"
        )
    directions = (as_companion(x, "a tangent", call.scores) for x in (v, w))
    return call.result(call.sampler.second_order_product(*directions), call.scores.shape)


def _maximum(layer: Perturbed, theta, place: Place, y_true, normalize: bool):
    """``F`` or the loss, its slope in theta, and that of its offset in every temperature."""
    call, _ = layer._prepare(theta, place, "max")
    scores = call.scores
    value, _, mean = call.sampler.maximum()
    slope = call.sampler.slope_of_maximum(mean)
    offset_slope = np.zeros((1, 1))
    if y_true is not None:
        targets, offset, known = layer._targets(call, y_true, normalize)
        value = fenchel_young(scores.rows, value, targets, call.whole.sign, offset)
        slope = slope - call.whole.sign * targets
        offset_slope = offset_slope if known is None else known
    results = call.result(value, scores.batch), call.result(slope, scores.shape)
    return *results, from_rows(call, np.broadcast_to(offset_slope, call.whole.epsilon.shape))


def _value_in_epsilon(layer: Perturbed, theta, place: Place, v, product, kept):
    call, _ = layer._prepare(theta, place, "value")
    v, product = (as_companion(x, "v", call.scores) for x in (v, product))
    return as_epsilon(call, call.sampler.epsilon_vjp(v, product, _kept(call, kept)))


def _value_along_epsilon(layer: Perturbed, theta, place: Place, t, of: str):
    call, _ = layer._prepare(theta, place, of)
    direction = spread(to_array(t, call.scores.rows), call.scores)
    return call.result(call.sampler.epsilon_jvp(direction), call.scores.shape)


def _maximum_along_epsilon(layer: Perturbed, theta, place: Place, t, offset_slope):
    call, _ = layer._prepare(theta, place, "max")
    slope = _slope_in_epsilon(call, offset_slope)
    direction = spread(to_array(t, call.scores.rows), call.scores)
    return call.result((slope * direction).sum(1), call.scores.batch)


def _slope_in_epsilon(call: Call, offset_slope):
    """``d F / d eps`` in every temperature, with that of the loss's offset."""
    maximum, _, mean = call.sampler.maximum()
    slope = call.sampler.epsilon_slope_of_maximum(maximum, mean)
    return slope + to_array(offset_slope, slope).reshape(slope.shape)


def _maximum_in_epsilon(layer: Perturbed, theta, place: Place, v, offset_slope):
    call, _ = layer._prepare(theta, place, "max")
    slope = _slope_in_epsilon(call, offset_slope)
    return as_epsilon(call, to_array(v, slope).reshape(-1, 1) * slope)


def _explicit(layer: Perturbed, theta, place: Place, v, w, method: str, of: str):
    """Result, standard error and number of samples; the last two are of ``estimate`` alone."""
    if method == "estimate":
        result = layer.estimate(theta, of=of, direction=v, seed=place)
        number = torch.as_tensor(result.num_samples).expand(_batch(layer, theta))
        return result.mean, result.standard_error, number.contiguous()
    directions = [x for x in (v, w) if x is not None]
    result = getattr(layer, method)(theta, *directions, seed=place)
    return result, result.new_empty(0), torch.empty(0, dtype=torch.int64)


def _like_theta(layer, theta, epsilon, *rest):
    return theta.new_empty(theta.shape)


def _value_shapes(layer, theta, epsilon, kept: int):
    words = theta.new_empty((*_batch(layer, theta), kept), dtype=torch.int32)
    return theta.new_empty(theta.shape), words


def _kept_words(layer: Perturbed, theta, epsilon, axes: int, keep: bool) -> int:
    """Words a row that a value keeps: of ``axes``, which ``vmap`` adds to, the same for all."""
    if not keep or layer.method != "mc" or theta.device.type != "cpu":
        return 0
    if not isinstance(layer.num_samples, int) or layer.variance_reduction == "qmc":
        return 0
    own, event = tuple(theta.shape[theta.dim() - axes :]), layer.oracle.event_ndim
    whole, batch = theta.shape, _batch(layer, theta)
    d = math.prod(own[axes - event :])
    columns = d if _temperatures(layer, theta, epsilon) == tuple(whole) != batch else 1
    assert isinstance(layer.noise, Noise)
    draws = Draws(
        layer.noise.family,
        (0, 0),
        layer.num_samples,
        design=DESIGNS[layer.variance_reduction],
        multiplicative=layer.perturbation == "multiplicative",
    )
    dtype = np.dtype(np.float64 if theta.dtype == torch.float64 else np.float32)
    rows, temperatures = math.prod(own[: axes - event]), np.empty((0, columns))
    return kept_words(layer.oracle.problem(own), temperatures, draws, rows, d, dtype)


def _like_epsilon(layer, theta, epsilon, *rest):
    return epsilon.new_empty(epsilon.shape)


def _like_batch(layer, theta, epsilon, *rest):
    return theta.new_empty(_batch(layer, theta))


def _batch(layer: Perturbed, theta) -> tuple:
    return tuple(theta.shape[: theta.dim() - layer.oracle.event_ndim])


def _temperatures(layer: Perturbed, theta, epsilon) -> tuple:
    """The shape of a temperature a row, or a coordinate."""
    event = layer.oracle.event_ndim
    if (
        epsilon is None
        or epsilon.dim() < theta.dim()
        or all(n == 1 for n in epsilon.shape[-event:])
    ):
        return _batch(layer, theta)
    return tuple(theta.shape)


def _maximum_shapes(layer, theta, epsilon, *rest):
    by_epsilon = theta.new_empty(_temperatures(layer, theta, epsilon), dtype=torch.float64)
    return theta.new_empty(_batch(layer, theta)), _like_theta(layer, theta, epsilon), by_epsilon


def _explicit_shapes(layer, theta, epsilon, v, w, method: str, of: str):
    batch = _batch(layer, theta)
    shapes = {
        "max": batch,
        "jacobian": (*theta.shape, *theta.shape[len(batch) :]),
        "vjp_epsilon": _temperatures(layer, theta, epsilon),
    }
    shape = shapes.get(of if method == "estimate" else method, tuple(theta.shape))
    estimate = method == "estimate"
    return (
        theta.new_empty(shape),
        theta.new_empty(shape if estimate else 0),
        torch.empty(batch if estimate else 0, dtype=torch.int64),
    )


# ------------------------------------------------------------------------ derivatives of operators
#
# Inputs are (theta, epsilon or None, seed, *tensors, layer, axes, *options): ``axes`` is the number
# of the scores' axes as the user's function sees them, those before being ``vmap``'s.


class _Rule:
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


class _ValueRule(_Rule):
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


class _ProductRule(_Rule):
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


class _AdjointRule(_ProductRule):
    """``v^T J``, likewise."""

    same, swapped = "adjoint", "product"


class _MaximumRule(_Rule):
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
        layer = _layer(ctx.where[0])
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
        layer = _layer(ctx.where[0])
        if layer.perturbation == "multiplicative":
            raise NotImplementedError(
                "second derivatives of max and loss are for perturbation='additive': the slope of "
                "multiplicative noise is not the perturbed optimum"
            )
        product = apply("adjoint", theta, epsilon, seed, v, None, *ctx.where, "max")
        return product if _sign(layer, theta) > 0 else -product

    @classmethod
    def jvp(cls, ctx, t, t_epsilon, *_):
        theta, epsilon, seed, slope, offset_slope = ctx.saved_tensors
        layer = _layer(ctx.where[0])
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


class _OneVector(_Rule):
    arrays = 1


class _TwoVectors(_Rule):
    arrays = 2


class _ThreeVectors(_Rule):
    arrays = 3


# ----------------------------------------------------------------------------------- the operators


class _Operator(NamedTuple):
    """An operator: its schema, what it does, the shapes of its results, its derivatives."""

    schema: str
    run: Callable
    shapes: Callable
    rule: type[_Rule]
    like_epsilon: bool = False
    """Whether the result has epsilon's shape; others have theta's leading axes."""
    along_epsilon: bool = False
    """Whether the tensor after the seed is one that temperatures move by."""
    keeps: bool = False
    """Whether the only option says whether to keep what was decided; what runs is told how much."""

    def __call__(self, theta, epsilon, seed, *rest):
        """On real tensors."""
        n = self.rule.arrays
        name, axes, *options = rest[n:]
        layer, mapped = _layer(name), theta.dim() - axes
        if self.keeps:
            options = [_kept_words(layer, theta, epsilon, axes, *options)]
        if mapped:
            words = seed.flatten(0, mapped - 1)
            if len(words) and not (words == words[0]).all():
                return self._one_by_one(theta, epsilon, seed, *rest)
        if epsilon is not None:
            layer = layer._at(epsilon.detach())
        batch = theta.shape[mapped : theta.dim() - layer.oracle.event_ndim]
        place = _place(seed, mapped, math.prod(batch))
        arrays = [None if x is None else x.detach() for x in rest[:n]]
        with launching_on(theta, "torch"):
            return self.run(layer, theta.detach(), place, *arrays, *options)

    def _one_by_one(self, *inputs):
        """Instances of different seeds: a call each."""
        results = []
        for k in range(len(inputs[0])):
            each = (x[k] if isinstance(x, Tensor) else x for x in inputs)
            results.append(self(*each))
        if isinstance(results[0], Tensor):
            return torch.stack(results)
        return tuple(map(torch.stack, zip(*results, strict=True)))

    def fake(self, theta, epsilon, seed, *rest):
        """Shapes and dtypes of the results."""
        n = self.rule.arrays
        arrays, (name, axes, *options) = rest[:n], rest[n:]
        if self.keeps:
            options = [_kept_words(_layer(name), theta, epsilon, axes, *options)]
        return self.shapes(_layer(name), theta, epsilon, *arrays, *options)

    def vmap(self, name: str, info, in_dims, *inputs):
        """Every tensor gets the mapped axis, in front."""
        _, epsilon, *_ = inputs
        size = info.batch_size
        event = _layer(inputs[3 + self.rule.arrays]).oracle.event_ndim
        fronted = [
            x if not isinstance(x, Tensor) else _fronted(x, dim, size)
            for x, dim in zip(inputs, in_dims, strict=True)
        ]
        if epsilon is not None:
            for k in (1, 3)[: 1 + self.along_epsilon]:
                fronted[k] = _beside_batch(fronted[k], fronted[0].dim(), event)
        results = apply(name, *fronted)
        if self.like_epsilon:
            shape = list(epsilon.shape)
            if in_dims[1] is not None:
                shape.pop(in_dims[1])
            return results.reshape(size, *shape), 0
        return results, 0 if isinstance(results, Tensor) else (0,) * len(results)


def _fronted(x: Tensor, dim: int | None, size: int) -> Tensor:
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def _beside_batch(epsilon: Tensor, ndim: int, event: int) -> Tensor:
    """Mapped temperatures of instances, with an axis for each of a batch's."""
    missing = ndim - event - epsilon.dim()
    if missing <= 0:
        return epsilon
    return epsilon.reshape(epsilon.shape[0], *(1,) * missing, *epsilon.shape[1:])


def _place(seed: Tensor, mapped: int, rows: int) -> Place:
    """Where a call is in the noise; of mapped calls each numbers its rows from the first."""
    if mapped == 0:
        low, high, row, sample = seed.tolist()
        return as_place((low, high), row, sample)
    words = seed.flatten(0, mapped - 1)
    if len(words) == 0:
        return Place(0)
    low, high, row, sample = words[0].tolist()
    place = as_place((low, high), row, sample)
    return place._replace(rows=np.tile(np.arange(rows), len(words)))


_GIVEN = "Tensor theta, Tensor? epsilon, Tensor seed"
_WHERE = "str layer, int axes"
_OPERATORS = {
    "value": _Operator(
        f"({_GIVEN}, {_WHERE}, bool keep) -> (Tensor, Tensor)",
        _value,
        _value_shapes,
        _ValueRule,
        keeps=True,
    ),
    "maximum": _Operator(
        f"({_GIVEN}, Tensor? y_true, {_WHERE}, bool normalize) -> (Tensor, Tensor, Tensor)",
        _maximum,
        _maximum_shapes,
        _MaximumRule,
    ),
    "product": _Operator(
        f"({_GIVEN}, Tensor t, Tensor? kept, {_WHERE}, str of) -> Tensor",
        _product,
        _like_theta,
        _ProductRule,
    ),
    "adjoint": _Operator(
        f"({_GIVEN}, Tensor v, Tensor? kept, {_WHERE}, str of) -> Tensor",
        _adjoint,
        _like_theta,
        _AdjointRule,
    ),
    "second": _Operator(
        f"({_GIVEN}, Tensor v, Tensor w, {_WHERE}, str of) -> Tensor",
        _second,
        _like_theta,
        _TwoVectors,
    ),
    "value_in_epsilon": _Operator(
        f"({_GIVEN}, Tensor v, Tensor product, Tensor? kept, {_WHERE}) -> Tensor",
        _value_in_epsilon,
        _like_epsilon,
        _ThreeVectors,
        like_epsilon=True,
    ),
    "value_along_epsilon": _Operator(
        f"({_GIVEN}, Tensor t, {_WHERE}, str of) -> Tensor",
        _value_along_epsilon,
        _like_theta,
        _OneVector,
        along_epsilon=True,
    ),
    "maximum_along_epsilon": _Operator(
        f"({_GIVEN}, Tensor t, Tensor offset_slope, {_WHERE}) -> Tensor",
        _maximum_along_epsilon,
        _like_batch,
        _TwoVectors,
        along_epsilon=True,
    ),
    "maximum_in_epsilon": _Operator(
        f"({_GIVEN}, Tensor v, Tensor offset_slope, {_WHERE}) -> Tensor",
        _maximum_in_epsilon,
        _like_epsilon,
        _TwoVectors,
        like_epsilon=True,
    ),
    "explicit": _Operator(
        f"({_GIVEN}, Tensor? v, Tensor? w, {_WHERE}, str method, str of) "
        "-> (Tensor, Tensor, Tensor)",
        _explicit,
        _explicit_shapes,
        _TwoVectors,
    ),
}
_LIBRARY = torch.library.Library("dpo", "DEF")
_FUNCTIONS: dict[str, type[torch.autograd.Function]] = {}


def _define(name: str, operator: _Operator) -> None:
    """An operator for programs, and an autograd function for transforms, of the same rules."""
    rule, target = operator.rule, f"dpo::{name}"
    _LIBRARY.define(name + operator.schema, tags=(torch.Tag.pt2_compliant_tag,))
    run = torch.compiler.disable(operator.__call__)  # or it would be compiled, piece by piece
    for device in ("CPU", "CUDA"):
        _LIBRARY.impl(name, run, device)
    torch.library.register_fake(target, operator.fake, lib=_LIBRARY)
    torch.library.register_autograd(target, rule.backward, setup_context=rule.save, lib=_LIBRARY)

    def vmap(info, in_dims, *inputs):
        return operator.vmap(name, info, in_dims, *inputs)

    torch.library.register_vmap(target, vmap, lib=_LIBRARY)
    call = getattr(torch.ops.dpo, name).default
    members = {
        "forward": staticmethod(lambda *inputs: call(*inputs)),
        "setup_context": staticmethod(rule.save),
        "backward": staticmethod(rule.backward),
        "jvp": staticmethod(rule.jvp),
        "vmap": staticmethod(vmap),
    }
    _FUNCTIONS[name] = type(f"dpo_{name}", (torch.autograd.Function,), members)


for _name, _operator in _OPERATORS.items():
    _define(_name, _operator)


def apply(name: str, *inputs):
    """An operator, differentiable by its rules."""
    if torch.compiler.is_compiling():
        return getattr(torch.ops.dpo, name).default(*inputs)
    return _FUNCTIONS[name].apply(*inputs)


# -------------------------------------------------------------------------------- the layer's calls


def call(name: str, layer: Perturbed, theta: Tensor, *directions: Any, **parameters: Any):
    """``layer.name(theta, ...)`` inside a program of torch; ``epsilon`` may stand for its own."""
    fields = (
        layer.noise,
        parameters.pop("epsilon", layer.epsilon),
        layer.num_samples,
        layer.method,
        layer.variance_reduction,
        layer.precision,
        layer.perturbation,
        layer.tolerance,
    )
    known = _known(_parts(layer.oracle), theta, *fields)
    return _call(name, known, theta, *directions, **parameters)


def call_made(name, oracle, options, fields, theta, *directions, **parameters):
    """``Perturbed(oracle(*options), **fields).name(theta, ...)`` inside a program of torch."""
    parts = (oracle, _parts(options)) if isinstance(oracle, type) else _parts(oracle)
    known = _known(parts, theta, **fields)
    return _call(name, known, theta, *directions, **parameters)


def _known(
    oracle,
    theta: Tensor,
    noise="normal",
    epsilon=0.5,
    num_samples=1000,
    method="mc",
    variance_reduction="loo",
    precision="portable",
    perturbation="additive",
    tolerance=None,
) -> Known:
    """The layer of these field values; their defaults are ``Perturbed``'s."""
    temperatures = _temperature(epsilon, theta)
    fields = (
        noise,
        epsilon if temperatures is None else 1.0,
        num_samples,
        method,
        variance_reduction,
        precision,
        perturbation,
        tolerance,
    )
    name = _registered(oracle, *[_parts(x) for x in fields])
    return Known(name, temperatures, method, num_samples)


class Known(NamedTuple):
    """What a program knows of a layer when it is compiled, and its temperatures if traced."""

    name: str
    epsilon: Tensor | None
    method: str
    num_samples: Any


def _call(
    name: str,
    layer: Known,
    theta: Tensor,
    *directions,
    seed=None,
    row_offset=0,
    sample_offset=0,
    **parameters,
):
    if name == "samples":
        raise NotImplementedError(
            "samples is not available inside torch.compile and torch.func; call it eagerly"
        )
    words = _words(seed, row_offset, sample_offset, layer.method == "exact")
    given, where = (theta, layer.epsilon, words), (layer.name, theta.dim())
    if name == "__call__":
        traced = theta, layer.epsilon
        keep = any([x is not None and x.requires_grad for x in traced])
        return apply("value", *given, *where, keep and torch.is_grad_enabled())[0]
    if name == "max":
        return apply("maximum", *given, None, *where, False)[0]
    if name == "loss":
        return _loss(given, where, *directions, **parameters)
    return _other(name, layer, given, where, *directions, **parameters)


def _loss(given, where, y_true, normalize=True):
    theta = given[0]
    check_needs_no_gradient(y_true)
    y_true = _vector(y_true, theta, "y_true")
    return apply("maximum", *given, y_true, *where, normalize)[0]


def _other(name, layer, given, where, *directions, of="value", direction=None, **named):
    vectors = [_vector(x, given[0], "a direction") for x in (*directions, *named.values())]
    if direction is not None:
        vectors.append(_vector(direction, given[0], "direction"))
    if name == "estimate" and (len(vectors) == 1) != (of in ("vjp", "jvp")):
        raise ValueError('direction is for of="vjp" and of="jvp", which need it')
    v, w = (*vectors, None, None)[:2]
    result, error, number = apply("explicit", *given, v, w, *where, name, of)
    if name != "estimate":
        return result
    fixed = isinstance(layer.num_samples, int) and layer.method == "mc"
    return Estimate(result, error, layer.num_samples if fixed else number)


def _vector(x: Any, theta: Tensor, name: str) -> Tensor:
    """A second tensor, broadcast to theta's shape."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is no torch tensor but theta is one; pass one kind")
    return x.expand(theta.shape)


def _temperature(epsilon: Any, theta: Tensor) -> Tensor | None:
    """Temperatures as a tensor; None for a number, which is part of the layer."""
    if isinstance(epsilon, Tensor):
        return epsilon
    if isinstance(epsilon, float):
        return None
    if kind_of(epsilon) != "numpy":
        raise TypeError(
            f"epsilon is a {kind_of(epsilon)} array but theta is a torch array; pass one kind"
        )
    return torch.as_tensor(epsilon).to(theta.device)


def _words(seed: Any, row_offset: Any, sample_offset: Any, is_exact: bool) -> Tensor:
    """The two words of a seed and the two offsets, as a tensor, whatever of them is traced."""
    if is_exact:
        words = torch.zeros(2, dtype=torch.int64)
    elif seed is None:
        words = torch.randint(_WORD, (2,))
    elif isinstance(seed, Tensor):
        seed = seed.long()
        words = torch.stack([seed % _WORD, seed // _WORD]) if seed.dim() == 0 else seed
    elif isinstance(seed, int):
        words = torch.tensor([seed % _WORD, seed // _WORD])
    else:
        words = torch.tensor(as_seed(seed, "torch"))
    offsets = (torch.as_tensor(x).reshape(1).long() for x in (row_offset, sample_offset))
    return torch.cat([words, *offsets])
