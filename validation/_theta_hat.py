"""The minimiser of the Fenchel-Young loss over n targets, for many independent data sets at once.

    theta_hat_n = argmin_theta (1 / n) sum_i L_eps(theta; Y_i),   i.e.   y_eps(theta_hat_n) = Ybar_n

Targets are solutions at perturbed scores, ``Y_i = y*(theta_0 + eps Z_i)``, so a data set's mean is
one row of one fused call. Proposition 4.1 of Berthet et al. (2020):

    sqrt(n) (theta_hat_n - theta_0) -> N(0, H^+ Sigma H^+),  H = D y_eps(theta_0),  Sigma = Cov(Y)

Solutions lie in an affine subspace, and ``theta`` is determined up to what is orthogonal to it
(Remark 1): all of this happens in coordinates ``a`` along it, ``theta = theta_0 + U a``.
"""

from __future__ import annotations

import functools as ft
from dataclasses import dataclass, replace

import numpy as np

import dpo

from ._backend import call
from ._covariances import covariance
from ._estimators import Case, layer_of
from ._single import sign_of

_STEPS, _CHORDS, _LARGEST_STEP = 30, 6, 2.0
_TOLERANCE = 1e-11
_FLAT = 1e-9
"""Of the Hessian's eigenvalues: flatter, and the mean is on the boundary but for rounding."""


@dataclass(frozen=True, eq=False)
class Estimation:
    """One ``theta_0``, and how the mean of a data set is inverted.

    ``solver_samples`` is None where expectations are exact. Otherwise they are means of that many
    samples ``M``, whose noise adds to that of the data: ``1 / n + 1 / M`` takes the place of 1 / n.
    """

    case: Case
    solver_samples: int | None = None

    @property
    def _sign(self) -> float:
        return sign_of(self.case)

    @ft.cached_property
    def sigma(self) -> np.ndarray:
        """``Cov(Y)``, (d, d), exact."""
        case = self.case
        return covariance(case.oracle, case.theta[0], float(case.epsilon), case.noise)

    @ft.cached_property
    def basis(self) -> np.ndarray:
        """``U``, (d, k): orthonormal directions in which solutions differ."""
        values, vectors = np.linalg.eigh(self.sigma)
        return vectors[:, values > 1e-9 * values[-1]]

    @ft.cached_property
    def hessian(self) -> np.ndarray:
        """``U^T H U``, (k, k), exact."""
        return self._sign * self.basis.T @ self.case.answers[0].jacobian @ self.basis

    @property
    def dimension(self) -> int:
        """Of the solutions' hull."""
        return self.basis.shape[1]

    def limit(self, n: int) -> np.ndarray:
        """The covariance of ``a_hat`` that the proposition promises, (k, k)."""
        inverse = np.linalg.inv(self.hessian)
        spread = inverse @ (self.basis.T @ self.sigma @ self.basis) @ inverse
        return spread * (1 / n + (1 / self.solver_samples if self.solver_samples else 0))

    def errors(self, n: int, sets: int, seed: int) -> np.ndarray:
        """``a_hat`` of independent data sets of n targets each, (sets, k); inf where there is none.

        A mean on the boundary of the hull is no ``y_eps(theta)``: the loss has no minimiser.
        """
        return self.solve(self.means(n, sets, seed), seed + 1)

    def means(self, n: int, sets: int, seed: int) -> np.ndarray:
        """``Ybar_n`` of each data set, (sets, d)."""
        theta = np.repeat(self.case.theta.astype(np.float32), sets, axis=0)
        return _flat(call(layer_of(self.case, n, "loo"), theta, seed=seed))

    def solve(self, means: np.ndarray, seed: int = 0) -> np.ndarray:
        """Newton's method in ``a``; a step is at most two temperatures long."""
        step, enough = self._newton, _TOLERANCE
        if self.solver_samples:
            step, enough = self._chord, 2 / self.solver_samples
        a = np.zeros((len(means), self.dimension))
        for _ in range(_STEPS if self.solver_samples is None else _CHORDS):
            move, residual = step(a, means, seed)
            if residual.max() < enough:
                break
            length = np.linalg.norm(move, axis=1, keepdims=True)
            shorten = _LARGEST_STEP * self.case.epsilon / np.maximum(length, 1e-300)
            a -= move * np.minimum(1, shorten)
        return np.where(self._has_minimiser(a, residual)[:, None], a, np.inf)

    def _newton(self, a: np.ndarray, means: np.ndarray, seed: int):
        residual = (self._exact(self._theta(a)) - means) @ self.basis
        slopes = self._slopes(a) + 1e-14 * np.eye(self.dimension)  # far away all is decided
        return np.linalg.solve(slopes, residual[..., None])[..., 0], np.abs(residual).max(1)

    def _chord(self, a: np.ndarray, means: np.ndarray, seed: int):
        """As Newton, from sampled values, with the slope at ``theta_0``."""
        theta = self._theta(a).reshape(-1, *self.case.event).astype(np.float32)
        layer = layer_of(self.case, self.solver_samples or 1, "loo")
        values = _flat(call(layer, theta, seed=seed))
        residual = (values - means) @ self.basis
        return np.linalg.solve(self.hessian, residual.T).T, np.abs(residual).max(1)

    def _has_minimiser(self, a: np.ndarray, residual: np.ndarray) -> np.ndarray:
        """At infinity the gradient vanishes too, but so does the Hessian."""
        if self.solver_samples:
            return residual < 4 / np.sqrt(self.solver_samples)
        return (residual < _TOLERANCE) & (np.linalg.eigvalsh(self._slopes(a))[:, 0] > _FLAT)

    def _theta(self, a: np.ndarray) -> np.ndarray:
        return self.case.theta.reshape(1, -1) + self._sign * a @ self.basis.T

    def _slopes(self, a: np.ndarray) -> np.ndarray:
        return self.basis.T @ self._exact.jacobian(self._theta(a)) @ self.basis

    @ft.cached_property
    def _exact(self) -> dpo.Perturbed:
        return replace(layer_of(self.case, 1, "loo"), method="exact")


def _flat(solutions: np.ndarray) -> np.ndarray:
    return solutions.reshape(len(solutions), -1).astype(np.float64)


def whitened(errors: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Errors in units of the promised covariance: N(0, I) in the limit, (sets, k)."""
    factor = np.linalg.inv(np.linalg.cholesky(limit))
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(errors), errors, np.inf) @ factor.T
