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

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import _torch_operations as operations
from ._arrays import kind_of, other_kind, refuse_labels
from ._checks import check_estimated
from ._device import launching_on
from ._estimate import Estimate
from ._losses import check_needs_no_gradient
from ._perturbed import Perturbed
from ._seeds import WORD, Place, as_place, as_seed
from ._torch_layers import named_layer, parts, registered
from ._torch_rules import (
    FUNCTIONS,
    AdjointRule,
    MaximumRule,
    OneVector,
    ProductRule,
    Rule,
    ThreeVectors,
    TwoVectors,
    ValueRule,
    apply,
)

# ----------------------------------------------------------------------------------- the operators


class _Operator(NamedTuple):
    """An operator: its schema, what it does, the shapes of its results, its derivatives."""

    schema: str
    run: Callable
    shapes: Callable
    rule: type[Rule]
    like_epsilon: bool = False
    """Whether the result has epsilon's shape; others have theta's leading axes."""
    along_epsilon: bool = False
    """Whether the tensor after the seed is one that temperatures move by."""
    keeps: bool = False
    """Whether the only option says whether to keep what it found; what runs is told how much."""

    def __call__(self, theta, epsilon, seed, *rest):
        """On real tensors."""
        n = self.rule.arrays
        name, axes, *options = rest[n:]
        layer, mapped = named_layer(name), theta.dim() - axes
        if self.keeps:
            options = [operations.words_to_keep(name, theta, epsilon, axes, *options)]
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
            options = [operations.words_to_keep(name, theta, epsilon, axes, *options)]
        return self.shapes(named_layer(name), theta, epsilon, *arrays, *options)

    def vmap(self, name: str, info, in_dims, *inputs):
        """Every tensor gets the mapped axis, in front."""
        _, epsilon, *_ = inputs
        size = info.batch_size
        event = named_layer(inputs[3 + self.rule.arrays]).oracle.event_ndim
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
        operations.value,
        operations.value_shapes,
        ValueRule,
        keeps=True,
    ),
    "maximum": _Operator(
        f"({_GIVEN}, Tensor? y_true, {_WHERE}, bool normalize) -> (Tensor, Tensor, Tensor)",
        operations.maximum,
        operations.maximum_shapes,
        MaximumRule,
    ),
    "product": _Operator(
        f"({_GIVEN}, Tensor t, Tensor? kept, {_WHERE}, str of) -> Tensor",
        operations.product,
        operations.like_theta,
        ProductRule,
    ),
    "adjoint": _Operator(
        f"({_GIVEN}, Tensor v, Tensor? kept, {_WHERE}, str of) -> Tensor",
        operations.adjoint,
        operations.like_theta,
        AdjointRule,
    ),
    "second": _Operator(
        f"({_GIVEN}, Tensor v, Tensor w, {_WHERE}, str of) -> Tensor",
        operations.second,
        operations.like_theta,
        TwoVectors,
    ),
    "value_in_epsilon": _Operator(
        f"({_GIVEN}, Tensor v, Tensor product, Tensor? kept, {_WHERE}) -> Tensor",
        operations.value_in_epsilon,
        operations.like_epsilon,
        ThreeVectors,
        like_epsilon=True,
    ),
    "value_along_epsilon": _Operator(
        f"({_GIVEN}, Tensor t, {_WHERE}, str of) -> Tensor",
        operations.value_along_epsilon,
        operations.like_theta,
        OneVector,
        along_epsilon=True,
    ),
    "maximum_along_epsilon": _Operator(
        f"({_GIVEN}, Tensor t, Tensor offset_slope, {_WHERE}) -> Tensor",
        operations.maximum_along_epsilon,
        operations.like_batch,
        TwoVectors,
        along_epsilon=True,
    ),
    "maximum_in_epsilon": _Operator(
        f"({_GIVEN}, Tensor v, Tensor offset_slope, {_WHERE}) -> Tensor",
        operations.maximum_in_epsilon,
        operations.like_epsilon,
        TwoVectors,
        like_epsilon=True,
    ),
    "explicit": _Operator(
        f"({_GIVEN}, Tensor? v, Tensor? w, {_WHERE}, str method, str of) "
        "-> (Tensor, Tensor, Tensor)",
        operations.explicit,
        operations.explicit_shapes,
        TwoVectors,
    ),
}
_LIBRARY = torch.library.Library("dpo", "DEF")


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
    FUNCTIONS[name] = type(f"dpo_{name}", (torch.autograd.Function,), members)


for _name, _operator in _OPERATORS.items():
    _define(_name, _operator)


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
    known = _known(parts(layer.oracle), theta, *fields)
    return _call(name, known, theta, *directions, **parameters)


def call_made(name, oracle, options, fields, theta, *directions, **parameters):
    """``Perturbed(oracle(*options), **fields).name(theta, ...)`` inside a program of torch."""
    made = (oracle, parts(options)) if isinstance(oracle, type) else parts(oracle)
    known = _known(made, theta, **fields)
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
    name = registered(oracle, *[parts(x) for x in fields])
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
    if name == "pullback":
        raise NotImplementedError(
            "pullback is for eager calls; inside torch.compile and torch.func differentiate "
            "layer(theta), by autograd or torch.func.vjp"
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
    if name == "estimate":
        check_estimated(of, direction is not None)
    v, w = (*vectors, None, None)[:2]
    result, error, number = apply("explicit", *given, v, w, *where, name, of)
    if name != "estimate":
        return result
    fixed = isinstance(layer.num_samples, int) and layer.method == "mc"
    return Estimate(result, error, layer.num_samples if fixed else number)


def _vector(x: Any, theta: Tensor, name: str) -> Tensor:
    """A second tensor, broadcast to theta's shape."""
    if not isinstance(x, Tensor):
        raise TypeError(other_kind(x, name, "torch"))
    if name == "y_true" and not (x.is_floating_point() or x.dtype is torch.bool):
        refuse_labels("torch", x.ndim, tuple(theta.shape))
    return x.expand(theta.shape)


def _temperature(epsilon: Any, theta: Tensor) -> Tensor | None:
    """Temperatures as a tensor; None for a number, which is part of the layer."""
    if isinstance(epsilon, Tensor):
        return epsilon
    if isinstance(epsilon, float):
        return None
    if kind_of(epsilon, "epsilon") != "numpy":
        raise TypeError(other_kind(epsilon, "epsilon", "torch"))
    return torch.as_tensor(epsilon).to(theta.device)


def _words(seed: Any, row_offset: Any, sample_offset: Any, is_exact: bool) -> Tensor:
    """The two words of a seed and the two offsets, as a tensor, whatever of them is traced."""
    if is_exact:
        words = torch.zeros(2, dtype=torch.int64)
    elif seed is None:
        words = torch.randint(WORD, (2,))
    elif isinstance(seed, Tensor):
        if seed.is_floating_point() or seed.dtype is torch.bool or seed.shape not in ((), (2,)):
            raise TypeError(
                "seed must be an int, two uint32 words or a torch.Generator, got a tensor of "
                f"{seed.dtype}, shape {tuple(seed.shape)}"
            )
        seed = seed.long()
        words = torch.stack([seed % WORD, seed // WORD]) if seed.dim() == 0 else seed
    elif isinstance(seed, int) and not isinstance(seed, bool):
        if not 0 <= seed < WORD**2:
            raise ValueError(f"seed must be in 0 .. 2**64 - 1, got {seed}")
        words = torch.tensor([seed % WORD, seed // WORD])
    else:
        words = torch.tensor(as_seed(seed, "torch"))
    named = (("row_offset", row_offset), ("sample_offset", sample_offset))
    return torch.cat([words, *(_offset(name, x) for name, x in named)])


def _offset(name: str, value: Any) -> Tensor:
    """One word; its range is checked where it is used."""
    word = torch.as_tensor(value)
    if word.is_floating_point() or word.dtype is torch.bool or word.numel() != 1:
        raise TypeError(f"{name} must be an integer, got {value!r}")
    return word.reshape(1).long()
