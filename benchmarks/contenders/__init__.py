"""One workload, written the way users of each library write it.

A contender is built once for a workload: imports, arrays in its own framework, compilation. What
is left are two calls that take a seed, return once the work is done, and are all that is timed:
``forward(seed) -> y`` and ``both(seed) -> (y, g)``. It is put together from a shell, which draws
the noise and makes the estimator in one framework (``shells``), and a solver of one oracle
(``argmax``, ``ranks``, ``topk``, ``paths``, ``assignment``, ``knapsack``).

Each uses its library's default estimator of ``g``: leave-one-out in dpo, a baseline ``y*(theta)``
in optax, the plain score function elsewhere. All are unbiased; the plain one is the noisiest.
"""

from .agreement import agreement
from .argmax import CONTENDERS as _ARGMAX
from .assignment import CONTENDERS as _ASSIGNMENT
from .base import Calls, Contender
from .knapsack import CONTENDERS as _KNAPSACK
from .paths import CONTENDERS as _PATHS
from .ranks import CONTENDERS as _RANKS
from .topk import CONTENDERS as _TOPK

CONTENDERS: dict[str, tuple[Contender, ...]] = {
    "argmax": _ARGMAX,
    "ranks": _RANKS,
    "topk": _TOPK,
    "paths": _PATHS,
    "assignment": _ASSIGNMENT,
    "knapsack": _KNAPSACK,
}
"""By oracle; the first that runs is what the others are compared with, so ours lead."""

__all__ = ["CONTENDERS", "Calls", "Contender", "agreement"]
