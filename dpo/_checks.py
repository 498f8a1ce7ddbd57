"""Checks of hyper-parameters: each error names the argument, the value and what would be right."""

from __future__ import annotations

import math
import numbers
import operator

import numpy as np

_MAX_SAMPLES = 2**32 - 1  # the sample is one 32-bit word of the counter


def as_epsilon(epsilon) -> float:
    """A positive, finite temperature as a Python float."""
    if getattr(epsilon, "requires_grad", False):
        raise TypeError(
            "epsilon requires a gradient, but derivatives in epsilon are not available yet; "
            "pass a number, such as epsilon.item()"
        )
    if getattr(epsilon, "shape", ()) != ():
        raise TypeError(
            f"epsilon must be one positive number for the whole batch, got an array of shape "
            f"{tuple(epsilon.shape)}; divide theta by a per-row temperature instead"
        )
    if isinstance(epsilon, (bool, np.bool_)) or not (
        isinstance(epsilon, numbers.Real) or hasattr(epsilon, "__float__")
    ):
        raise TypeError(f"epsilon must be a positive number, got {epsilon!r}")
    value = float(epsilon)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(
            f"epsilon must be positive and finite, got {value!r}; for no perturbation call the "
            "solver itself"
        )
    if value < 1e-30 or value > 1e30:
        raise ValueError(f"epsilon must lie in [1e-30, 1e30], got {value!r}; rescale theta")
    return value


def as_num_samples(num_samples) -> int:
    """A positive integer number of samples."""
    try:
        if isinstance(num_samples, (bool, np.bool_)):
            raise TypeError
        value = operator.index(num_samples)
    except TypeError:
        raise TypeError(f"num_samples must be a positive integer, got {num_samples!r}") from None
    if not 1 <= value <= _MAX_SAMPLES:
        raise ValueError(f"num_samples must be between 1 and 2**32 - 1, got {value}")
    return value


def as_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """One of a few strings."""
    if isinstance(value, str) and value in choices:
        return value
    allowed = ", ".join(repr(c) for c in choices)
    raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
