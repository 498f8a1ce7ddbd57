"""Costs that look like game terrain: the usual test of perturbed shortest paths.

Only NumPy is needed, and nothing of the library: ``asv`` runs this on old commits too.
"""

from __future__ import annotations

import numpy as np

COSTS = np.array([0.8, 1.2, 5.3, 7.7, 9.2], np.float32)
"""Grass, earth, forest, water, rock, as in the Warcraft II data of Vlastelica et al. (2020)."""
SHARES = np.array([0.23, 0.33, 0.13, 0.16, 0.15])
"""How much of those maps each terrain covers."""
WIDTH = 1.5
"""Standard deviation of the smoothing, in cells: patches are a few cells wide."""


def terrain_costs(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """``(count, height, width)`` vertex costs in smooth patches, float32.

    White noise is smoothed by a (periodic) Gaussian and cut at the quantiles of all maps together:
    the shares hold over the whole set, and single maps differ, as real ones do.
    """
    white = np.random.default_rng(seed).standard_normal((count, height, width))
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    gaussian = np.exp(-2 * (np.pi * WIDTH) ** 2 * (rows**2 + columns**2))
    smooth = np.fft.irfft2(np.fft.rfft2(white) * gaussian, s=(height, width))
    cuts = np.quantile(smooth, np.cumsum(SHARES)[:-1])
    return COSTS[np.searchsorted(cuts, smooth)]
