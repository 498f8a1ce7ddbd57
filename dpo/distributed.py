"""Beyond one device: rows, samples or coordinates shared out among processes or devices.

The noise contract names noise by seed, row, sample and coordinate, so that processes under one seed
see what a single process would have seen:

    layer(theta, seed=seed, row_offset=row_offset(len(theta)))     a batch shared out
    sharded(layer, theta, seed=seed)                               samples shared out
    coordinates_sharded(layer, theta, seed=seed)                   coordinates shared out

Integer solutions add up exactly: values are those of one process to the last bit, derivatives and
maxima to rounding. ``docs/beyond-one-device.md`` has the cost of each.

Processes are those of ``torch.distributed``; coordinates are shared out among the devices of a JAX
mesh too (rows and samples need no function there). Neither framework is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._arrays import kind_of
from ._checks import as_choice

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup

    from ._perturbed import Perturbed


def row_offset(rows: int, group: ProcessGroup | None = None) -> int:
    """How many rows the processes of lower rank hold, this one holding ``rows``.

    What ``row_offset=`` of a layer's methods takes where a batch is shared out, in the order of
    ranks and in any sizes.
    """
    from . import _torch_distributed

    return _torch_distributed.row_offset(rows, group)


def sharded(layer: Perturbed, theta: Tensor, *, seed, group: ProcessGroup | None = None) -> Tensor:
    """``layer(theta, seed=seed)``, of whose samples every process draws its share.

    All processes pass the same scores and the same seed, and get the same result, which is
    differentiable in ``theta``: each gets the whole gradient, of the ``v`` that all have.

    Raises
    ------
    ValueError
        For samples that belong together (antithetic, quasi-Monte-Carlo, ``dpo.Adaptive``), for
        exact expectations, which have none, and for fewer samples than processes.
    """
    from . import _torch_distributed

    return _torch_distributed.sharded(layer, theta, seed=seed, group=group)


def coordinates_sharded(
    layer: Perturbed, theta: Any, *, seed, of: str = "value", row_offset=0, group: Any = None
) -> Any:
    """``layer(theta, seed=seed)``, of whose coordinates every process holds a part.

    ``theta`` is this process's part of the scores, ``(..., d_p)``: joined along the last axis, in
    the order of ranks, parts are the scores of the whole problem, ``(..., d)``. The result is this
    process's part of the perturbed optimum, differentiable in ``theta`` and in the layer's
    ``epsilon``; joined likewise, results are ``layer(whole, seed=seed)`` to the last bit.
    ``of="max"`` gives ``layer.max``, ``(...)``, the same in every process; its gradient is of the
    ``v`` that all have. The gradient in ``epsilon``, which all have too, is the whole one in each
    (in JAX: taken of the sharded function, not inside ``shard_map``).

    A process draws, decides and differentiates what it holds. What travels is a winner a sample
    (``k`` a sample and process for top-k), and a number a sample in the gradient: nothing that
    grows with ``d``. Every process of the group has to make the call, and to differentiate it.

    Parameters
    ----------
    layer
        Of ``dpo.Argmax()`` or ``dpo.TopK(k)``, with a fixed number of independent samples, and one
        temperature or an entry a row.
    theta
        A torch tensor, in every process of ``group`` in CPU memory or in every one on a GPU; or,
        inside ``jax.shard_map``, a JAX array whose last axis is shared out over the mesh axis of
        the name ``group``.
    seed
        The same in every process; in JAX it may be traced.
    row_offset
        What the first row is called, where rows are shared out as well.
    group
        The processes (all by default), or the name of the mesh axis.

    Raises
    ------
    ValueError, TypeError
        For a layer that cannot be shared out so; where a part but the last has no multiple of four
        coordinates (four share a block of random words: pad with ``-inf``); where rows, seeds or
        temperatures differ. What one process refuses is an error in all.
    ImportError
        For tensors on a GPU without CuPy.
    """
    as_choice("of", of, ("value", "max"))
    kind = kind_of(theta)
    if kind == "torch":
        from . import _torch_shards

        return _torch_shards.coordinates_sharded(
            layer, theta, seed=seed, of=of, row_offset=row_offset, group=group
        )
    if kind == "jax":
        from . import _jax_shards

        return _jax_shards.coordinates_sharded(
            layer, theta, seed=seed, of=of, row_offset=row_offset, axis=group
        )
    raise TypeError(f"theta must be a torch tensor or a JAX array, got a {kind} array")
