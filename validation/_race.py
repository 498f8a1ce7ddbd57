"""Error against time: exact expectations beside ever more samples of the same problem."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import dpo

from . import _plots
from ._closed_forms import gap
from ._estimators import NOISES, SPELLED, Case, layer_of
from ._problems import ORACLES, random_scores
from ._results import Figure
from ._settings import Settings

_ROWS, _WIDTH, _TOP = 2, 20, 5
_ORACLES = {"argmax": dpo.Argmax(), "topk": dpo.TopK(_TOP), "ranks": dpo.Ranks()}
_SAMPLES = (10**2, 10**3, 10**4, 10**5, 10**6)
_SMALLEST = 1e-17  # a logarithmic axis has no 0
_ENOUGH = 0.02  # seconds of repeats, of which the fastest counts


class _Point(NamedTuple):
    seconds: float
    """Of value and VJP."""
    error: float
    """The largest, of either."""


class _Course(NamedTuple):
    """One oracle and noise."""

    sampled: list[_Point]
    exact: dict[type, _Point]
    """By precision."""

    @property
    def points(self) -> list[_Point]:
        return [*self.sampled, *self.exact.values()]


def race(settings: Settings) -> Figure:
    """A panel an oracle, a line a noise; and what the numbers say."""
    courses = {
        oracle: {noise: _run(_case(oracle, noise), settings) for noise in NOISES}
        for oracle in _ORACLES
    }
    seconds = [p.seconds for by in courses.values() for c in by.values() for p in c.points]
    limits = 0.7 * min(seconds), 1.5 * max(seconds)
    panels = tuple(_panel(*item, limits) for item in courses.items())
    return Figure(_caption(courses), panels)


def _case(oracle: str, noise: str) -> Case:
    return Case("race", random_scores(_ROWS, _WIDTH), 1.0, noise, _ORACLES[oracle])


def _run(case: Case, settings: Settings) -> _Course:
    seed = settings.seed_for("race", case.oracle, case.noise)
    sampled = [_point(case, layer_of(case, m, "loo"), np.float32, seed) for m in _SAMPLES]
    layer = dataclasses.replace(layer_of(case, 1, "loo"), method="exact")
    exact = {dtype: _point(case, layer, dtype, seed) for dtype in (np.float64, np.float32)}
    return _Course(sampled, exact)


def _point(case: Case, layer: dpo.Perturbed, dtype: type, seed: int) -> _Point:
    theta = case.theta.astype(dtype)
    direction = np.broadcast_to(case.direction, theta.shape).astype(dtype)
    seconds, answers = _timed(
        lambda: (layer(theta, seed=seed), layer.vjp(theta, direction, seed=seed))
    )
    exact = case.exact("value"), case.exact("vjp")
    return _Point(seconds, max(gap(answers, exact), _SMALLEST))


def _timed(call: Callable[[], tuple[np.ndarray, ...]]) -> tuple[float, tuple[np.ndarray, ...]]:
    """The fastest of as many calls as there is time for, after one that prepares; the answers."""
    answers, fastest, start = call(), np.inf, time.perf_counter()
    while np.isinf(fastest) or time.perf_counter() < start + _ENOUGH:
        begin = time.perf_counter()
        call()
        fastest = min(fastest, time.perf_counter() - begin)
    return fastest, answers


# ------------------------------------------------------------------------------------ what is shown


def _caption(courses: dict[str, dict[str, _Course]]) -> str:
    results = []
    for oracle, by_noise in courses.items():
        course = by_noise["normal"]
        exact, most = _words(course.exact[np.float64]), _words(course.sampled[-1])
        results.append(f"{ORACLES[oracle].lower()} {exact} as against {most}")
    return (
        f"Time for value and VJP of {_ROWS} rows of {_WIDTH} scores (the top {_TOP}), and the "
        "largest error of either: from a hundred to a million samples (lines; leave-one-out, "
        f'float32), and by method="exact" (single marks). With normal noise, exact in '
        f"float64 as against a million samples: {'; '.join(results)}. One digit more costs a "
        "sampler a hundred times the samples. Times are this machine's, and no verdict depends on "
        "them."
    )


def _words(point: _Point) -> str:
    ms = 1e3 * point.seconds
    return f"{ms:.{0 if ms >= 10 else 2}f} ms and an error of {point.error:.0e}"


def _panel(oracle: str, by_noise: dict[str, _Course], limits: tuple[float, float]) -> str:
    figure, ax = _plots.axes(ORACLES[oracle], "seconds", "largest error", (4.0, 3.4))
    for k, (noise, course) in enumerate(by_noise.items()):
        colour = _plots.COLOURS[k]
        times, errors = zip(*course.sampled, strict=True)
        ax.loglog(
            times, errors, _plots.MARKERS[k], ls=_plots.STYLES[k], color=colour,
            label=SPELLED[noise],
        )  # fmt: skip
        for dtype, fill in ((np.float64, colour), (np.float32, "none")):
            point = course.exact[dtype]
            ax.loglog(*point, _plots.MARKERS[k], color=colour, mfc=fill, ms=6.5, clip_on=False)
    for dtype in (np.float64, np.float32):
        points = [course.exact[dtype] for course in by_noise.values()]
        place = 1.5 * max(p.seconds for p in points), np.sqrt(points[0].error * points[-1].error)
        ax.annotate(f"exact, {np.dtype(dtype).name}", place, va="center", fontsize=8)
    ax.set(xlim=limits, ylim=(_SMALLEST, 20))
    ax.legend(loc="upper right", bbox_to_anchor=(1, 0.72), title="noise", title_fontsize=8)
    return _plots.as_svg(figure, f"{ORACLES[oracle]}: error against time, sampled and exact")
