"""Tests of hypotheses, all on the scale of a standard normal, and their one threshold.

Every p-value is turned into the z-score with the same two-sided p-value, and every z-score of the
report meets the same threshold, fixed here, before any data:

    FAMILY_LEVEL = 1e-6     chance that a correct library fails anything at all (Holm, ``_holm.py``)
    MOST_SCORES  = 100 000  more z-scores than this the report may not hold (it checks)

so a single score is significant at 1e-11, ``|z| > 6.8``. What the report promises is a thousand
times weaker, one false alarm in a thousand reports: that leaves room for scores that are normal
only in the limit, and for the few claims that are no z-scores, such as slopes. It costs little
power: of 100 biases of ``SEEN`` = 9.1 standard errors 99 are found, and standard errors here are
small.
"""

from __future__ import annotations

import functools as ft

import numpy as np
from scipy import special, stats

FAMILY_LEVEL = 1e-6
MOST_SCORES = 100_000
LEVEL = FAMILY_LEVEL / MOST_SCORES


def threshold_of(level: float) -> float:
    """The ``|z|`` that is exceeded with this probability."""
    return float(stats.norm.isf(level / 2))


Z_THRESHOLD = threshold_of(LEVEL)
"""The largest ``|z|`` that passes."""
SEEN = Z_THRESHOLD + float(stats.norm.ppf(0.99))
"""A shift of the mean by so many standard errors is rejected with probability 99 %."""

_SMALLEST_P = 1e-300  # a z-score of 37; keeps every score finite
_LARGEST_Z = float(stats.norm.isf(_SMALLEST_P))


def student_scores(replicates: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """z-scores of ``E[replicate] = exact`` from R independent replicates on the first axis.

        t = (mean - exact) / (spread / sqrt(R)),   Student with R - 1 degrees of freedom

    The standard error comes from the replicates alone: nothing the library reports is trusted. A
    coordinate without spread scores 0 if it equals ``exact`` up to rounding.
    """
    count = len(replicates)
    mean = replicates.mean(0, dtype=np.float64)
    error = replicates.std(0, ddof=1, dtype=np.float64) / np.sqrt(count)
    gap = mean - exact
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(error > 0, gap / error, 0)
    z = np.sign(t) * _normal_from_upper(stats.t.sf(np.abs(t), count - 1))
    constant_and_wrong = (error == 0) & (np.abs(gap) > 1e-6 * (1 + np.abs(exact)))
    return np.where(constant_and_wrong, np.sign(gap) * _LARGEST_Z, z)


def two_sample_scores(replicates: np.ndarray, mean: np.ndarray, error: np.ndarray) -> np.ndarray:
    """z-scores of "the replicates' expectation is that of ``mean``", itself a mean with an error.

        z = (mean of replicates - mean) / sqrt(spread^2 / R + error^2)

    Coordinates that vary in neither sample score 0 if they agree up to rounding.
    """
    own = replicates.std(0, ddof=1, dtype=np.float64) / np.sqrt(len(replicates))
    gap = replicates.mean(0, dtype=np.float64) - mean
    both = np.hypot(own, error)
    constant = both < 1e-7 * (1 + np.abs(mean))
    equal = np.abs(gap) < 1e-6 * (1 + np.abs(mean))
    return np.where(constant, np.where(equal, 0, _LARGEST_Z), gap / np.where(constant, 1, both))


def spread_scores(replicates: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """z-scores of "the reported standard errors are the replicates' true spread".

    (R - 1) spread^2 / mean(reported^2)   is chi-square with R - 1 degrees of freedom
    """
    dof = len(replicates) - 1
    variance = replicates.var(0, ddof=1, dtype=np.float64)
    reported = np.mean(np.square(errors, dtype=np.float64), axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = dof * np.where(reported > 0, variance / reported, np.inf)
    return chi_square_scores(statistic, dof)


def calibration_scores(replicates: np.ndarray, errors: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """z-scores of ``E[(estimate - exact)^2] = E[reported^2]``, from the replicates' differences.

    As ``spread_scores``, for estimates that need not be normal. A coordinate that varies, and says
    so, by less than a millionth of the others scores 0.
    """
    squares, reported = (replicates - exact) ** 2, errors**2
    scores = student_scores(squares - reported, np.zeros(np.shape(exact)))
    both = np.maximum(squares.mean(0), reported.mean(0))
    return np.where(both < 1e-12 * both.max(), 0, scores)


def upper_score(terms: np.ndarray) -> np.ndarray:
    """One-sided z-scores of ``E[term] <= 0``, replicates first: positive if the mean is above."""
    return student_scores(terms, np.zeros(terms.shape[1:]))


def variance_scores(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """z-scores of "``a`` and ``b``, replicates first, have one variance": the F-test."""
    ratio = a.var(0, ddof=1) / b.var(0, ddof=1)
    dof = len(a) - 1, len(b) - 1
    upper, lower = stats.f.sf(ratio, *dof), stats.f.cdf(ratio, *dof)
    return np.where(upper < lower, _normal_from_upper(upper), -_normal_from_upper(lower))


def ratio_score(a: np.ndarray, b: np.ndarray) -> float:
    """The z-score of ``log(E[a] / E[b]) = 0`` from independent positive terms; > 0 if a > b."""
    errors = [x.std(ddof=1) / x.mean() / np.sqrt(len(x)) for x in (a, b)]
    return float(np.log(a.mean() / b.mean()) / np.hypot(*errors))


def bootstrap_ratio(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The central 95 % of ``mean(a*) / mean(b*)`` over 1000 resamples of each."""
    means = [_resamples(len(x), k) @ x / len(x) for k, x in enumerate((a, b))]
    low, high = np.quantile(means[0] / means[1], [0.025, 0.975])
    return float(low), float(high)


@ft.cache
def _resamples(count: int, k: int) -> np.ndarray:
    """How often each of ``count`` terms is in each resample, drawn once."""
    rng = np.random.default_rng((count, k))
    return rng.multinomial(count, np.full(count, 1 / count), size=1000).astype(np.float64)


def binomial_scores(counts: np.ndarray, trials: int, probability: np.ndarray) -> np.ndarray:
    """z-scores of counts with exact binomial tails, valid however small the expected count."""
    upper = stats.binom.sf(counts - 1, trials, probability)
    lower = stats.binom.cdf(counts, trials, probability)
    scores = np.where(upper < lower, _normal_from_upper(upper), -_normal_from_upper(lower))
    return np.where(np.minimum(upper, lower) >= 0.5, 0, scores)


def mean_scores(terms: np.ndarray, exact: float) -> float:
    """The z-score of ``E[term] = exact`` from very many independent terms."""
    return float((terms.mean() - exact) / (terms.std() / np.sqrt(terms.size)))


def correlation_scores(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """z-scores of "``a`` and ``b``, paired, are uncorrelated", and so are their squares.

    The second catches dependence through the magnitude, which the first does not see.
    """
    scores = []
    for power in (1, 2):
        x, y = a.ravel() ** power, b.ravel() ** power
        scores.append(mean_scores((x - x.mean()) * (y - y.mean()), 0.0))
    return np.array(scores)


def kolmogorov_distance(sample: np.ndarray, cdf) -> tuple[float, np.ndarray, np.ndarray]:
    """``sqrt(n) sup |F_n - F|``, and ``F`` and ``sqrt(n) (F_n - F)`` along the sorted sample."""
    level = np.sort(cdf(sample))
    n = level.size
    steps = np.arange(n + 1) / n
    distance = max(np.max(steps[1:] - level), np.max(level - steps[:-1]))
    return float(np.sqrt(n) * distance), level, np.sqrt(n) * (steps[1:] - 0.5 / n - level)


def distribution_scores(sample: np.ndarray, cdf) -> np.ndarray:
    """z-scores of "the sample has this CDF": Kolmogorov-Smirnov's and Anderson-Darling's."""
    distance, level, _ = kolmogorov_distance(sample, cdf)
    return np.array([kolmogorov_score(distance), anderson_score(anderson_distance(level))])


def kolmogorov_score(distance: float) -> float:
    """The z-score of ``sqrt(n) sup |F_n - F|``, from Kolmogorov's limit distribution."""
    return float(score_of(special.kolmogorov(distance)))


def anderson_distance(level: np.ndarray) -> float:
    """Anderson and Darling's statistic of sorted levels, uniform if all is well.

    A^2 = n int (F_n - u)^2 / (u (1 - u)) du
        = -n - (1 / n) sum_i (2 i - 1) (log u_i + log(1 - u_{n+1-i}))
    """
    n = level.size
    u = np.clip(level, 1e-300, 1 - 2.0**-53)
    odd = 2 * np.arange(1, n + 1) - 1
    return float(-n - np.mean(odd * (np.log(u) + np.log1p(-u[::-1]))))


def anderson_score(distance: float) -> float:
    """The z-score of ``A^2``, from its limit distribution.

    That is ``sum_j X_j^2 / (j (j + 1))`` with normal ``X_j``, whose tail beyond ``a`` is
    ``sqrt(3) P(X^2 > 2 a)`` (Zolotarev 1961), within 15 % from the 95 % quantile on.
    """
    return float(score_of(np.sqrt(3) * stats.chi2.sf(2 * distance, 1)))


def chi_square_scores(statistic, dof) -> np.ndarray:
    """z-scores of chi-square statistics, too large (positive) or too small."""
    upper, lower = stats.chi2.sf(statistic, dof), stats.chi2.cdf(statistic, dof)
    return np.where(upper < lower, score_of(2 * upper), -score_of(2 * lower))


def score_of(p) -> np.ndarray:
    """The positive z-score whose two-sided p-value is ``p``."""
    return _normal_from_upper(np.minimum(p, 1) / 2)


def largest(scores) -> float:
    """``max |z|``, which a NaN turns into NaN."""
    return float(np.max(np.abs(np.asarray(scores))))


def _normal_from_upper(p: np.ndarray) -> np.ndarray:
    return stats.norm.isf(np.maximum(p, _SMALLEST_P))
