"""Checks of hyper-parameters: each error names the argument, the value and what would be right."""

from __future__ import annotations

import numbers
import operator
import sys
from dataclasses import dataclass
from typing import NoReturn

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
    the spread *looks* small makes the estimate slightly biased, by at most 0.4 tolerances. What has
    to be below the tolerance is what is asked for: ``layer.vjp`` looks at the VJP's errors, and may
    take other numbers of samples than the value whose gradient ``backward()`` computes.
    """

    tolerance: float
    max_samples: int = 2**20

    def __post_init__(self):
        object.__setattr__(self, "tolerance", as_tolerance(self.tolerance))
        object.__setattr__(
            self, "max_samples", as_integer("max_samples", self.max_samples, 1, _MAX_SAMPLES)
        )


def as_tolerance(value) -> float:
    """A positive number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not float(value) > 0:
        raise ValueError(f"tolerance must be a positive number, got {value!r}")
    return float(value)


def as_num_samples(num_samples) -> int | Adaptive:
    """A positive integer number of samples, or ``Adaptive``."""
    if isinstance(num_samples, Adaptive):
        return num_samples
    return as_integer("num_samples", num_samples, 1, _MAX_SAMPLES)


def as_integer(
    name: str, value, least: int = 1, most: int | None = None, *, other: str = ""
) -> int:
    """An integer from ``least`` to ``most``; ``other`` is what else ``name`` may be."""
    if is_traced(value):
        raise TypeError(
            f"{name} is a constant of a program, but it is being traced: close over it, or name it "
            "in static_argnames"
        )
    kind = "a positive integer" if least == 1 else f"an integer, at least {least}"
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be {kind}{other}, got {value!r}") from None
    if most is not None and not least <= number <= most:
        raise ValueError(f"{name} must be between {least} and {most}, got {number}")
    if number < least:
        raise ValueError(f"{name} must be {kind}{other}, got {number}")
    return number


def as_flag(name: str, value) -> bool:
    """True or False, and nothing that only counts as one of them."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def class_hint(given: object) -> str:
    """What to add to an error where a class was given in place of what it makes."""
    return " (did you forget the parentheses?)" if isinstance(given, type) else ""


def check_estimated(of: str, directed: bool) -> None:
    """What ``estimate`` is of, and whether it was given the direction that this needs."""
    as_choice("of", of, ("value", "max", "vjp", "jvp", "jacobian"))
    if directed != (of in ("vjp", "jvp")):
        needed = "takes no" if directed else "needs"
        raise ValueError(f'of={of!r} {needed} direction: it is for "vjp" and "jvp"')


def refuse_second_slope() -> NoReturn:
    """Of multiplicative noise ``max`` and ``loss`` have first derivatives alone."""
    raise NotImplementedError(
        "second derivatives of max and loss are for perturbation='additive': the slope of "
        "multiplicative noise is not the perturbed optimum"
    )


def as_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """One of a few strings."""
    if isinstance(value, str) and value in choices:
        return value
    allowed = ", ".join(repr(c) for c in choices)
    raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
