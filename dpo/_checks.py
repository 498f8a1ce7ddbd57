"""Checks of hyper-parameters: each error names the argument, the value and what would be right."""

from __future__ import annotations

import numbers
import operator
import sys
from dataclasses import dataclass

import numpy as np

LOWEST, HIGHEST = 1e-30, 1e30
"""Of temperatures."""
_MAX_SAMPLES = 2**32 - 1  # the sample is one 32-bit word of the counter


def is_traced(*values) -> bool:
    """Whether any value is being traced by JAX, inside ``jit``, ``grad`` or ``vmap``."""
    jax = sys.modules.get("jax")
    return jax is not None and any(isinstance(x, jax.core.Tracer) for x in values)


def as_epsilon(epsilon):
    """A positive, finite temperature: a number as a float, an array as it is.

    An array is checked again when it is used, since its owner may change it (a parameter, say).
    """
    if getattr(epsilon, "shape", ()) != () or getattr(epsilon, "requires_grad", False):
        return epsilon
    torch = sys.modules.get("torch")
    if is_traced(epsilon) or (torch is not None and isinstance(epsilon, torch.Tensor)):
        return epsilon  # derivatives may be taken in it, whatever it says of itself
    if isinstance(epsilon, (list, tuple)):
        epsilon = np.asarray(epsilon, np.float64)
        check_temperatures(epsilon)
        return epsilon
    if isinstance(epsilon, (bool, np.bool_)) or not (
        isinstance(epsilon, numbers.Real) or hasattr(epsilon, "__float__")
    ):
        raise TypeError(f"epsilon must be a positive number or an array of them, got {epsilon!r}")
    value = float(epsilon)
    check_temperature(value)
    return value


def check_temperature(value: float) -> None:
    """A temperature must be positive, finite, and leave room for its reciprocal."""
    if not (value > 0 and value != float("inf")):
        raise ValueError(
            f"epsilon must be positive and finite, got {value!r}; for no perturbation call the "
            "solver itself"
        )
    if not LOWEST <= value <= HIGHEST:
        raise ValueError(f"epsilon must lie in [1e-30, 1e30], got {value!r}; rescale theta")


def check_temperatures(epsilon: np.ndarray) -> None:
    """Likewise of every entry of an array."""
    if epsilon.dtype.kind not in "fiu":
        raise TypeError(f"epsilon must be positive numbers, got an array of {epsilon.dtype}")
    bad = ~((epsilon >= LOWEST) & (epsilon <= HIGHEST))
    if bad.any():
        check_temperature(float(epsilon[bad][0]))


@dataclass(frozen=True)
class Adaptive:
    """As many samples as each row needs: ``num_samples=dpo.Adaptive(tolerance=0.01)``.

    Every row draws until the standard errors of all its outputs are at most ``tolerance``, or
    ``max_samples`` are drawn; ``estimate(...).num_samples`` tells how many it took. An outcome
    never seen among ``M`` samples is taken to have a probability of up to ``1 / M``. Stopping when
    the spread *looks* small makes the estimate slightly biased, by at most 0.4 tolerances.
    """

    tolerance: float
    max_samples: int = 2**20

    def __post_init__(self):
        object.__setattr__(self, "tolerance", as_tolerance(self.tolerance))
        object.__setattr__(self, "max_samples", _count("max_samples", self.max_samples))


def as_tolerance(value) -> float:
    """A positive number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not float(value) > 0:
        raise ValueError(f"tolerance must be a positive number, got {value!r}")
    return float(value)


def as_num_samples(num_samples) -> int | Adaptive:
    """A positive integer number of samples, or ``Adaptive``."""
    if isinstance(num_samples, Adaptive):
        return num_samples
    return _count("num_samples", num_samples)


def _count(name: str, num_samples) -> int:
    try:
        if isinstance(num_samples, (bool, np.bool_)):
            raise TypeError
        value = operator.index(num_samples)
    except TypeError:
        raise TypeError(f"{name} must be a positive integer, got {num_samples!r}") from None
    if not 1 <= value <= _MAX_SAMPLES:
        raise ValueError(f"{name} must be between 1 and 2**32 - 1, got {value}")
    return value


def as_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """One of a few strings."""
    if isinstance(value, str) and value in choices:
        return value
    allowed = ", ".join(repr(c) for c in choices)
    raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
