"""One-call forms of the layer."""

from __future__ import annotations

from ._oracles import Argmax, Oracle
from ._perturbed import Perturbed

_ARGMAX = Argmax()


def perturbed_argmax(theta, *, seed=None, **parameters):
    """The perturbed argmax of each row, ``(..., d) -> (..., d)``; differentiable where theta is.

    ``parameters`` are those of ``dpo.Perturbed``: ``epsilon``, ``num_samples``, ``noise``, ...

    >>> import numpy, dpo
    >>> theta = numpy.array([[0.0, 1.0], [3.0, 0.0]], dtype="float32")
    >>> dpo.perturbed_argmax(theta, epsilon=0.5, noise="logistic", num_samples=1000, seed=0).shape
    (2, 2)
    """
    return Perturbed(_ARGMAX, **parameters)(theta, seed=seed)


def fenchel_young_loss(
    theta, y_true, *, oracle: Oracle = _ARGMAX, seed=None, normalize=True, **parameters
):
    """The Fenchel-Young loss of each row, ``(..., d), (..., d) -> (...)``; see ``Perturbed.loss``.

    Its gradient in ``theta`` is ``perturbed_argmax(theta) - y_true``, exactly, with the same seed.
    """
    return Perturbed(oracle, **parameters).loss(theta, y_true, seed=seed, normalize=normalize)
