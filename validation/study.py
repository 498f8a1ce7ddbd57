"""Unbiasedness at scale: a Monte-Carlo study in pieces, on one machine or on a Dask cluster.

A piece is an oracle, a noise, an output and a block number, which is its seed. It returns sums over
its replicates, which add up; so verdicts depend on neither the cluster nor its size.
"""

from __future__ import annotations

import itertools as it
from typing import NamedTuple

import numpy as np

from . import _plots
from ._backend import current, running_on
from ._estimators import NAMES, NOISES, SPELLED, Plan, from_library
from ._problems import ORACLES, small
from ._results import Check, Figure, Section
from ._scores import zcheck
from ._settings import Settings
from ._statistics import SEEN

_OUTPUTS = ("value", "max", "vjp")
_REPLICATES = 64
"""Of a block; means of many samples, and so normal."""


class Piece(NamedTuple):
    """What one worker is told."""

    oracle: str
    noise: str
    of: str
    seed: int
    num_samples: int
    backend: str


class Sums(NamedTuple):
    """Of a piece's replicates minus the exact answer: how many, sums and sums of squares."""

    replicates: int
    first: np.ndarray
    second: np.ndarray

    def __add__(self, other) -> Sums:  # type: ignore[override]
        return Sums(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def scores(self) -> np.ndarray:
        """z-scores of "the mean is the exact answer"; 0 where nothing varies and nothing is off."""
        mean = self.first / self.replicates
        variance = np.maximum(self.second / self.replicates - mean**2, 0)
        error = np.sqrt(variance / self.replicates)
        constant = error < 1e-9
        off = np.where(np.abs(mean) < 1e-6, 0, np.inf)
        return np.where(constant, off, mean / np.where(constant, 1, error))


def work(piece: Piece) -> Sums:
    """One block, wherever it runs."""
    case = small(piece.oracle, piece.noise)
    plan = Plan(piece.of, _REPLICATES, piece.num_samples, piece.seed)
    with running_on(piece.backend):
        gaps = from_library(case, plan)[0] - case.exact(piece.of)
    return Sums(_REPLICATES, gaps.sum(0), (gaps**2).sum(0))


def run(settings: Settings) -> Section:
    """Blocks of every oracle, noise and output; a check an oracle."""
    blocks, num_samples = settings.pick((4, 4096), (256, 65536))
    keys = list(it.product(ORACLES, NOISES, _OUTPUTS))
    pieces = [
        Piece(*key, settings.seed_for("study", *key, block), num_samples, current())
        for key in keys
        for block in range(blocks)
    ]
    settings.tick(f"{len(pieces)} pieces")
    sums = list(settings.map(work, pieces))
    courses = {key: sums[n * blocks : (n + 1) * blocks] for n, key in enumerate(keys)}
    samples = blocks * _REPLICATES * num_samples
    return Section(
        title="Monte-Carlo study",
        intro=f"{samples:,} samples of each of {len(keys)} estimators, in {len(pieces)} pieces of "
        "their own seeds; `--dask` spreads them over a cluster and changes no verdict. A bias of "
        f"{SEEN / samples**0.5:.1e} × one sample's spread would be seen 99 times of 100.",
        checks=tuple(_check(oracle, courses, samples) for oracle in ORACLES),
        figures=(_figure(courses),),
    )


def _check(oracle: str, courses: dict, samples: int) -> Check:
    scores = {
        f"{NAMES[of]}, {SPELLED[noise]} noise": sum(own[1:], own[0]).scores.ravel()
        for (o, noise, of), own in courses.items()
        if o == oracle
    }
    statement = "value, maximum and VJP have the exact expectation"
    return zcheck(f"Study: {ORACLES[oracle].lower()}", statement, scores, f"{samples:,} samples")


def _figure(courses: dict) -> Figure:
    """How scores wander as blocks add up: a biased estimator's grow as the root of the blocks."""
    figure, ax = _plots.axes("Scores as blocks add up", "blocks", "z-score of one entry")
    for k, oracle in enumerate(ORACLES):
        for (o, _, _), own in courses.items():
            if o != oracle:
                continue
            totals = it.accumulate(own)
            path = [total.scores.ravel()[-1] for total in totals]
            ax.plot(range(1, len(path) + 1), path, color=_plots.COLOURS[k], lw=0.8)
        ax.plot([], [], color=_plots.COLOURS[k], label=ORACLES[oracle].lower())
    ax.axhline(0, color=_plots.GREY, lw=1)
    ax.set_ylim(-5, 5)
    ax.legend(ncols=2)
    return Figure(
        "The z-score of the last entry of every output as blocks add up. Were an estimator biased, "
        "its line would leave like a square root.",
        (_plots.as_svg(figure, "z-scores against the number of blocks"),),
    )
