"""Error bars one may believe: 95 % intervals cover the exact answer 95 times of 100.

``reductions.py`` tests that reported variances are right on average; this is what they are for.
An interval is ``estimate +- q se``, q the 97.5 % quantile of Student's law with as many degrees of
freedom as the error was estimated from: samples, pairs, or randomisations.
"""

from __future__ import annotations

import itertools as it

import numpy as np
from scipy import stats

from . import _plots
from ._estimators import DERIVATIVES, NAMES, OUTPUTS, REDUCTIONS, Case, Draw, Plan, from_library
from ._problems import ORACLES, small
from ._results import Check, Figure, Section
from ._settings import Settings
from ._statistics import Z_THRESHOLD, score_of

SAMPLES = 2048
LEVEL = 0.95
ALLOWED = 0.01
"""By which a coverage may miss 95 %, as estimates of that many samples are only nearly normal."""
_SHOWN = np.array([0.5, 0.68, 0.8, 0.9, 0.95, 0.99])
_RANDOMISATIONS = 16

Coverage = tuple[np.ndarray, np.ndarray]
"""How many replicates' intervals cover, (levels, entries), and of how many."""


def run(settings: Settings) -> Section:
    """Every oracle, output and variance reduction, with noises in turn."""
    counts = {}
    noises = it.cycle(("normal", "gumbel", "logistic"))
    for oracle, reduction in it.product(ORACLES, REDUCTIONS):
        settings.tick(f"{oracle}, {REDUCTIONS[reduction]}")
        for of in OUTPUTS[:4]:
            if of in DERIVATIVES or reduction != "none":
                key = oracle, reduction, of
                counts[key] = coverage(from_library, small(oracle, next(noises)), *key, settings)
    return Section(
        title="Coverage of intervals",
        intro=f"From {SAMPLES:,} samples, intervals at six levels of confidence against the exact "
        "answers. The entries of an output share samples; each is tested on its own. Coverage is "
        f"allowed to miss 95% by {100 * ALLOWED:g} points, for estimates are only nearly normal, "
        "plus what chance explains.",
        checks=tuple(_check(o, r, counts) for o, r in it.product(ORACLES, REDUCTIONS)),
        figures=(_figure(counts),),
    )


def coverage(
    draw: Draw, case: Case, oracle: str, reduction: str, of: str, settings: Settings
) -> Coverage:
    """Entries that never vary have intervals of no width, which rightly cover; left out."""
    replicates = settings.pick(512 if oracle == "paths" else 1024, 16384)
    seed = settings.seed_for("coverage", oracle, reduction, of)
    estimates, errors = draw(case, Plan(of, replicates, SAMPLES, seed, reduction))
    freedom = {"qmc": _RANDOMISATIONS - 1, "antithetic": SAMPLES // 2 - 1}.get(reduction, SAMPLES)
    gaps, errors = (x.reshape(replicates, -1) for x in (np.abs(estimates - case.exact(of)), errors))
    varies = errors.max(0) > 1e-6
    radii = stats.t.ppf((1 + _SHOWN) / 2, freedom)
    inside = [(gaps <= r * errors).sum(0)[varies] for r in radii]
    return np.array(inside), np.full(int(varies.sum()), replicates)


def coverage_scores(counts: Coverage) -> np.ndarray:
    """z-scores of "the coverage is within ``ALLOWED`` of 95 %", exact binomial tails."""
    inside, trials = counts[0][list(_SHOWN).index(LEVEL)], counts[1]
    low = stats.binom.cdf(inside, trials, LEVEL - ALLOWED)
    high = stats.binom.sf(inside - 1, trials, LEVEL + ALLOWED)
    return score_of(2 * np.minimum(low, high))


def _check(oracle: str, reduction: str, counts: dict[tuple[str, str, str], Coverage]) -> Check:
    own = {of: c for (o, r, of), c in counts.items() if (o, r) == (oracle, reduction)}
    scores = np.concatenate([coverage_scores(c) for c in own.values()])
    share = {of: 100 * c[0][4].sum() / c[1].sum() for of, c in own.items()}
    return Check(
        f"Coverage, {ORACLES[oracle].lower()}, {REDUCTIONS[reduction]}",
        f"95% intervals cover the exact answer within {100 * ALLOWED:g} points of 95%: max |z|",
        float(scores.max()),
        Z_THRESHOLD,
        note="; ".join(f"{NAMES[of]} {value:.1f}%" for of, value in share.items()),
        scores=scores.size,
    )


def _figure(counts: dict[tuple[str, str, str], Coverage]) -> Figure:
    panels = []
    for oracle in ORACLES:
        figure, ax = _plots.axes(ORACLES[oracle], "confidence (%)", "coverage − confidence")
        for k, reduction in enumerate(REDUCTIONS):
            own = [c for (o, r, _), c in counts.items() if (o, r) == (oracle, reduction)]
            share = sum(c[0].sum(1) for c in own) / sum(c[1].sum() for c in own)
            ax.plot(
                100 * _SHOWN, 100 * (share - _SHOWN), _plots.MARKERS[k], ls=_plots.STYLES[k],
                color=_plots.COLOURS[k], label=REDUCTIONS[reduction],
            )  # fmt: skip
        ax.axhline(0, color=_plots.GREY, lw=1)
        ax.set_ylim(-3, 3)
        if oracle == "argmax":
            ax.legend()
        panels.append(_plots.as_svg(figure, f"{ORACLES[oracle]}: coverage of intervals"))
    return Figure(
        "Coverage minus confidence, all outputs together; honest intervals lie on the line.",
        tuple(panels),
    )
