"""What a function may return: an array, or nested dicts, lists and tuples of arrays.

The order of leaves is that of the containers; a dict's is that of its sorted keys, so that two
results are alike whatever order their keys were set in. Named tuples keep their type.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def leaves(tree: Any) -> Iterator[Any]:
    """The arrays of a tree, in order."""
    if isinstance(tree, dict):
        for key in sorted(tree):
            yield from leaves(tree[key])
    elif isinstance(tree, (list, tuple)):
        for branch in tree:
            yield from leaves(branch)
    elif tree is not None:
        yield tree


def fill(tree: Any, values: Iterator[Any]) -> Any:
    """A tree like ``tree`` whose leaves are the next ``values``."""
    if isinstance(tree, dict):
        filled = {key: fill(tree[key], values) for key in sorted(tree)}
        return type(tree)((key, filled[key]) for key in tree)
    if isinstance(tree, (list, tuple)):
        branches = [fill(branch, values) for branch in tree]
        return type(tree)(*branches) if hasattr(tree, "_fields") else type(tree)(branches)
    return None if tree is None else next(values)


def skeleton(tree: Any) -> Any:
    """The tree with its leaves replaced by 0: two results are alike where these are equal."""
    return fill(tree, iter(lambda: 0, None))
