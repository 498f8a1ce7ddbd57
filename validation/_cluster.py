"""Pieces of work on one machine or on many: the builtin ``map``, or a Dask cluster.

What a piece computes depends on its own seed alone, so where it runs changes no verdict.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Map = Callable[[Callable, Iterable], Iterable]


def missing() -> str:
    """Why there is no Dask, and how to get it; empty if there is."""
    if importlib.util.find_spec("distributed"):
        return ""
    return "Dask is not installed: pip install 'perturbed-optimizers[dask]'"


@contextlib.contextmanager
def mapping(address: str | None) -> Iterator[Map]:
    """``map`` over a cluster: None for this process, ``"local"`` for one made here, or its address.

    Workers must be able to import ``dpo`` in the same version.
    """
    if address is None:
        yield map
        return
    from distributed import Client, LocalCluster

    with contextlib.ExitStack() as stack:
        target: Any = address
        if address == "local":
            target = stack.enter_context(LocalCluster(dashboard_address=None))
        client = stack.enter_context(Client(target, timeout=30))

        def over(function: Callable, items: Iterable) -> list:
            return client.gather(client.map(function, list(items), pure=False))

        yield over
