"""Labelled z-scores, and the check that they make together."""

from __future__ import annotations

import numpy as np

from ._results import Check
from ._statistics import Z_THRESHOLD, largest

Scores = dict[str, np.ndarray]
"""z-scores by a label of what they are of."""


def worst(scores: Scores) -> tuple[float, str, int]:
    """The largest ``|z|``, what it is of, and how many there are."""
    name = max(scores, key=lambda key: np.nan_to_num(np.abs(scores[key]), nan=np.inf).max())
    return largest(scores[name]), name, sum(z.size for z in scores.values())


def zcheck(name: str, statement: str, scores: Scores, note: str = "") -> Check:
    """One check of all the scores, which names the largest."""
    value, of, count = worst(scores)
    note = f"{count:,} entries; largest: {of}" + (f"; {note}" if note else "")
    return Check(name, f"{statement}: max |z|", value, Z_THRESHOLD, "<=", note, count)
