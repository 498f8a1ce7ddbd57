"""One family-wise level over the whole report: Holm's step-down procedure.

Every z-score of the report is one hypothesis. Holm (1979), with the properties as hypotheses and
the numbers of their z-scores as weights: the property with the largest score meets the threshold of
``MOST_SCORES`` two-sided tests; if it is rejected, its scores leave the family and the next meets
the threshold of those that remain. While nothing fails, that is Bonferroni's threshold, which every
check carries from the start; each failure only lowers the threshold of the others. The level holds
for any dependence between scores.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ._results import Check, Section
from ._statistics import FAMILY_LEVEL, MOST_SCORES, Z_THRESHOLD, threshold_of


def holm(sections: list[Section], level: float = FAMILY_LEVEL) -> list[Section]:
    """The sections with the thresholds that are left once the rejected scores have gone."""
    scored = [check for section in sections for check in section.checks if _is_scored(check)]
    scored.sort(key=lambda check: -np.nan_to_num(check.statistic, nan=np.inf))
    remaining = MOST_SCORES
    for check in scored:
        if check.statistic <= threshold_of(level / remaining):
            break
        remaining -= check.scores
    threshold = threshold_of(level / remaining)
    return [
        dataclasses.replace(
            section, checks=tuple(_lowered(check, threshold) for check in section.checks)
        )
        for section in sections
    ]


def _is_scored(check: Check) -> bool:
    """Controls have z-scores too, but theirs are over the threshold already."""
    return check.scores > 0 and check.relation == "<=" and check.threshold == Z_THRESHOLD


def _lowered(check: Check, threshold: float) -> Check:
    return dataclasses.replace(check, threshold=threshold) if _is_scored(check) else check
