"""The user's own oracle, found by its import path."""

from __future__ import annotations

import importlib
import os
import sys

import dpo


def load_oracle(path: str) -> dpo.Oracle:
    """The ``dpo.Oracle`` that ``package.module:name`` names; the working directory is searched too.

    ``ImportError`` or ``ValueError`` if there is none.
    """
    module, _, name = path.partition(":")
    if not module or not name:
        raise ValueError(f"--oracle must be MODULE:NAME, as in mypackage:my_oracle, got {path!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"--oracle {path}: there is no module {error.name!r}; is it installed, or in this "
            "directory?"
        ) from None
    try:
        oracle = getattr(found, name)
    except AttributeError:
        raise ValueError(f"--oracle {path}: module {module!r} has no {name!r}") from None
    if not isinstance(oracle, dpo.Oracle):
        hint = " (did you forget the parentheses?)" if isinstance(oracle, type) else ""
        raise ValueError(f"--oracle {path} must be a dpo.Oracle, got {oracle!r}{hint}")
    return oracle


_SHAPES: dict[int, tuple[int, ...]] = {1: (6,), 2: (3, 4)}


def parse_shape(text: str | None, oracle: dpo.Oracle) -> tuple[int, ...]:
    """The shape of one instance: given, or six scores, or a grid of three by four."""
    if text is None:
        shape = _SHAPES.get(oracle.event_ndim, (3,) * oracle.event_ndim)
    else:
        try:
            shape = tuple(int(n) for n in text.split(","))
        except ValueError:
            raise ValueError(f"--shape must be whole numbers, as in 3,4, got {text!r}") from None
    if len(shape) != oracle.event_ndim or min(shape) < 1:
        raise ValueError(
            f"--shape must be {oracle.event_ndim} positive numbers for {oracle!r}, got {text!r}"
        )
    try:
        oracle.problem((1, *shape))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{oracle!r} takes no scores of shape {shape}: {error}; use --shape"
        ) from None
    return shape
