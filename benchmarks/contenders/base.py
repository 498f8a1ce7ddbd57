"""What a contender is made of."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

from ..workloads import Workload


class Calls(NamedTuple):
    """A contender, ready to run."""

    forward: Callable[[int], Any]
    both: Callable[[int], tuple[Any, Any]]


class Solver(NamedTuple):
    """All samples' solutions, in whatever form, and the two sums that an estimator takes of them.

    ``y = mean(solutions)`` and ``weights[m, b] = <v_b, y_mb> = products(solutions, v)``.
    """

    solve: Callable[[Any], Any]
    """Perturbed scores or costs, ``(M, B, ...)``, to solutions."""
    mean: Callable[[Any], Any]
    products: Callable[[Any, Any], Any]


class Contender(NamedTuple):
    """How to build the calls, and what they need.

    The functions are those of a module, so that a contender can be sent to another process.
    """

    name: str
    modules: tuple[str, ...]
    shell: Callable[[Workload, Any], Calls]
    solver: Callable[[Workload], Any]
    bytes_per_draw: int = 0
    """Live bytes a noise variable at the peak of ``both``, measured: decides what is skipped."""
    seconds_per_draw: float = 0.0
    """Measured where a call may take minutes: decides what is skipped."""

    def build(self, workload: Workload) -> Calls:
        """Import, allocate, compile."""
        return self.shell(workload, self.solver(workload))

    def missing(self) -> str | None:
        """What must be installed first, or None. ``"dpo.Ranks"`` is the name ``Ranks`` in dpo."""
        absent = [name for name in self.modules if not _available(name)]
        return f"{', '.join(absent)} not installed" if absent else None


def _available(name: str) -> bool:
    module, _, attribute = name.partition(".")
    if importlib.util.find_spec(module) is None:
        return False
    return not attribute or hasattr(importlib.import_module(module), attribute)
