"""The random numbers: Philox, the three noise distributions, and independence.

The noise is taken from the fused kernel itself: with one coordinate, one sample and theta = 0,
the perturbed maximum *is* the noise of that batch row.
"""

from __future__ import annotations

import numpy as np
from dpo.kernels.noise import FAMILIES, Family
from dpo.kernels.philox import STREAM_NOISE, STREAM_REFINE
from dpo.kernels.reference import noise_words
from scipy import special

import dpo

from . import _plots
from ._backend import call
from ._estimators import SPELLED
from ._results import Check, Figure, Section
from ._settings import Settings
from ._statistics import (
    Z_THRESHOLD,
    binomial_scores,
    correlation_scores,
    distribution_scores,
    kolmogorov_distance,
    largest,
    mean_scores,
)
from ._words import independence, known_answers

TAILS = np.array([1e-1, 1e-2, 1e-3, 1e-4, 1e-5])
_QUANTILES = {
    "normal": special.ndtri,
    "gumbel": lambda p: -np.log(-np.log(p)),
    "logistic": special.logit,
}
_UPPER_QUANTILES = {
    "normal": lambda p: -special.ndtri(p),
    "gumbel": lambda p: -np.log(-np.log1p(-p)),
    "logistic": lambda p: -special.logit(p),
}


def kernel_noise(noise: str, dtype: type, count: int, seed: int) -> np.ndarray:
    """``count`` independent noise values, float64, as the compiled kernel draws them."""
    layer = dpo.Perturbed(noise=noise, epsilon=1.0, num_samples=1)
    return call(layer.max, np.zeros((count, 1), dtype), seed=seed).astype(np.float64)


def quantile_error(z: np.ndarray, family: Family, dtype: type, seed: int) -> float:
    """``max |z - G^-1(u)| / max(1, |z|)``, with ``u`` from the words that ``z`` was made of.

    Far sharper than any test of samples: it sees an error of a few units in the last place. Both
    halves are computed from the nearer tail, so the exact quantile keeps its relative precision.
    """
    key, one = (seed % 2**32, seed // 2**32), (np.arange(1), np.arange(z.size), 1)
    word = noise_words(STREAM_NOISE, *one, key)[0, :, 0]
    low = np.full_like(word, 2**31)  # float32 noise puts the level in the middle of the word
    if dtype == np.float64:
        low = noise_words(STREAM_REFINE, *one, key)[0, :, 0]
    upper = word >= 2**31
    word, low = np.where(upper, ~word, word), np.where(upper, ~low, low)
    tail = (word + (low + 0.5) * 2.0**-32) * 2.0**-32
    exact = np.where(upper, _UPPER_QUANTILES[family.name](tail), _QUANTILES[family.name](tail))
    return float(np.max(np.abs(z - exact) / np.maximum(1, np.abs(exact))))


def tail_counts(z: np.ndarray, family: Family) -> tuple[np.ndarray, np.ndarray]:
    """How many values lie beyond the quantiles of ``TAILS``, below and above."""
    below = np.array([(z < q).sum() for q in _QUANTILES[family.name](TAILS)])
    above = np.array([(z > q).sum() for q in _UPPER_QUANTILES[family.name](TAILS)])
    return below, above


def tail_scores(z: np.ndarray, family: Family) -> np.ndarray:
    """Binomial z-scores of both tails, from 10 % down to 1e-5."""
    return np.concatenate([binomial_scores(c, z.size, TAILS) for c in tail_counts(z, family)])


FAR_TAILS = np.array([1e-6, 1e-7, 1e-8])


def far_tail_scores(noise: str, samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Binomial z-scores far out in both tails, and counts, (6,): lower tails first.

    Counted by the fused argmax: of two scores, one is a quantile of the noise and as good as
    unperturbed, so the other wins as often as the noise exceeds it.
    """
    upper = np.array([_UPPER_QUANTILES[noise](p) for p in FAR_TAILS])
    lower = np.array([_QUANTILES[noise](p) for p in FAR_TAILS])
    bars = np.concatenate([lower, upper]).astype(np.float32)
    theta = np.stack([bars, np.zeros_like(bars)], 1)
    epsilon = np.broadcast_to(np.array([1e-20, 1.0], np.float32), theta.shape)
    layer = dpo.Perturbed(noise=noise, epsilon=epsilon, num_samples=samples)
    wins = call(layer, theta, seed=seed).astype(np.float64) * samples
    count = np.where(np.arange(6) < 3, wins[:, 0], wins[:, 1])  # the bar wins: noise is below it
    family = next(f for f in FAMILIES if f.name == noise)
    bars = bars.astype(np.float64)
    chances = np.where(np.arange(6) < 3, family.cdf(bars), family.survival(bars))
    return binomial_scores(np.rint(count), samples, chances), np.rint(count)


def moment_scores(z: np.ndarray, family: Family) -> np.ndarray:
    """z-scores of the moments and of the identities every derivative rests on.

        E[Z], Var[Z], E[s] = 0, E[s^2] = I, E[s'] = I, E[Z s] = 1

    ``s`` is the score, ``I`` the Fisher information; the last two are integrations by parts.
    """
    variance = {"normal": 1.0, "gumbel": np.pi**2 / 6, "logistic": np.pi**2 / 3}[family.name]
    s, slope = family.score(z), family.score_derivative(z)
    tests = [
        (z, family.mean),
        ((z - family.mean) ** 2, variance),
        (s, 0.0),
        (s * s, family.fisher_information),
        (z * s, 1.0),
    ]
    if family.name != "normal":  # its s' is the constant 1
        tests.append((slope, family.fisher_information))
    return np.array([mean_scores(terms, exact) for terms, exact in tests])


def halves_scores(z: np.ndarray) -> np.ndarray:
    """z-scores of "the second half of the sample is independent of the first"."""
    half = z.size // 2
    first, second = z[:half] - z.mean(), z[half : 2 * half] - z.mean()
    return correlation_scores(first, second)


def run(settings: Settings) -> Section:
    """Philox, the noise of each family in both precisions, and independence."""
    checks = [known_answers()]
    samples = {}
    for family in FAMILIES:
        for dtype in (np.float32, np.float64):
            settings.tick(f"{family.name} {dtype.__name__}")
            count = settings.pick(2**22, 2**24, 2**20) // (1 if dtype == np.float32 else 2)
            seed = settings.seed_for("noise", family.name, dtype.__name__)
            z = kernel_noise(family.name, dtype, count, seed)
            checks.append(_quantile_check(z[: 2**20], family, dtype, seed))
            checks += _family_checks(z, family, dtype.__name__)
            samples[family.name, dtype.__name__] = z
    checks += [_far_tails(family.name, settings) for family in FAMILIES]
    settings.tick("independence")
    checks += independence(settings)
    settings.tick("figures")
    return Section(
        title="Random numbers",
        intro="Noise is a pure function of (coordinate, sample, row, stream, seed). The words come "
        "from Philox4x32-10, checked against Random123's known answers; each distribution is "
        "compared with its exact quantile function and CDF, in its tails, and in the moments that "
        "make integration by parts work.",
        checks=tuple(checks),
        figures=(_figure(samples),),
    )


def _quantile_check(z: np.ndarray, family: Family, dtype: type, seed: int) -> Check:
    return Check(
        f"{SPELLED[family.name].capitalize()} noise, {dtype.__name__}: quantile",
        "each value is G⁻¹ of its word: max |z − G⁻¹(u)| / max(1, |z|)",
        quantile_error(z, family, dtype, seed),
        16 * float(np.finfo(dtype).eps),
        note=f"16 units in the last place allowed, {z.size:,} values",
    )


def _family_checks(z: np.ndarray, family: Family, dtype: str) -> list[Check]:
    label = f"{family.name.capitalize()} noise, {dtype}"
    fit = distribution_scores(z, family.cdf)
    tails, moments = tail_scores(z, family), moment_scores(z, family)
    size = f"{z.size:,} values"
    return [
        Check(
            f"{label}: distribution",
            "the empirical CDF is G: max |z|",
            largest(fit),
            Z_THRESHOLD,
            note=f"Kolmogorov-Smirnov and Anderson-Darling, {size}",
            scores=fit.size,
        ),
        Check(
            f"{label}: tails",
            "the frequencies beyond the 10% … 0.001% quantiles are right on both sides: max |z|",
            largest(tails),
            Z_THRESHOLD,
            note=f"binomial, {size}, {z.min():.2f} to {z.max():.2f}",
            scores=tails.size,
        ),
        Check(
            f"{label}: moments and score",
            "E[Z], Var[Z], E[s] = 0, E[s²] = E[s′] = I, E[Z s] = 1: max |z|",
            largest(moments),
            Z_THRESHOLD,
            note=f"I = {family.fisher_information:.4g}, {size}",
            scores=moments.size,
        ),
    ]


def _far_tails(noise: str, settings: Settings) -> Check:
    settings.tick(f"{noise} far tails")
    samples = settings.pick(2**25, 2**30, 2**24)
    scores, count = far_tail_scores(noise, samples, settings.seed_for("far tails", noise))
    seen = ", ".join(f"{int(n)}" for n in count)
    return Check(
        f"{SPELLED[noise].capitalize()} noise: far tails",
        "beyond the quantiles of 1e-6, 1e-7 and 1e-8, below and above: max |z|",
        largest(scores),
        Z_THRESHOLD,
        note=f"binomial, {samples:,} values for each; seen {seen}",
        scores=scores.size,
    )


def _figure(samples: dict) -> Figure:
    return Figure(
        "Left and middle: the empirical CDF minus the exact one, times √n; were the noise exact, "
        "each curve is a Brownian bridge, within ±1.36 for 95 of 100 seeds. Right: how often the "
        "noise passes its quantiles, relative to how often it should, with one standard error "
        "(float32; the left half is the lower tail).",
        (_bridge(samples, "float32"), _bridge(samples, "float64"), _tails(samples)),
    )


def _bridge(samples: dict, dtype: str) -> str:
    figure, ax = _plots.axes(f"Distribution, {dtype}", "level u", "√n (Fₙ − G)")
    for k, family in enumerate(FAMILIES):
        _, level, bridge = kolmogorov_distance(samples[family.name, dtype], family.cdf)
        keep = np.linspace(0, level.size - 1, 800).astype(int)
        ax.plot(
            level[keep], bridge[keep], color=_plots.COLOURS[k], label=SPELLED[family.name], lw=0.9
        )
    ax.axhline(0, color=_plots.GREY, lw=0.8)
    ax.set_ylim(-2.2, 2.2)
    ax.legend(ncols=3, loc="upper center")
    return _plots.as_svg(figure, f"Empirical minus exact CDF of {dtype} noise")


def _tails(samples: dict) -> str:
    figure, ax = _plots.axes(
        "Tails, float32", "tail probability, lower | upper", "observed / exact"
    )
    places = np.concatenate([np.arange(-5, 0), np.arange(1, 6)])
    for k, family in enumerate(FAMILIES):
        z = samples[family.name, "float32"]
        below, above = tail_counts(z, family)
        expected = z.size * np.concatenate([TAILS[::-1], TAILS])
        ratio = np.concatenate([below[::-1], above]) / expected
        ax.errorbar(
            places + 0.2 * (k - 1), ratio, 1 / np.sqrt(expected), fmt=_plots.MARKERS[k],
            color=_plots.COLOURS[k], label=SPELLED[family.name], capsize=2,
        )  # fmt: skip
    ax.axhline(1, color=_plots.GREY, lw=0.8)
    ax.set_xticks(places, ["1e-5", "", "1e-3", "", "0.1", "0.1", "", "1e-3", "", "1e-5"])
    ax.legend(ncols=3, loc="lower center")
    return _plots.as_svg(figure, "Observed over exact tail frequencies")
