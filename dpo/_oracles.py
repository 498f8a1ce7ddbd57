"""The discrete solvers ``y*`` that have fused kernels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Oracle:
    """A linear maximiser ``y*(theta) = argmax_{y in Y} <y, theta>`` with a fused kernel."""


@dataclass(frozen=True)
class Argmax(Oracle):
    """One-hot of the largest score: ``Y`` is the set of vertices of the simplex.

    The lowest index wins a tie. ``-inf`` scores never win while a finite one exists; ``+inf``
    scores always do.
    """


def as_oracle(oracle: Oracle) -> Oracle:
    """Check that ``oracle`` is one the kernels know."""
    if isinstance(oracle, Oracle) and type(oracle) is not Oracle:
        return oracle
    hint = " (did you forget the parentheses?)" if isinstance(oracle, type) else ""
    raise TypeError(f"oracle must be a dpo oracle such as dpo.Argmax(), got {oracle!r}{hint}")
