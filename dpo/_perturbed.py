"""The layer: a perturbed optimizer with its hyper-parameters."""

from __future__ import annotations

import functools as ft
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._arrays import Scores, as_companion, as_scores, kind_of
from ._checks import as_choice, as_epsilon, as_num_samples
from ._engine import Sampler
from ._estimate import Estimate
from ._losses import check_targets, fenchel_young, negative_entropy_offset
from ._noise import Gumbel, Logistic, Noise, Normal, as_noise
from ._oracles import Argmax, Oracle, as_oracle
from ._seeds import as_seed

_FAMILY_CODES: dict[type, int] = {Normal: 0, Gumbel: 1, Logistic: 2}


def _public(method):
    """A method on scores of any kind; ``torch.compile`` runs it eagerly, between two graphs."""

    @ft.wraps(method)
    def call(self, theta, *args, **parameters):
        if kind_of(theta) == "torch":
            from . import _torch

            return _torch.eagerly(method, self, theta, *args, **parameters)
        return method(self, theta, *args, **parameters)

    return call


@dataclass(frozen=True)
class Perturbed:
    """A perturbed optimizer ``y_eps(theta) = E[y*(theta + eps Z)]`` and its derivatives.

    Rows are the last axis, everything before it is batch. Arrays may be NumPy, torch (CPU), JAX
    (CPU, outside ``jit``) or anything with ``__dlpack__``; results are of the same kind and dtype,
    and torch results are differentiable.

    Every method takes ``seed``: an int, two uint32 words, a ``torch.Generator`` or a JAX key. The
    same seed gives the same noise in every method, so ``layer.vjp`` is the derivative that
    ``backward()`` computes. ``None`` draws a fresh seed from the framework's global generator.

    Parameters
    ----------
    oracle
        The solver ``y*``; ``dpo.Argmax()``.
    noise
        ``"normal"``, ``"gumbel"``, ``"logistic"`` or a ``dpo.Noise``.
    epsilon
        The temperature, in the units of ``theta``; positive.
    num_samples
        Samples ``M`` a row; errors fall as ``M^(-1/2)``, memory does not grow.
    method
        ``"mc"``, Monte-Carlo.
    variance_reduction
        ``"loo"``: derivatives centred by the other samples' mean (default; unbiased, and its
        variance stays bounded as ``eps -> 0``). ``"none"``: the plain estimators.
    precision
        ``"portable"``: the same bits on every machine.

    Raises
    ------
    TypeError, ValueError
        At construction, naming the argument, its value and what it may be.

    Examples
    --------
    >>> import dpo
    >>> layer = dpo.Perturbed(dpo.Argmax(), noise="gumbel", epsilon=0.5, num_samples=100_000)
    >>> layer([-0.6, 1.9, -0.2, 1.1, -1.0], seed=0).round(2)   # softmax(theta / 0.5)
    array([0.01, 0.81, 0.01, 0.17, 0.  ])
    """

    oracle: Oracle = Argmax()
    noise: Noise | str = Normal()
    epsilon: float = 0.5
    num_samples: int = 1000
    method: str = "mc"
    variance_reduction: str = "loo"
    precision: str = "portable"

    def __post_init__(self):
        checked: dict[str, Any] = {
            "oracle": as_oracle(self.oracle),
            "noise": as_noise(self.noise),
            "epsilon": as_epsilon(self.epsilon),
            "num_samples": as_num_samples(self.num_samples),
            "method": as_choice("method", self.method, ("mc",)),
            "variance_reduction": as_choice(
                "variance_reduction", self.variance_reduction, ("loo", "none")
            ),
            "precision": as_choice("precision", self.precision, ("portable",)),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @_public
    def __call__(self, theta, *, seed=None):
        """The perturbed argmax ``ybar = (1 / M) sum_m y*(theta + eps z_m)``, ``(..., d)``.

        Unbiased for ``y_eps(theta)``; a row is a distribution over its coordinates. Equals
        ``(theta + eps * Z).argmax(-1)``, one-hot, averaged over ``Z`` of shape (M, ..., d).
        """
        scores, sampler = self._prepare(theta, seed)
        if scores.kind == "torch":
            from . import _torch

            return _torch.perturbed_value(theta, scores, sampler)
        return scores.restore(sampler.value().reshape(scores.shape))

    @_public
    def max(self, theta, *, seed=None):
        """``Fbar = (1 / M) sum_m max_y <y, theta + eps z_m>``, ``(...)``: unbiased for ``F_eps``.

        Its gradient is ``layer(theta)``, from the same samples.
        """
        scores, sampler = self._prepare(theta, seed)
        if scores.kind == "torch":
            from . import _torch

            return _torch.perturbed_max(theta, scores, sampler)
        return scores.restore(sampler.maximum()[0].reshape(scores.shape[:-1]))

    @_public
    def vjp(self, theta, v, *, seed=None):
        """The vector-Jacobian product ``v^T D y_eps(theta)``, ``(..., d)``; no ``J`` is formed."""
        scores, sampler = self._prepare(theta, seed)
        result, _ = sampler.vjp(as_companion(v, "v", scores))
        return self._constant(theta, scores, result.reshape(scores.shape))

    @_public
    def jvp(self, theta, t, *, seed=None):
        """The Jacobian-vector product ``D y_eps(theta) t``, ``(..., d)``."""
        scores, sampler = self._prepare(theta, seed)
        result, _ = sampler.jvp(as_companion(t, "t", scores))
        return self._constant(theta, scores, result.reshape(scores.shape))

    @_public
    def jacobian(self, theta, *, seed=None):
        """The Jacobian ``J[..., i, k] = d y_eps(theta)_i / d theta_k``, ``(..., d, d)``.

        Its expectation, the Hessian of ``F_eps``, is symmetric; the estimate is only nearly so.
        """
        scores, sampler = self._prepare(theta, seed)
        result, _ = sampler.jacobian()
        return self._constant(theta, scores, result.reshape(*scores.shape, scores.shape[-1]))

    @_public
    def estimate(self, theta, *, of="value", direction=None, seed=None) -> Estimate:
        """An estimate with its standard error, from one pass over the same samples.

        ``of`` is ``"value"`` (the perturbed argmax), ``"max"``, ``"vjp"``, ``"jvp"`` or
        ``"jacobian"``; ``direction`` is the ``v`` of the VJP or the ``t`` of the JVP. The standard
        error of a coordinate that never or always won is 0: more samples are needed to see it.
        """
        of = as_choice("of", of, ("value", "max", "vjp", "jvp", "jacobian"))
        if (direction is not None) != (of in ("vjp", "jvp")):
            needed = "needs" if direction is None else "takes no"
            raise ValueError(f'of={of!r} {needed} direction: it is for "vjp" and "jvp"')
        scores, sampler = self._prepare(theta, seed)
        if direction is not None:
            direction = as_companion(direction, "v" if of == "vjp" else "t", scores)
        shape = scores.shape
        results = {
            "value": lambda: (shape, sampler.value_error()),
            "max": lambda: (shape[:-1], sampler.maximum()[:2]),
            "vjp": lambda: (shape, sampler.vjp(direction, errors=True)),
            "jvp": lambda: (shape, sampler.jvp(direction)),
            "jacobian": lambda: ((*shape, shape[-1]), sampler.jacobian(errors=True)),
        }
        shape, (mean, error) = results[of]()
        return Estimate(
            mean=self._constant(theta, scores, mean.reshape(shape)),
            standard_error=self._constant(theta, scores, error.reshape(shape)),
            num_samples=self.num_samples,
        )

    @_public
    def samples(self, theta, *, seed=None):
        """The individual solutions ``y*(theta + eps z_m)``, ``(num_samples, ..., d)``."""
        scores, sampler = self._prepare(theta, seed)
        onehot = np.zeros((self.num_samples, *scores.rows.shape), scores.rows.dtype)
        np.put_along_axis(onehot, sampler.winners().T[:, :, None], 1.0, axis=-1)
        return self._constant(theta, scores, onehot.reshape(self.num_samples, *scores.shape))

    @_public
    def loss(self, theta, y_true, *, seed=None, normalize=True):
        """The Fenchel-Young loss ``F_eps(theta) - <theta, y> + eps Omega(y)``, ``(...)``.

        Convex in ``theta``, with gradient ``layer(theta) - y_true``, value and gradient from the
        same samples. ``y_true`` is one-hot, or any mean of one-hot targets. ``eps Omega(y)`` does
        not depend on ``theta``. Gumbel noise has it in closed form,
        ``eps (sum_i y_i log y_i - gamma)``: the loss is then the logistic loss at temperature
        ``eps``, and ``normalize=False`` leaves the term out. Under normal and logistic noise it is
        zero for one-hot targets and is left out: the loss of a mixed target is offset by a
        constant. Being a Monte-Carlo estimate, a loss near zero may come out slightly negative.
        """
        scores, sampler = self._prepare(theta, seed)
        targets = as_companion(y_true, "y_true", scores)
        check_targets(y_true, targets)
        offset = np.zeros(len(targets))
        if normalize and isinstance(self.noise, Gumbel):
            offset = self.epsilon * negative_entropy_offset(targets)
        if scores.kind == "torch":
            from . import _torch

            return _torch.fenchel_young(theta, scores, sampler, targets, offset)
        value, _ = fenchel_young(sampler, targets, offset)
        return scores.restore(value.reshape(scores.shape[:-1]))

    def _prepare(self, theta, seed) -> tuple[Scores, Sampler]:
        scores = as_scores(theta, "theta")
        sampler = Sampler(
            theta=scores.rows,
            epsilon=self.epsilon,
            family=_FAMILY_CODES[type(self.noise)],
            num_samples=self.num_samples,
            centred=self.variance_reduction == "loo",
            seed=as_seed(seed, scores.kind),
        )
        return scores, sampler

    def _constant(self, theta, scores: Scores, result: np.ndarray):
        """A result whose own derivative is not available: in torch, ``backward`` then says so."""
        if scores.kind == "torch":
            from . import _torch

            return _torch.constant(theta, scores.restore(result))
        return scores.restore(result)
