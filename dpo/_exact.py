"""Exact expectations behind the interface of a sampler: ``method="exact"``.

What ``Sampler`` estimates, ``Expectation`` integrates (``kernels/exact``); the layer, autograd and
losses do not know which one they hold. With ``y = y_eps(theta)`` and ``z_i = E[y_i Z_i]``,

    F_eps = <theta, y> + <eps, z>       d F_eps / d theta = y       d F_eps / d eps_i = z_i

and the Jacobian is symmetric (it is the Hessian of F), so a VJP is a JVP. In place of a standard
error there is the quadrature's own: by how much the total of ``y``, or of a derivative, misses what
it must be (1, k or d (d + 1) / 2, and 0), and rounding.
"""

from __future__ import annotations

import functools as ft
from typing import NamedTuple

import numpy as np

from ._device import is_host, namespace
from ._engine import Kept, MeanAndError, Sampler, centred_scores
from .kernels.exact import codes


@ft.cache
def _host_kernels():
    """Importing the kernels imports Numba, so not before the first call."""
    from .kernels.exact import launch

    return launch


def _kernels(array):
    if is_host(array):
        return _host_kernels()
    from .kernels.cuda import exact_launch

    return exact_launch


class Expectation(NamedTuple):
    """One perturbed optimizer, integrated: the solver, the scores, their temperature."""

    whole: Sampler
    """The problem and its rows; no samples are drawn of it."""
    tolerance: float | None = None

    @property
    def num_samples(self) -> int:
        return 0

    @property
    def theta(self) -> np.ndarray:
        return self.whole.theta

    @property
    def epsilon(self) -> np.ndarray:
        return self.whole.epsilon.astype(np.float64)

    def _launch(self, operation: int, v=None, w=None) -> np.ndarray:
        return _kernels(self.theta).launch(
            self.whole.problem,
            self.theta,
            self.whole.epsilon,
            self.whole.draws.family,
            operation,
            v=v,
            w=w,
            tolerance=self.tolerance,
        )

    def _rounding(self, values: np.ndarray) -> np.ndarray:
        """Of the largest entry of each row, (rows, 1)."""
        size = np.abs(values).max(axis=tuple(range(1, values.ndim)))
        return (np.finfo(self.theta.dtype).eps * size)[:, None]

    # --------------------------------------------------------------------------------- estimates

    def forward(self, for_gradient: bool = False) -> Kept:
        """``y_eps``; derivatives need nothing of it."""
        return Kept(self._launch(codes.VALUE)[:, 0])

    def value(self) -> MeanAndError:
        """``y_eps`` and the quadrature's error."""
        y = self.forward().mean
        return y, np.broadcast_to(self._error(y), y.shape)

    def _error(self, y: np.ndarray) -> np.ndarray:
        """By how much the total misses, (rows, 1)."""
        return np.abs(y.sum(1, keepdims=True) - self.whole.problem.total) + self._rounding(y)

    def maximum(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``F_eps`` and its error, (rows,), and ``y_eps``."""
        y, z = np.moveaxis(self._launch(codes.MOMENTS), 1, 0)
        theta, total = self.theta.astype(np.float64), self.whole.problem.total
        top = theta.max(1, keepdims=True)
        origin = np.where(np.isfinite(top), top, 0.0)  # a total that misses then matters less
        scores = np.where(y == 0, 0, theta - origin)  # masked: never chosen
        noise = self.epsilon * z
        value = (y * scores + noise).sum(1) + total * origin[:, 0]
        size = np.abs(noise).sum(1) + self._rounding(value[:, None])[:, 0]
        return value, self._error(y)[:, 0] * size / total, y

    def moments(self) -> np.ndarray:
        """``E[y_i Z_i]``, (rows, d)."""
        return self._launch(codes.MOMENTS)[:, 1]

    def vjp(self, v: np.ndarray, kept: Kept | None = None, errors: bool = False) -> MeanAndError:
        """``v^T J`` and its error."""
        product = self._launch(codes.PRODUCT, v)[:, 0]
        error = np.abs(product.sum(1, keepdims=True)) + self._rounding(product)
        return product, np.broadcast_to(error, product.shape)

    def jvp(self, t: np.ndarray, errors: bool = False) -> MeanAndError:
        """``J t``: the Jacobian is symmetric."""
        return self.vjp(t)

    def jacobian(self, errors: bool = False) -> MeanAndError:
        """``J``, (rows, d, d), and its error: what rows miss 0 by, or that of ``y_eps / eps``."""
        rows, d = self.theta.shape
        jacobian = self._launch(codes.JACOBIAN).reshape(rows, d, d)
        error = np.broadcast_to(np.nan, jacobian.shape)
        if errors:
            scale = self._error(self.forward().mean) / self.epsilon.min(1, keepdims=True)
            missed = np.abs(jacobian.sum(2)).max(1)[:, None]
            error = np.broadcast_to(np.maximum(scale, missed)[:, None], jacobian.shape)
        return jacobian, error

    def second_order_product(self, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        """``D^2 y_eps [v, w]``, (rows, d)."""
        return self._launch(codes.SECOND, v, w)[:, 0]

    # ----------------------------------------------------------- derivatives of F_eps and in eps

    def slope_of_maximum(self, mean: np.ndarray) -> np.ndarray:
        """``d F_eps / d theta = y_eps``."""
        return mean

    def epsilon_slope_of_maximum(self, maximum: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """``d F_eps / d eps``, in the shape of ``epsilon``."""
        z = self.moments()
        return z if self.epsilon.shape[1] > 1 else z.sum(1, keepdims=True)

    def epsilon_vjp(self, v: np.ndarray, product: np.ndarray | None, kept: Kept | None):
        """``v^T d y_eps / d eps``, shaped like ``epsilon``; see ``Sampler.epsilon_vjp``."""
        if self.epsilon.shape[1] > 1:
            return self._launch(codes.SCALE, v)[:, 0]
        product = self.vjp(v)[0] if product is None else product
        terms = product * centred_scores(self.theta)
        return -terms.sum(1, keepdims=True) / self.epsilon

    def epsilon_jvp(self, t: np.ndarray) -> np.ndarray:
        """``sum t d y_eps / d eps``, (rows, d), for ``t`` shaped like ``epsilon``."""
        if self.epsilon.shape[1] == 1:
            scores = centred_scores(self.theta)
            return self.jvp((-(t / self.epsilon) * scores).astype(self.theta.dtype))[0]
        rows, d = self.theta.shape
        xp = namespace(self.theta)
        # The kernels contract d y_j / d eps_i over j: a row for every j gives the whole matrix.
        every = self._replace(whole=self.whole.of_rows(np.repeat(np.arange(rows), d)))
        unit = xp.tile(xp.eye(d, dtype=self.theta.dtype), (rows, 1))
        return (every.epsilon_vjp(unit, None, None).reshape(rows, d, d) @ t[:, :, None])[:, :, 0]


# ------------------------------------------------------------------------------------- when it pays

_EXACT = "exact expectations exist for Argmax, TopK and Ranks with additive noise"


def refusal(oracle, noise, perturbation: str) -> str | None:
    """Why there is no exact form, or None."""
    if not oracle.has_exact_form:
        return f"{_EXACT}, not for {oracle!r}: use method='mc'"
    if not noise.has_exact_form:
        return f"{_EXACT} that is normal, Gumbel or logistic, not for {noise!r}: use method='mc'"
    if perturbation != "additive":
        return f"{_EXACT}, not for perturbation={perturbation!r}: use method='mc'"
    return None


_SAMPLED_NS = {"argmax": 0.6, "topk": 1.6, "ranks": 2.0}
"""Value and VJP of a sample, a coordinate, in float32 on one core; twice that in float64."""


def pays(whole: Sampler, num_samples: int) -> bool:
    """Whether value and VJP cost less than those of ``num_samples`` samples.

    It depends on shapes alone, never on values: what ``method="auto"`` does is foreseeable.
    """
    shared = whole.epsilon.shape[1] == 1
    exact = _host_kernels().cost_ns(whole.problem, whole.theta, shared, whole.draws.family)
    sampled = _SAMPLED_NS[whole.problem.oracle] * (whole.theta.itemsize / 4)
    return exact < sampled * num_samples
