"""The exact answers for top-k, ranks, paths and log-normal noise, compared with known ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.special import expit, ndtr

import dpo

from ._answers import answers, derivative, epsilon_derivative
from ._estimators import NOISES, Case
from ._exact import Exact, by_quadrature
from ._exact_oracles import topk_answers, variables
from ._problems import ORACLES, random_scores, small, wide
from ._results import Check
from ._sampled_paths import sampled_answers
from ._settings import Settings
from ._statistics import Z_THRESHOLD, largest

_FIVE = np.array([-0.6, 1.9, -0.2, 1.1, -1.0])
_WIDTHS = np.array([1.0, 0.5, 1.5, 0.75, 1.25])


def oracle_checks(settings: Settings) -> list[Check]:
    """Known answers, other formulas, halved steps, differences, and NumPy."""
    return [
        _known_answers(),
        _top_one(),
        _pairs(),
        _converged(),
        _gradients(),
        _temperatures(),
        _exchange(),
        _sampler(settings),
    ]


def gap(a, b) -> float:
    """The largest difference of two sets of arrays."""
    return max(
        float(np.abs(np.asarray(x) - np.asarray(y)).max()) for x, y in zip(a, b, strict=True)
    )


def _known_answers() -> Check:
    ranks = answers(dpo.Ranks(), np.array([1, 20, 7.3, 7.35]), 0.1, "normal").value
    top = answers(dpo.TopK(2), _FIVE, 1.0, "gumbel").value
    costs = np.array([[9.0, 2.0], [2.3, 9.0]])
    path = answers(dpo.ShortestPath(4), costs, 0.5, "normal")
    gaps = [
        ranks - [1, 4, 2.361837, 2.638163],
        top - [0.138234, 0.888089, 0.204306, 0.676156, 0.093215],
        path.value - [1, 0.664313, 0.335687, 1],
        path.jacobian[1] - [0, -0.515630, 0.515630, 0],
    ]
    return Check(
        "Known answers of oracles",
        "normal ranks, Gumbel top 2, and the cheaper of two paths, to six decimals: max |gap|",
        largest(np.concatenate(gaps)),
        5.1e-7,
    )


def _top_one() -> Check:
    worst = 0.0
    for noise in NOISES:
        for theta, epsilon in ((_FIVE, 0.5), (random_scores(1, 40)[0], 1.0)):
            poisson = topk_answers(variables(theta, epsilon, noise), 1)
            worst = max(worst, gap(poisson[:3], by_quadrature(theta, epsilon, noise)[:3]))
    statement = "the Poisson-binomial answers with k = 1 are those of the argmax: max |gap|"
    return Check("Top 1 is the argmax", statement, worst, 1e-12)


def _pairs() -> Check:
    """``H``, the CDF of a difference of two noise variables, where two are ranked."""

    def logistic(x):
        a = np.exp(x)
        return a * (a - 1 - x) / (a - 1) ** 2

    forms = {"normal": lambda x: ndtr(x / np.sqrt(2)), "gumbel": expit, "logistic": logistic}
    worst = 0.0
    for noise, cdf in forms.items():
        x = _FIVE[:, None] - _FIVE + np.eye(5)
        above = cdf(x)
        np.fill_diagonal(above, 1)
        worst = max(worst, gap([above.sum(1)], [answers(dpo.Ranks(), _FIVE, 1.0, noise).value]))
    statement = (
        "E rankᵢ = 1 + Σ H(θᵢ − θⱼ): Φ(x/√2), 1/(1+e⁻ˣ), and eˣ(eˣ − 1 − x)/(eˣ − 1)²: max |gap|"
    )
    return Check("Ranks are comparisons", statement, worst, 1e-12)


def _problems() -> Iterator[tuple[Case, np.ndarray, float | np.ndarray]]:
    """Every oracle, small and wide, one temperature and several."""
    for oracle in ORACLES:
        for noise in NOISES:
            case = small(oracle, noise)
            widths = _WIDTHS if oracle != "paths" else 0.5 * np.resize(_WIDTHS, (3, 3))
            yield case, case.theta[0], case.epsilon
            yield case, case.theta[0], widths
        case = wide(oracle, "normal")
        yield case, case.theta[0], case.epsilon


def _answers(case: Case, theta: np.ndarray, epsilon, refine: int = 1) -> Exact:
    return answers(case.oracle, theta, epsilon, case.noise, refine=refine)


def _converged() -> Check:
    worst = max(gap(_answers(*problem), _answers(*problem, refine=2)) for problem in _problems())
    statement = "halving the step moves y, F and J by next to nothing, every oracle: max |change|"
    return Check("Quadrature of oracles has converged", statement, worst, 1e-10)


def _gradients() -> Check:
    """Directional: ``<grad F, u> = <y, u>`` and ``D y u = J u`` (costs: ``grad F = -y``)."""
    worst = 0.0
    for case, theta, epsilon in _problems():
        finite = np.isfinite(theta)
        u = np.where(finite, np.resize(case.direction, theta.shape), 0)
        exact = _answers(case, theta, epsilon)
        sign = -1 if isinstance(case.oracle, dpo.ShortestPath) else 1

        def along(h: float, case=case, theta=theta, epsilon=epsilon, u=u) -> np.ndarray:
            moved = _answers(case, theta + (h - 1) * u, epsilon)
            return np.append(moved.value, moved.max)

        slopes = derivative(along, 1.0)
        expected = np.append(exact.jacobian @ u.ravel(), sign * exact.value @ u.ravel())
        worst = max(worst, gap([slopes], [expected]))
    statement = "∇F = y (costs: −y) and D y = J along one direction, every oracle: max |gap|"
    return Check("Quadrature of oracles differentiates", statement, worst, 1e-7)


def _temperatures() -> Check:
    """Solutions depend on ``theta / eps`` alone: they move by ``-J theta / eps``."""
    worst = 0.0
    for oracle in ORACLES:
        for noise in NOISES:
            case = small(oracle, noise)
            theta, epsilon = case.theta[0], float(case.epsilon)
            slope = epsilon_derivative(case.oracle, theta, epsilon, noise)
            expected = -case.answers[0].jacobian @ theta.ravel() / epsilon
            widths = np.full(theta.shape, epsilon)
            several = epsilon_derivative(case.oracle, theta, widths, noise)
            worst = max(worst, gap([slope, several.sum(1)], [expected, expected]))
    statement = "∂y/∂ε = −J θ/ε, and it is the sum over coordinates' own temperatures: max |gap|"
    return Check("Derivatives in the temperature", statement, worst, 1e-7)


def _exchange() -> Check:
    """Margrabe's formula for the larger of two log-normal variables, and paths of such costs.

    ``E max = a Phi(d) + b Phi(sigma - d)``, ``d = log(a / b) / sigma + sigma / 2``.
    """
    a, b, scales = 1.3, 0.9, np.array([0.5, 0.8])
    sigma = np.hypot(*scales)
    d = np.log(a / b) / sigma + sigma / 2
    larger = a * ndtr(d) + b * ndtr(sigma - d)
    scores = answers(dpo.Argmax(), np.array([a, b]), scales, "normal", "multiplicative")
    costs = np.array([[1.0, a], [b, 2.0]])
    widths = np.array([[0.3, scales[0]], [scales[1], 0.7]])
    path = answers(dpo.ShortestPath(4), costs, widths, "normal", "multiplicative")
    negative = answers(dpo.Argmax(), np.array([-a, -b]), scales, "normal", "multiplicative")
    smaller = a + b - larger
    worst = gap([scores.max, path.max, negative.max], [larger, -3 - smaller, -smaller])
    statement = "E of the larger and of the smaller of two log-normals (Margrabe 1978): max |gap|"
    return Check("Log-normal answers", statement, worst, 1e-12)


def _sampler(settings: Settings) -> Check:
    """The NumPy Monte-Carlo of paths, where enumeration is exact."""
    scores = []
    for noise in NOISES:
        case = small("paths", noise)
        assert isinstance(case.oracle, dpo.ShortestPath)
        arguments = case.theta[0], float(case.epsilon), noise, case.oracle, case.direction
        seed = settings.seed_for("sampler", noise)
        mean, error = sampled_answers(*arguments, settings.pick(8, 100), seed)
        for of, values in mean.items():
            gaps = values - case.exact(of)[0]
            constant = error[of] < 1e-12
            scores.append(np.where(constant, 1e9 * gaps, gaps / np.where(constant, 1, error[of])))
    flat = np.concatenate([np.ravel(z) for z in scores])
    return Check(
        "NumPy's paths",
        "the brute-force sampler agrees with enumeration where that is exact: max |z|",
        largest(flat),
        Z_THRESHOLD,
        note="value, maximum, Jacobian and derivative in ε; 3 × 3 grid, 8 neighbours",
        scores=flat.size,
    )
