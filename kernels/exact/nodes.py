"""Where the integrands live, and how fine the nodes must be for a given error.

**Ends.** A variable lies below its location plus ``low`` with probability ``G(low)``, and any of
``n`` above theirs plus ``high`` with at most ``n Q(high)``. Each end is cut where that (k times
that, for k variables) is a tenth of the tolerance. So coordinates far below the top, and masked
ones, are never visited.

**Step.** The trapezoid rule with step ``h`` sums a smooth density of total mass 1 with an error of
twice the modulus of its characteristic function at ``2 pi / h``, up to terms that are smaller still
(Poisson summation; Trefethen and Weideman, "The exponentially convergent trapezoidal rule", SIAM
Review 56, 2014). The narrowest density that ``n`` variables can make, that of the largest or the
k-th largest of equals, decides. It is found numerically, once for every power of two. Of a
derivative the error is ``2 pi / h`` times larger, and the step chosen accordingly.

So a total such as ``sum P = 1`` is off by at most the tolerance before rounding, and each
probability by a share of that.
"""

from __future__ import annotations

import functools as ft
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq

from ..noise import FAMILIES, Family

FINEST = 1 / 4096
"""Steps are multiples of it, so that nodes are exact in float32."""
WIDEST = 1e4
"""A row's largest temperature, over its smallest."""


def check_spread(epsilon: Any) -> None:
    """Nodes as fine as the smallest temperature must reach as far as the largest."""
    spread = float((epsilon.max(1) / epsilon.min(1)).max())
    if spread > WIDEST:
        raise ValueError(
            f"method='exact' is for rows whose temperatures differ by a factor of at most "
            f"{WIDEST:.0e}, got {spread:.1e}; use method='mc'"
        )


class Rule(NamedTuple):
    """Nodes for ``n`` variables, in units of one variable's scale."""

    step: float
    low: float
    """Below the largest location plus this nothing happens."""
    high: float
    """Nor above it plus this."""


def default_tolerance(dtype: np.dtype) -> float:
    """The truncation error that disappears in the rounding of sums in ``dtype``."""
    return 2e-14 if dtype == np.float64 else 2e-7


@ft.lru_cache(maxsize=1024)
def rules(
    family: int, n: int, tolerance: float, order: int = 0, k: int = 1, mirrored: bool = False
) -> np.ndarray:
    """Rules for the largest (the k-th largest) of 1, 2, 4, ... up to ``n`` variables, (_, 3).

    ``order`` is that of the derivative that is integrated: its error is larger by that power of
    the frequency.
    """
    log2_k = ceil_log2(k)
    return np.array(
        [rule(family, j, log2_k, tolerance, order, mirrored) for j in range(ceil_log2(n) + 1)]
    )


def ceil_log2(n):
    """Which rule is that of ``n`` variables; plain enough for Numba, too."""
    power = 0
    while 1 << power < n:
        power += 1
    return power


class _Mirrored(NamedTuple):
    """The law of ``-Z``."""

    law: Family

    def cdf(self, t):
        return self.law.survival(-t)

    def survival(self, t):
        return self.law.cdf(-t)

    def log_density(self, t):
        return self.law.log_density(-t)


@ft.lru_cache(maxsize=4096)
def rule(
    family: int,
    log2_n: int,
    log2_k: int,
    tolerance: float,
    order: int = 0,
    mirrored: bool = False,
) -> Rule:
    """Nodes for the k-th largest of ``2^log2_n`` equal variables, k up to ``2^log2_k``."""
    law = _Mirrored(FAMILIES[family]) if mirrored else FAMILIES[family]
    n = 2.0**log2_n
    k = min(2.0**log2_k, max(1.0, n / 2))
    low = brentq(lambda t: k * law.cdf(t) - tolerance / 10, -200, 50)
    high = brentq(lambda t: n * law.survival(t) - tolerance / 10, -50, 200)
    step = _widest_step(law, n, k, tolerance, order)
    return Rule(step, FINEST * np.floor(low / FINEST), FINEST * np.ceil(high / FINEST))


def _widest_step(law, n: float, k: float, tolerance: float, order: int) -> float:
    """The largest step whose error is within the tolerance.

    Below 1e-9, where rounding of the density would be felt, the error's decay is extrapolated as
    exponential in ``1 / step``. It is that or faster.
    """
    t, log_density = _order_density(law, n, k, np.linspace(-90, 90, 9001))
    inside = t[log_density > -70]
    t, log_density = _order_density(law, n, k, np.linspace(inside[0], inside[-1], 4001))
    density = np.exp(log_density)
    density /= density.sum()

    def frequency(tolerance):
        low, high = 0.25, 256.0
        while high > 1.02 * low:
            middle = np.sqrt(low * high)
            angle = 2 * np.pi * middle
            error = 2 * max(1.0, angle) ** order * abs(np.exp(1j * angle * t) @ density)
            low, high = (middle, high) if error > tolerance else (low, middle)
        return high

    coarse, fine = frequency(1e-6), frequency(1e-9)
    if tolerance >= 1e-9:
        wanted = frequency(tolerance)
    else:
        wanted = fine + (fine - coarse) * np.log10(1e-9 / tolerance) / 3
    return FINEST * np.floor(1 / wanted / FINEST)


def _order_density(law, n: float, k: float, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``t``, and the log-density there of the k-th largest of n equals, over its maximum."""
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        log_cdf = np.where(t > 0, np.log1p(-law.survival(t)), np.log(law.cdf(t)))
        terms = law.log_density(t)
        terms += (n - k) * log_cdf if n > k else 0
        terms += (k - 1) * np.log(law.survival(t)) if k > 1 else 0
    return t, terms - terms.max()
