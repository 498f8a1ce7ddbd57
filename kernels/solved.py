"""Accumulate: the sums of a launch, of solutions that were found outside the kernels.

The sums are those of ``kernels/cpu/fused.py``, of solutions ``y`` of any real numbers and any size
D, for perturbed scores of size d: what solves may be any function. They are float64 throughout, and
run over the windows of samples in order; a window's size follows from the shapes alone, so the same
call gives the same bits for any number of threads.

    value     counts[0] = sum y                    deviations = sum y - o, (Y - O)^2
    maximum   sums[0] = sum <y, p>                 sums[1] = sum <Y, P>^2
    vjp       sums[0] = sum a s                    sums[1] = sum (A S)^2         a = <v, y - mean>
    jvp       sums[0] = sum y b                    sums[1], [2] = sum X B, X^2   b = <s, t>
    jacobian  sums[0] = sum y s^T                  sums[1], [2] = sum X B, X^2
    moments   sums[0] = sum y w                    sums[1] = sum y w z           w = 1 or p

Capitals are sums over antithetic pairs, X is that of ``y b``; the last entry of jvp and jacobian
is of y = 1. As there, each of a pair is centred by the other pairs: ``pull``. The origin o is
the first solution, so that a spread much smaller than the solutions is not lost.
"""

from __future__ import annotations

import numpy as np

from .codes import JACOBIAN, JVP, MAXIMUM, MOMENTS, VALUE, VJP, Draws
from .cpu.draws import Perturbation
from .reference_sums import mates


class Accumulator:
    """The sums of one launch: ``add`` windows of an even number of samples, the last one any."""

    def __init__(
        self,
        operation: int,
        draws: Draws,
        direction: np.ndarray | None = None,
        mean: np.ndarray | None = None,
        squares: bool = False,
    ):
        self.operation, self.squares = operation, squares
        self.direction, self.mean = direction, mean
        self.multiplicative = draws.multiplicative
        self.paired, self.pull = draws.is_paired, draws.pull
        self.counts = self.deviations = self.totals = np.zeros(())
        self._origin: np.ndarray | None = None

    def add(self, y: np.ndarray, seen: Perturbation) -> None:
        """A window: solutions ``y``, (samples, rows, D), of what they have ``seen``."""
        if self.operation != VJP:
            self.counts = self.counts + y.sum(0, dtype=np.float64)[:, None]
        if self.operation != VALUE:
            self.totals = self.totals + _TERMS[self.operation](self, y.astype(np.float64), seen)
        elif self.squares:
            self.deviations = self.deviations + self._of_origin(y.astype(np.float64))

    def _of_origin(self, y: np.ndarray) -> np.ndarray:
        if self._origin is None:
            self._origin = np.where(np.isfinite(y[0]), y[0], 0.0)
        x = y - self._origin
        return np.stack([x.sum(0), (self._of_pair(x) ** 2).sum(0)], axis=1)

    def _of_pair(self, x: np.ndarray) -> np.ndarray:
        return x + mates(x) if self.paired else x

    def _pulled(self, x: np.ndarray) -> np.ndarray:
        return x + self.pull * (x + mates(x)) if self.paired else x

    def _maximum(self, y: np.ndarray, seen: Perturbation) -> np.ndarray:
        values = (y * chosen(y, seen.p)).sum(-1, keepdims=True)
        return np.stack([values.sum(0), (self._of_pair(values) ** 2).sum(0)], axis=1)

    def _vjp(self, y: np.ndarray, seen: Perturbation) -> np.ndarray:
        v = self.direction.astype(np.float64)
        centre = (v * self.mean).sum(1, keepdims=True)
        # As products of matrices, a row each: (samples, D) by (D, 1), (1, samples) by (samples, d).
        a = self._pulled(_by_row(_by_row(y) @ v[..., None] - centre[..., None]))
        s = seen.s.astype(np.float64)
        total = (a.transpose(1, 2, 0) @ _by_row(s))[:, 0]
        if not self.squares:
            return total[:, None]
        return np.stack([total, (self._of_pair(a * s) ** 2).sum(0)], axis=1)

    def _jvp(self, y: np.ndarray, seen: Perturbation) -> np.ndarray:
        b = np.einsum("mbi,bi->mb", seen.s, self.direction, dtype=np.float64)[..., None]
        return self._weighted(_with_ones(y), b)

    def _weighted(self, y: np.ndarray, b: np.ndarray) -> np.ndarray:
        """``sum y b`` and, where asked for, ``sum X B`` and ``sum X^2``, entry by entry."""
        pulled = self._pulled(b)
        totals = [(y * pulled).sum(0)]
        if self.squares:
            # y = 1 is not centred, so that of it all sums are of the plain b.
            x = self._of_pair(np.concatenate([y[..., :-1] * pulled, y[..., -1:] * b], axis=-1))
            totals += [(x * self._of_pair(b)).sum(0), (x * x).sum(0)]
        totals[0][..., -1:] = b.sum(0)
        return np.stack(totals, axis=1)

    def _jacobian(self, y: np.ndarray, seen: Perturbation) -> np.ndarray:
        y, s = _with_ones(y), seen.s.astype(np.float64)
        if self.squares:
            columns = [self._weighted(y, s[..., k : k + 1]) for k in range(s.shape[-1])]
            sums = np.stack(columns, axis=-1)
        else:
            pulled = self._pulled(s)
            sums = (y.transpose(1, 2, 0) @ _by_row(pulled))[:, None]
            sums[:, 0, -1] = s.sum(0)
        return sums.reshape(*sums.shape[:2], y.shape[-1] * s.shape[-1])

    def _moments(self, y: np.ndarray, seen: Perturbation) -> np.ndarray:
        x = y * chosen(y, seen.p) if self.multiplicative else y
        return np.stack([x.sum(0), (x * seen.z).sum(0)], axis=1)


_TERMS = {
    MAXIMUM: Accumulator._maximum,
    VJP: Accumulator._vjp,
    JVP: Accumulator._jvp,
    JACOBIAN: Accumulator._jacobian,
    MOMENTS: Accumulator._moments,
}


def chosen(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """``p`` where ``y`` is not 0: what is masked by infinite scores counts for nothing."""
    return np.where(y == 0, 0.0, p)


def _by_row(x: np.ndarray) -> np.ndarray:
    """Samples and rows exchanged."""
    return x.swapaxes(0, 1)


def _with_ones(y: np.ndarray) -> np.ndarray:
    return np.concatenate([y, np.ones((*y.shape[:-1], 1))], axis=-1)
