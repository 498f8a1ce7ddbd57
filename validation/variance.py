"""What leave-one-out buys: the Jacobian's variance as the temperature falls.

For a one-hot y the plain estimator has total variance, summed over the entries of the Jacobian,

    sum_ik Var[J_ik] = d I / (M eps^2) - ||J||_F^2 / M,     I = E[s(Z)^2],

since ``||y s^T||_F^2 = ||s||^2``. It explodes as eps^(-2), even where y is
certain and there is nothing to learn.
"""

from __future__ import annotations

import numpy as np
from dpo.kernels.noise import FAMILIES

from . import _plots
from ._estimators import NOISES, SPELLED, Case, Plan, from_library, in_float32
from ._problems import FIVE
from ._results import Check, Figure, Section
from ._settings import Settings
from ._statistics import Z_THRESHOLD, largest, student_scores

_EPSILONS = 2.0 ** np.arange(0, -5.7, -0.5)  # 1 down to 0.022
_NUM_SAMPLES = 64
_SLOPE_TOLERANCE = 0.1
_FISHER = {family.name: family.fisher_information for family in FAMILIES}


def run(settings: Settings) -> Section:
    """The formula, the comparison at every temperature, and the two growth rates."""
    fixed = {noise: _sweep(FIVE, noise, settings) for noise in NOISES}
    rng = np.random.default_rng(7)
    many = in_float32(*rng.normal(size=(settings.pick(8192, 32768), 10)))
    settings.tick("many random scores")
    average = {r: _average(many, r, settings) for r in ("loo", "none")}
    return Section(
        title="Variance at low temperature",
        intro=f"Total variance of the Jacobian estimate with M = {_NUM_SAMPLES} samples, from 4096 "
        "replicates, as ε falls from 1 to 0.02: for one fixed θ, whose winner is soon certain, and "
        f"averaged over {len(many):,} random θ of ten normal scores, where near-ties remain at "
        "every temperature. In the first case leave-one-out vanishes, in the second it "
        "grows like 1/ε, since about a fraction ε of all θ has a near-tie; the plain estimator "
        "grows like 1/ε² in both.",
        checks=(
            *(_formula_check(n, fixed[n]) for n in NOISES),
            *_ratio_checks(fixed),
            *_rates(average),
        ),
        figures=(_figure(fixed, average),),
    )


def _squared_errors(case: Case, reduction: str, replicates: int, settings: Settings) -> np.ndarray:
    """``||J_hat - J||_F^2`` of each replicate; its expectation is the total variance."""
    seed = settings.seed_for("variance", case.noise, case.epsilon)  # one noise for both estimators
    plan = Plan("jacobian", replicates, _NUM_SAMPLES, seed, reduction)
    return ((from_library(case, plan)[0] - case.exact("jacobian")) ** 2).sum((-2, -1))[:, 0]


def _sweep(theta: np.ndarray, noise: str, settings: Settings) -> dict[str, np.ndarray]:
    """Squared errors of both estimators and the formula, one row a temperature."""
    out: dict[str, list] = {"loo": [], "none": [], "formula": []}
    for epsilon in _EPSILONS:
        settings.tick(f"{noise}, eps = {epsilon:.2f}")
        case = Case("fixed", theta, float(epsilon), noise)
        for reduction in ("loo", "none"):
            out[reduction].append(_squared_errors(case, reduction, 4096, settings))
        squares = theta.size * _FISHER[noise] / epsilon**2 - (case.exact("jacobian") ** 2).sum()
        out["formula"].append(squares / _NUM_SAMPLES)
    return {name: np.array(rows) for name, rows in out.items()}


def _average(theta: np.ndarray, reduction: str, settings: Settings) -> np.ndarray:
    """Total variance averaged over many scores, one replicate pair each.

    Two independent estimates of one Jacobian differ by twice the variance on average, so no exact
    answer is needed.
    """
    totals = []
    for epsilon in _EPSILONS:
        case = Case("random", theta, float(epsilon), "normal")
        seed = settings.seed_for("variance", "random")
        pair, _ = from_library(case, Plan("jacobian", 2, _NUM_SAMPLES, seed, reduction))
        totals.append(0.5 * ((pair[0] - pair[1]) ** 2).sum((-2, -1)).mean())
    return np.array(totals)


def _formula_check(noise: str, sweep: dict) -> Check:
    scores = student_scores(sweep["none"].T, sweep["formula"])
    return Check(
        f"Plain variance, {SPELLED[noise]} noise",
        "Σ Var Ĵᵢₖ = d I / (M ε²) − ‖J‖² / M at every ε: max |z|",
        largest(scores),
        Z_THRESHOLD,
        note=f"{len(_EPSILONS)} temperatures, I = {_FISHER[noise]:.3g}",
        scores=scores.size,
    )


def _ratio_checks(fixed: dict) -> list[Check]:
    checks = []
    for noise, sweep in fixed.items():
        ratio = sweep["loo"].mean(1) / sweep["none"].mean(1)
        note = f"{ratio[0]:.2f} at ε = 1, {ratio[4]:.2g} at ε = 0.25, {ratio[-1]:.1g} at ε = 0.02"
        checks.append(
            Check(
                f"Leave-one-out is no worse, {SPELLED[noise]} noise",
                "its total variance over the plain one's, at the worst temperature",
                float(ratio.max()),
                1.0,
                note=note,
            )
        )
    return checks


def _rates(average: dict[str, np.ndarray]) -> list[Check]:
    cold = _EPSILONS < 0.1
    checks = []
    claims = (("none", "Plain", "1/ε²", -2), ("loo", "Leave-one-out", "1/ε", -1))
    for reduction, name, law, rate in claims:
        slope = np.polyfit(np.log(_EPSILONS[cold]), np.log(average[reduction][cold]), 1)[0]
        checks.append(
            Check(
                f"{name} variance, growth",
                f"averaged over random θ it grows like {law} below ε = 0.1: |slope + {-rate}|",
                abs(float(slope) - rate),
                _SLOPE_TOLERANCE,
                note=f"slope {slope:.3f}",
            )
        )
    return checks


def _figure(fixed: dict, average: dict) -> Figure:
    sweep = fixed["normal"]
    plain, loo = sweep["none"].mean(1), sweep["loo"].mean(1)
    return Figure(
        "Total variance of the Jacobian estimate, normal noise. The grey line is the formula for "
        "the plain estimator. Left, the leave-one-out curve leaves the plot as no sample of any "
        "replicate disagrees any more.",
        (
            _panel("One θ with a clear winner", plain, loo, sweep["formula"]),
            _panel("Average over random θ", average["none"], average["loo"], None),
        ),
    )


def _panel(title, plain, loo, formula) -> str:
    figure, ax = _plots.axes(title, "temperature ε", "total variance")
    if formula is not None:
        ax.loglog(_EPSILONS, formula, color=_plots.GREY, lw=3, alpha=0.5, label="formula")
    seen = loo > 0
    ax.loglog(_EPSILONS, plain, "s--", color=_plots.COLOURS[1], label="plain")
    ax.loglog(_EPSILONS[seen], loo[seen], "o-", color=_plots.COLOURS[0], label="leave-one-out")
    ax.invert_xaxis()
    ax.set_ylim(0.01 * plain.min(), 3 * plain.max())
    ax.legend()
    return _plots.as_svg(figure, f"{title}: variance against temperature")
