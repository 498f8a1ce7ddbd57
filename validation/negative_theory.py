"""Wrong theory and wrong samples, which the tests of the paper's propositions must reject.

As ``negative_oracles.py``, for ``asymptotics.py``, ``identities.py``, ``smoothness.py``,
``coverage.py``, ``determinism.py`` and ``battery.py``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from . import _path_smoothness, asymptotics, battery, coverage, determinism, identities
from ._estimators import Case, Plan, from_library, layer_of
from ._mutants import Mutant, Ratios, matrix, unchanged, verdict
from ._path_smoothness import PathSurface, path_tests
from ._problems import small
from ._results import Section
from ._settings import Settings
from ._single import Samples
from ._statistics import Z_THRESHOLD, largest
from ._theta_hat import Estimation, whitened
from .smoothness import CLAIMS, Surface, smoothness_tests


def run(settings: Settings) -> Section:
    """A kill matrix for each section."""
    checks, tables = [], []
    for kind, (mutants, tests) in _TRIALS.items():
        results = {}
        for mutant in mutants:
            settings.tick(f"{kind}: {mutant.name}")
            results[mutant] = tests(mutant, settings)
        checks += [verdict(mutant, ratios, kind) for mutant, ratios in results.items()]
        tables.append(matrix(_TITLES[kind], results))
    return Section(
        title="Negative controls: theory",
        intro="Mistakes before the tests of asymptotic normality, of integration by parts, of "
        "smoothness, of intervals, of determinism and of the generator's words.",
        checks=tuple(checks),
        tables=tuple(tables),
    )


# ----------------------------------------------------------------------------- asymptotic normality

_N, _SETS = 4096, 1024


def _asymptotic_tests(mutant: Mutant, settings: Settings) -> Ratios:
    """The mutant turns a problem and its errors into whitened ones."""
    problem = asymptotics.estimation(("argmax", "normal"))
    seed = settings.seed_for("theta-hat control")
    w = mutant.make(problem, problem.means(_N, _SETS, seed))
    scores = asymptotics.normality_scores(w)
    return {claim: largest(z) / Z_THRESHOLD for claim, z in scores.items()}


def _white(problem: Estimation, means: np.ndarray, limit: np.ndarray | None = None) -> np.ndarray:
    return whitened(problem.solve(means), problem.limit(_N) if limit is None else limit)


def _no_sandwich(problem: Estimation, means: np.ndarray) -> np.ndarray:
    """``eps H^+`` is the limit of an exponential family, which only Gumbel's argmax is."""
    return _white(problem, means, problem.case.epsilon * np.linalg.inv(problem.hessian) / _N)


def _epsilon_lost(problem: Estimation, means: np.ndarray) -> np.ndarray:
    return _white(problem, means, problem.limit(_N) / problem.case.epsilon**2)


def _hot_solver(problem: Estimation, means: np.ndarray) -> np.ndarray:
    hot = dataclasses.replace(problem.case, epsilon=1.05 * problem.case.epsilon)
    return whitened(Estimation(hot).solve(means), problem.limit(_N))


def _shared(problem: Estimation, means: np.ndarray) -> np.ndarray:
    """Data sets 2 j and 2 j + 1 have the same targets."""
    return _white(problem, np.repeat(means[::2], 2, axis=0))


def _leaking(problem: Estimation, means: np.ndarray) -> np.ndarray:
    w = _white(problem, means)
    return (w + 0.3 * np.roll(w, 1, axis=0)) / np.hypot(1, 0.3)


def _contaminated(problem: Estimation, means: np.ndarray) -> np.ndarray:
    """One data set of twenty has four times the spread; the covariance is made right again."""
    w = _white(problem, means)
    w[::20] *= 4
    return w / w.std()


_ESTIMATES = (
    unchanged(_white),
    Mutant("sandwich forgotten: ε H⁺", _no_sandwich, ("distances", "covariance")),
    Mutant("factor 1/ε lost in H", _epsilon_lost, ("distances", "covariance", "ellipsoids")),
    Mutant("solver 5% too hot", _hot_solver, ("covariance", "directions")),
    Mutant("two data sets share their targets", _shared, ("independence",)),
    Mutant("a data set leaks into the next", _leaking, ("independence",)),
    Mutant("heavy tails, right covariance", _contaminated, ("distances",)),
)


# ----------------------------------------------------------------------------- integration by parts


def _identity_tests(mutant: Mutant, settings: Settings) -> Ratios:
    case = small("argmax", "normal")
    samples = identities.draw_blocks(case, settings.seed_for("identity control"))
    case, samples = mutant.make(case, samples)
    scores = identities.identity_scores(case, samples)
    return {form: largest(z) / Z_THRESHOLD for form, z in scores.items()}


def _flipped(case: Case, samples: Samples):
    return case, samples._replace(z=-samples.z)


def _clipped(case: Case, samples: Samples):
    return case, samples._replace(z=np.clip(samples.z, -2, 2))


def _other_sample(case: Case, samples: Samples):
    """Derivatives use the noise of the sample before."""
    return case, samples._replace(z=np.roll(samples.z, 1, axis=1))


def _ties(case: Case, samples: Samples):
    """Scores are compared on a grid of width 1/4, where the lowest index wins many ties."""
    seen = np.floor(4 * (case.theta[0] + case.epsilon * samples.z))
    y = np.eye(seen.shape[-1])[seen.argmax(-1)]
    return case, samples._replace(y=y)


def _without_epsilon(case: Case, samples: Samples):
    """The factor 1/eps is that of another temperature, the answers are those of this one."""
    wrong = dataclasses.replace(case, epsilon=1.0)
    wrong.__dict__["answers"] = case.answers
    return wrong, samples


_IDENTITIES = (
    unchanged(lambda case, samples: (case, samples)),
    Mutant("sign of the score flipped", _flipped, ("value from F", "Jacobian")),
    Mutant("factor 1/ε lost", _without_epsilon, ("value from F", "Jacobian", "Jacobian from F")),
    Mutant("tails cut at ±2", _clipped, ("Jacobian from F", "nothing")),
    Mutant("score of another sample", _other_sample, ("value from F", "Jacobian")),
    Mutant("biased tie-break", _ties, ("value", "Jacobian")),
)


# --------------------------------------------------------------------------------------- smoothness


def _smoothness_tests(mutant: Mutant, settings: Settings) -> Ratios:
    """Above 1 where the claim is violated."""
    rng = np.random.default_rng(settings.seed_for("smoothness control"))
    return _violations(smoothness_tests(mutant.make("argmax", "gumbel"), rng, 64), CLAIMS)


def _violations(values: Ratios, claims: dict[str, tuple[str, float, str]]) -> Ratios:
    ratios = {}
    for claim, value in values.items():
        _, threshold, relation = claims[claim]
        holds = value <= threshold if relation == "<=" else value > threshold
        ratios[claim] = 0.5 if holds else 2.0
    return ratios


class _Cold(Surface):
    """The temperature is a hundredth of what it should be."""

    def layer(self, epsilon: float = 0.5):
        return super().layer(epsilon / 100)


class _Centred(Surface):
    """The maximum forgets ``eps E Z``."""

    def maximum(self, theta: np.ndarray, epsilon: float = 0.5) -> np.ndarray:
        return super().maximum(theta, epsilon) - epsilon * np.euler_gamma


class _Unsmoothed(Surface):
    """The maximum of the scores as they are."""

    def maximum(self, theta: np.ndarray, epsilon: float = 0.5) -> np.ndarray:
        return theta.max(1)


class _Leaking(Surface):
    """A row's solution is partly that of the row before."""

    def gradient(self, theta: np.ndarray, epsilon: float = 0.5) -> np.ndarray:
        y = super().gradient(theta, epsilon)
        return 0.99 * y + 0.01 * np.roll(y, 1, axis=0)


class _Minimising(Surface):
    """The Hessian of the minimum."""

    def hessian(self, theta: np.ndarray) -> np.ndarray:
        return -super().hessian(theta)


_SURFACES = (
    unchanged(Surface),
    Mutant("temperature a hundredth of what it should be", _Cold, ("gradient is Lipschitz",)),
    Mutant("maximum without ε E Z", _Centred, ("gap", "gap is reached")),
    Mutant("maximum not smoothed", _Unsmoothed, ("strict convexity", "gap")),
    Mutant("a row leaks into the next", _Leaking, ("ε → 0",)),
    Mutant("sign of the Hessian flipped", _Minimising, ("Hessian is symmetric and positive",)),
)


def _path_tests(mutant: Mutant, settings: Settings) -> Ratios:
    """Above 1 where the claim is violated."""
    rng = np.random.default_rng(settings.seed_for("path smoothness control"))
    surfaces = (mutant.make("gumbel", settings.seed_for("paths control", k)) for k in range(2))
    return _violations(path_tests(*surfaces, rng, 16), _path_smoothness.CLAIMS)


class _ColdPaths(PathSurface):
    """The temperature is a hundredth of what it should be."""

    def layer(self, epsilon: float = _path_smoothness.EPSILON):
        return super().layer(epsilon / 100)


class _UnsmoothedPaths(PathSurface):
    """The solution of the costs as they are."""

    def gradient(self, theta: np.ndarray, epsilon: float = _path_smoothness.EPSILON):
        return super().gradient(theta, 1e-9)


class _Straight(PathSurface):
    """The solution's path takes no diagonal, the maximum's does."""

    def gradient(self, theta: np.ndarray, epsilon: float = _path_smoothness.EPSILON):
        return PathSurface(self.noise, self.seed, neighbors=4).gradient(theta, epsilon)


_PATHS = (
    unchanged(PathSurface),
    Mutant(
        "temperature a hundredth of what it should be",
        _ColdPaths,
        ("gradient is Lipschitz", "interior"),
    ),
    Mutant("solution not smoothed", _UnsmoothedPaths, ("gradient", "ε → ∞")),
    Mutant("paths without diagonals", _Straight, ("gradient", "ε → 0")),
)


# --------------------------------------------------------------------------- intervals, bits, words


def _coverage_tests(mutant: Mutant, settings: Settings) -> Ratios:
    ratios = {}
    for of in ("value", "vjp"):
        case = small("argmax", "normal")
        counts = coverage.coverage(mutant.make, case, "argmax", "loo", of, settings)
        ratios[of] = largest(coverage.coverage_scores(counts)) / Z_THRESHOLD
    return ratios


def _reused(case: Case, plan: Plan):
    """The second half of the samples repeats the first."""
    half = dataclasses.replace(plan, num_samples=plan.num_samples // 2)
    estimates, errors = from_library(case, half)
    return estimates, errors / np.sqrt(2)


def _narrow(case: Case, plan: Plan):
    estimates, errors = from_library(case, plan)
    return estimates, 0.7 * errors


_INTERVALS = (
    unchanged(from_library),
    Mutant("samples used twice", _reused, ("value", "vjp")),
    Mutant("error bars 30% too small", _narrow, ("value", "vjp")),
)


def _bit_tests(mutant: Mutant, settings: Settings) -> Ratios:
    """Entries that differ, in a second run and in a split batch."""
    case = small("argmax", "normal")
    theta = np.resize(case.theta, (6, 5)).astype(np.float32)
    problems = [(mutant.make(layer_of(case, 512, "loo")), theta, of) for of in ("value", "max")]
    checks = determinism.differences(problems, settings.seed_for("bits control"))
    return {check.name.removeprefix("Same bits: "): 2.0 * check.statistic for check in checks}


class _Forgetful:
    """A layer whose seed is not all that its noise depends on."""

    def __init__(self, layer, change: Callable):
        self._layer, self._change, self._calls = layer, change, 0

    def __call__(self, theta, *, seed):
        return self._layer(theta, seed=self._seed(theta, seed))

    def max(self, theta, *, seed):
        """As the layer's."""
        return self._layer.max(theta, seed=self._seed(theta, seed))

    def _seed(self, theta, seed):
        self._calls += 1
        return self._change(theta, seed, self._calls)


_BITS = (
    unchanged(lambda layer: layer),
    Mutant(
        "noise from a global state",
        lambda layer: _Forgetful(layer, lambda theta, seed, calls: calls),
        ("a second run", "a split batch"),
    ),
    Mutant(
        "rows numbered within their batch",
        lambda layer: _Forgetful(layer, lambda theta, seed, calls: getattr(seed, "seed", seed)),
        ("a split batch",),
    ),
)


def _word_tests(mutant: Mutant, settings: Settings) -> Ratios:
    seed = settings.seed_for("words control")
    words = mutant.make(battery.stream(seed, battery.ORDERS["coordinates"], 0, 64).copy())
    return {name: largest(test(words)) / Z_THRESHOLD for name, test in battery.TESTS.items()}


def _stuck(words: np.ndarray) -> np.ndarray:
    words[::16] |= 1
    return words


def _repeating(words: np.ndarray) -> np.ndarray:
    words[1::16] = words[::16]
    return words


def _linear(words: np.ndarray) -> np.ndarray:
    """The last of 32 words is the sum of the others, bit by bit."""
    rows = words.reshape(-1, 32)
    rows[:, -1] = np.bitwise_xor.reduce(rows[:, :-1], axis=1)
    return words


def _ordered(words: np.ndarray) -> np.ndarray:
    words.reshape(-1, 32)[:, :5].sort(axis=1)
    return words


_WORDS = (
    unchanged(lambda words: words),
    Mutant("lowest bit stuck in one of 16 words", _stuck, ("bytes",)),
    Mutant("one of 16 words repeats the one before", _repeating, ("pairs", "weights")),
    Mutant("every 32nd word is linear in the others", _linear, ("matrices",)),
    Mutant("five of 32 words in order", _ordered, ("turns",)),
    Mutant(
        "a year of 2^31 days", lambda words: words & np.uint32(0x7FFFFFFF), ("bytes", "birthdays")
    ),
)

_TITLES = {
    "estimate": "Asymptotic normality",
    "identity": "Integration by parts",
    "surface": "Smoothness (2 where a claim is violated)",
    "path": "Smoothness of paths (2 where a claim is violated)",
    "interval": "Intervals",
    "bit": "Determinism (entries that differ)",
    "word": "Words",
}
_TRIALS: dict[str, tuple[tuple[Mutant, ...], Callable[[Mutant, Settings], Ratios]]] = {
    "estimate": (_ESTIMATES, _asymptotic_tests),
    "identity": (_IDENTITIES, _identity_tests),
    "surface": (_SURFACES, _smoothness_tests),
    "path": (_PATHS, _path_tests),
    "interval": (_INTERVALS, _coverage_tests),
    "bit": (_BITS, _bit_tests),
    "word": (_WORDS, _word_tests),
}
