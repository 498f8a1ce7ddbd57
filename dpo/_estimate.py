"""A Monte-Carlo mean with its error bar."""

from __future__ import annotations

from typing import Any, NamedTuple


class Estimate(NamedTuple):
    """What ``Perturbed.estimate`` returns; unpacks as ``mean, standard_error, num_samples``."""

    mean: Any
    """The estimate, an array of the kind that was passed in."""
    standard_error: Any
    """One standard error of each entry of ``mean``; NaN where one sample allows none."""
    num_samples: Any
    """How many samples each row's estimate is of: a number, or an array under ``dpo.Adaptive``."""
