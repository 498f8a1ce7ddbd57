"""One-call forms of the layer."""

from __future__ import annotations

from ._arrays import kind_of
from ._oracles import Argmax, Oracle, Ranks, ShortestPath, TopK
from ._perturbed import Perturbed


def _call(name: str, oracle: Oracle | type[Oracle], options: tuple, fields: dict, *args, **named):
    """A method of a layer made for one call; ``torch.compile`` makes the layer once, by itself."""
    if kind_of(args[0]) == "torch":
        from . import _torch

        if _torch.is_transformed():
            return _torch.made(name, oracle, options, fields, *args, **named)
    layer = Perturbed(oracle(*options) if isinstance(oracle, type) else oracle, **fields)
    return getattr(layer, name)(*args, **named)


def perturbed_argmax(theta, *, seed=None, **parameters):
    """The perturbed argmax of each row, ``(..., d) -> (..., d)``; differentiable where theta is.

    ``parameters`` are those of ``dpo.Perturbed``: ``epsilon``, ``num_samples``, ``noise``, ...

    >>> import numpy, dpo
    >>> theta = numpy.array([[0.0, 1.0], [3.0, 0.0]], dtype="float32")
    >>> dpo.perturbed_argmax(theta, epsilon=0.5, noise="logistic", num_samples=1000, seed=0).shape
    (2, 2)
    """
    return _call("__call__", Argmax, (), parameters, theta, seed=seed)


def perturbed_topk(theta, k: int, *, seed=None, **parameters):
    """How often each coordinate is among the ``k`` largest; rows sum to k. See ``dpo.TopK``.

    >>> import dpo
    >>> dpo.perturbed_topk([0.1, 1.2, 0.9, -2.0], k=2, epsilon=0.01, seed=0)
    array([0., 1., 1., 0.])
    """
    return _call("__call__", TopK, (k,), parameters, theta, seed=seed)


def perturbed_ranks(theta, *, seed=None, **parameters):
    """The mean rank of each coordinate, ascending: 1 is the smallest. See ``dpo.Ranks``.

    >>> import dpo
    >>> dpo.perturbed_ranks([0.1, 1.2, 0.9, -2.0], epsilon=0.01, seed=0)
    array([2., 4., 3., 1.])
    """
    return _call("__call__", Ranks, (), parameters, theta, seed=seed)


def perturbed_shortest_path(
    costs,
    *,
    neighbors: int = 8,
    source=(0, 0),
    target=(-1, -1),
    min_cost: float = 0.0,
    seed=None,
    **parameters,
):
    """How often each cell is on the cheapest path, ``(..., H, W)``. See ``dpo.ShortestPath``.

    >>> import dpo
    >>> dpo.perturbed_shortest_path([[1.0, 1.0], [5.0, 1.0]], neighbors=4, epsilon=0.01, seed=0)
    array([[1., 1.],
           [0., 1.]])
    """
    options = (neighbors, source, target, min_cost)
    return _call("__call__", ShortestPath, options, parameters, costs, seed=seed)


def fenchel_young_loss(
    theta, y_true, *, oracle: Oracle | None = None, seed=None, normalize=True, **parameters
):
    """The Fenchel-Young loss of each instance, of the argmax by default; see ``Perturbed.loss``.

    Its gradient in ``theta`` is the perturbed optimum minus ``y_true``, exactly, with the same seed
    (and the other way around where scores are costs).
    """
    named = {"seed": seed, "normalize": normalize}
    return _call("loss", oracle or Argmax, (), parameters, theta, y_true, **named)
