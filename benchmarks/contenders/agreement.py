"""Do two contenders estimate the same thing?"""

from __future__ import annotations

import math

import numpy as np


def agreement(result, result_again, ours, ours_again) -> tuple[float, float]:
    """Two z-scores for ``result`` and ``ours`` having one expectation, from rows of estimates.

    The four are independent (rows, ...) estimates. A row contributes

    * ``<result - ours, ours_again>``, a projection on where the signal is: it sees a wrong scale;
    * ``<result - ours, result_again - ours_again>``, whose mean is the squared distance of the two
      expectations whatever the noise: it sees a wrong shape, and is then positive.

    The rows' own spread is the unit, so noisier estimators are judged by their own noise; no score
    exceeds the root of the number of rows. A wrong eps (by a tenth) or a VJP scaled by 0.8 shows
    clearly at d = 10, hardly where d is in the thousands or M is 1.
    """
    result, result_again, ours, ours_again = (
        np.asarray(x, float).reshape(len(x), -1) for x in (result, result_again, ours, ours_again)
    )
    signal = ((result - ours) * ours_again).sum(-1)
    distance = ((result - ours) * (result_again - ours_again)).sum(-1)
    return _z_score(signal), _z_score(distance)


def _z_score(products: np.ndarray) -> float:
    """Of independent products with mean 0; exactly 0 where nothing differs."""
    return float(products.sum() / math.sqrt(max((products**2).sum(), 1e-300)))
