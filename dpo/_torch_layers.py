"""Layers as torch programs know them: by name, and by the shapes that follow from one.

A program holds constants; a layer is none, so it goes by its ``repr`` in a register.
"""

from __future__ import annotations

import dataclasses
import inspect
from operator import index
from typing import Any

import torch

from ._perturbed import Perturbed

LAYERS: dict[str, Perturbed] = {}


@torch.compiler.assume_constant_result
def registered(*parts) -> str:
    """The name by which operators find the layer of these field values, see ``_parts``."""
    return named(Perturbed(*map(_whole, parts)))


def named(layer: Perturbed) -> str:
    """The name of a layer, which is in the register from now on: its ``repr``, made unique."""
    name = repr(layer)
    while LAYERS.setdefault(name, layer) != layer:  # another of that repr: other weights, say
        name += "'"
    return name


def _whole(x: Any) -> Any:
    """The inverse of ``parts``."""
    if not isinstance(x, tuple):
        return x
    if len(x) == 2 and isinstance(x[0], type):
        return x[0](*map(_whole, x[1]))
    return tuple(map(_whole, x))


@torch.compiler.assume_constant_result
def _field_names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def parts(x: Any) -> Any:
    """A field's value, as constants that a program compares; it would trace an integer.

    A dataclass is its type and its own values.
    """
    if x is None or isinstance(x, (str, bytes, bool)) or inspect.isfunction(x):
        return x
    if isinstance(x, float):
        return x.__float__()  # which ``float(x)`` would trace
    if isinstance(x, int):
        return index(x)
    if isinstance(x, tuple):
        return tuple([parts(y) for y in x])
    return type(x), tuple([parts(getattr(x, name)) for name in _field_names(type(x))])


def named_layer(name: str) -> Perturbed:
    if name not in LAYERS:
        raise RuntimeError(
            f"this program needs a layer that is not known in this process: call {name} once, "
            "inside torch.func or torch.compile, before running it"
        )
    return LAYERS[name]


def batch_of(layer: Perturbed, theta) -> tuple:
    return tuple(theta.shape[: theta.dim() - layer.oracle.event_ndim])


def temperatures_of(layer: Perturbed, theta, epsilon) -> tuple:
    """The shape of a temperature a row, or a coordinate."""
    event = layer.oracle.event_ndim
    if (
        epsilon is None
        or epsilon.dim() < theta.dim()
        or all(n == 1 for n in epsilon.shape[-event:])
    ):
        return batch_of(layer, theta)
    return tuple(theta.shape)
