"""One-call forms of the layer.

All are ``E[y*(theta + eps Z)]``, or a loss of it, for one solver ``y*`` each. Their ``parameters``
are those of ``dpo.Perturbed``, ``seed`` is as there, results have theta's kind and dtype, and
errors (``TypeError``, ``ValueError``) name the argument.
"""

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
    """``E[onehot(argmax_i theta_i + eps Z_i)]``, ``(..., d) -> (..., d)``; rows sum to 1.

    ``parameters`` are those of ``dpo.Perturbed``: ``epsilon``, ``num_samples``, ``noise``, ... See
    ``dpo.Argmax``; errors name the argument.

    >>> import numpy, dpo
    >>> theta = numpy.array([[0.0, 1.0], [3.0, 0.0]], dtype="float32")
    >>> dpo.perturbed_argmax(theta, epsilon=0.5, noise="logistic", num_samples=1000, seed=0).shape
    (2, 2)
    """
    return _call("__call__", Argmax, (), parameters, theta, seed=seed)


def perturbed_topk(theta, k: int, *, seed=None, **parameters):
    """``P(theta_i + eps Z_i is among the k largest)``, ``(..., d) -> (..., d)``; rows sum to k.

    ``parameters`` are those of ``dpo.Perturbed``. Raises ``ValueError`` unless ``1 <= k <= d``. See
    ``dpo.TopK``.

    >>> import dpo
    >>> dpo.perturbed_topk([0.1, 1.2, 0.9, -2.0], k=2, epsilon=0.01, seed=0)
    array([0., 1., 1., 0.])
    """
    return _call("__call__", TopK, (k,), parameters, theta, seed=seed)


def perturbed_ranks(theta, *, seed=None, **parameters):
    """``E[rank of theta_i + eps Z_i]``, ``(..., d) -> (..., d)``, ascending: 1 is the smallest.

    ``perturbed_ranks(-theta)`` gives rank 1 to the largest. ``parameters`` are those of
    ``dpo.Perturbed``. See ``dpo.Ranks``; errors name the argument.

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
    """``P(cell is on the cheapest path for costs - eps Z)``, ``(..., H, W) -> (..., H, W)``.

    ``neighbors``, ``source``, ``target`` and ``min_cost`` are those of ``dpo.ShortestPath``,
    ``parameters`` those of ``dpo.Perturbed``. Raises ``ValueError`` where walls (+inf) leave an
    instance no path.

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
    """``F_eps(theta) - <theta, y> + eps Omega(y)``, ``(..., d) -> (...)``; by default the argmax's.

    ``F_eps(theta) = E max_y <y, theta + eps Z>``. The gradient in ``theta`` is the perturbed
    optimum minus ``y_true``, exactly, with the same seed (the other way around where scores are
    costs).
    ``y_true``, of theta's shape, are solutions of ``oracle`` or means of solutions;
    ``normalize=False`` leaves ``eps Omega(y)`` out. ``parameters`` are those of ``dpo.Perturbed``,
    whose ``loss`` says more. Raises ``ValueError`` of targets that are no means of solutions.

    >>> import dpo
    >>> dpo.fenchel_young_loss([[0.0, 2.0]], [[0, 1]], noise="gumbel", epsilon=1.0, method="exact")
    array([0.12692801])
    """
    named = {"seed": seed, "normalize": normalize}
    return _call("loss", oracle or Argmax, (), parameters, theta, y_true, **named)
