"""Monte-Carlo errors fall as M^(-1/2), from ten samples to three hundred thousand."""

from __future__ import annotations

import numpy as np

from . import _plots
from ._estimators import NOISES, SPELLED, Case, Plan, from_library
from ._problems import FIVE
from ._results import Check, Figure, Section
from ._settings import Settings

_SAMPLES = np.rint(10 ** np.arange(1, 5.6, 0.5)).astype(int)
_TOLERANCE = 0.05
_TITLES = {"value": "Value", "vjp": "VJP, leave-one-out"}


def run(settings: Settings) -> Section:
    """Root-mean-square errors, over replicates and entries, with fitted slopes."""
    errors = {}
    for of in _TITLES:
        for noise in NOISES:
            settings.tick(f"{_TITLES[of]}, {noise}")
            errors[of, noise] = _rms_errors(Case("d = 5", FIVE, 1.0, noise), of, settings)
    checks = [_slope_check(of, noise, error) for (of, noise), error in errors.items()]
    panels = tuple(_panel(of, errors) for of in _TITLES)
    return Section(
        title="Convergence",
        intro=f"The error of {settings.pick(128, 512)} replicates against the exact answer, as a "
        "root mean square over replicates and entries, at ten numbers of samples M. The slope is "
        f"fitted by least squares in log-log; it must be −1/2 within {_TOLERANCE}.",
        checks=tuple(checks),
        figures=(
            Figure("Root-mean-square error against M; the grey line has slope −1/2.", panels),
        ),
    )


def _rms_errors(case: Case, of: str, settings: Settings) -> np.ndarray:
    exact, errors = case.exact(of), []
    for m in _SAMPLES:
        seed = settings.seed_for("convergence", of, case.noise, m)
        estimates, _ = from_library(case, Plan(of, settings.pick(128, 512), int(m), seed))
        errors.append(np.sqrt(np.mean((estimates - exact) ** 2)))
    return np.array(errors)


def _slope(errors: np.ndarray) -> float:
    return float(np.polyfit(np.log(_SAMPLES), np.log(errors), 1)[0])


def _slope_check(of: str, noise: str, errors: np.ndarray) -> Check:
    slope = _slope(errors)
    return Check(
        f"{_TITLES[of]}: rate with {SPELLED[noise]} noise",
        "the error falls as 1/√M: |slope + 1/2|",
        abs(slope + 0.5),
        _TOLERANCE,
        note=f"slope {slope:.4f}; error {errors[0]:.1e} to {errors[-1]:.1e}",
    )


def _panel(of: str, errors: dict) -> str:
    figure, ax = _plots.axes(_TITLES[of], "samples M", "RMS error")
    for k, noise in enumerate(NOISES):
        error = errors[of, noise]
        label = f"{SPELLED[noise]} ({_slope(error):.3f})"
        ax.loglog(
            _SAMPLES, error, _plots.MARKERS[k], ls=_plots.STYLES[k],
            color=_plots.COLOURS[k], label=label,
        )  # fmt: skip
    guide = 0.45 * errors[of, "logistic"].min() * np.sqrt(_SAMPLES[-1] / _SAMPLES)
    ax.loglog(_SAMPLES, guide, color=_plots.GREY, lw=0.9)
    ax.legend(title="noise (slope)", title_fontsize=8)
    return _plots.as_svg(figure, f"{_TITLES[of]}: error against the number of samples")
