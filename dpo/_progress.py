"""How far a pass over the samples of a user's function has come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def reporting(progress: Any, total: int) -> Iterator[Callable[[int], None]]:
    """What is told how many more problems are solved: nothing, a callable, or a bar of tqdm."""
    if progress is None:
        yield lambda more: None
    elif progress is True:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            raise ImportError(
                "progress=True shows a bar of tqdm, which is not installed: pip install tqdm, or "
                "pass a function of (done, total)"
            ) from None

        with tqdm(total=total, desc="solved") as bar:
            yield bar.update
    else:
        done = 0

        def update(more: int) -> None:
            nonlocal done
            done += more
            progress(done, total)

        yield update
