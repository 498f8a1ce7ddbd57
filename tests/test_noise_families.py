"""Noise of one's own, by a quantile and a score: tables, checks, and the estimators on them."""

from __future__ import annotations

import functools as ft
import pickle
from itertools import pairwise

import numpy as np
import pytest
import test_reference
from dpo.kernels import codes, noise_table, reference
from dpo.kernels.codes import VALUE, Draws, Problem
from dpo.kernels.cpu._jit import kernel
from dpo.kernels.tabulate import Tabulated
from helpers import EDGE_WORDS, FAMILIES, SEED, call, random_words, temperatures
from scipy import integrate, special, stats
from test_noise import word_tails

import dpo


def sech_quantile(u):
    return 2 / np.pi * np.log(np.tan(np.pi * u / 2))


def sech_score(z):
    return np.pi / 2 * np.tanh(np.pi * z / 2)


def gumbel_quantile(u):
    return -np.log(-np.log(u))


def gumbel_upper(p):
    return -np.log(-np.log1p(-p))


def gumbel_score(z):
    return -np.expm1(-z)


OWN = {
    "laplace": dpo.Laplace(),
    "student": dpo.StudentT(3),
    "student-30": dpo.StudentT(30.0),
    "sech": dpo.NoiseFamily(sech_quantile, sech_score),
    "gumbel": dpo.NoiseFamily(gumbel_quantile, gumbel_score, gumbel_upper),
    "normal": dpo.NoiseFamily(special.ndtri, lambda z: z),
    "tiny": dpo.NoiseFamily(lambda u: 1e-6 * special.ndtri(u), lambda z: 1e12 * z),
    "shifted": dpo.NoiseFamily(
        lambda u: 5 + 2 * special.logit(u), lambda z: np.tanh((z - 5) / 4) / 2,
        lambda p: 5 - 2 * special.logit(p),
    ),
}  # fmt: skip


def exact(noise, t, upper):
    """``z`` and ``s(z)`` from the nearer tail, by the user's functions themselves."""
    t = np.minimum(t, np.nextafter(0.5, 0))  # a side's limit where t rounds to the median
    functions = noise.family._functions
    z = np.where(upper, functions.z(1, t), functions.z(0, t))
    return z, functions.s(z)


# ------------------------------------------------------------------------------------- the tables


@pytest.mark.parametrize("name", OWN)
def test_a_table_is_exact_to_rounding(name):
    words = random_words(1 << 14)
    low = random_words(1 << 14, seed=1)[::-1].copy()
    for dtype, given in ((np.float32, (words,)), (np.float64, (words, low))):
        table, width = OWN[name].family.table(dtype), 8 * dtype().itemsize
        t, upper = word_tails(*given)
        for which, true in zip(("quantile", "score"), exact(OWN[name], t, upper), strict=True):
            ours = getattr(noise_table, which + str(width))(*given, table)
            assert ours.dtype == dtype
            size = np.maximum(np.abs(true), np.median(np.abs(true)))
            tolerance = (6e-7 if dtype == np.float32 else 2e-14) * size
            assert (np.abs(ours - true) < tolerance).all(), which


@kernel
def look_up(words, low, single, double, z32, z64):
    for i in range(words.size):
        z32[i] = noise_table.quantile32(words[i], single)
        z64[i] = noise_table.score64(words[i], low[i], double)


def test_same_bits_numba_and_numpy():
    words = random_words(1 << 12, seed=4)
    low, family = words[::-1].copy(), FAMILIES["student"]
    single, double = family.table(np.float32), family.table(np.float64)
    z32, z64 = np.empty(words.size, np.float32), np.empty(words.size)
    look_up(words, low, single, double, z32, z64)
    assert (z32 == noise_table.quantile32(words, single)).all()
    assert (z64 == noise_table.score64(words, low, double)).all()


@pytest.mark.parametrize("name", ["laplace", "student", "sech", "normal"])
def test_symmetric_noise_is_odd(name):
    words, family = random_words(1 << 12), OWN[name].family
    low, double = words[::-1], family.table(np.float64)
    for f in (noise_table.quantile32, noise_table.score32):
        assert (f(words, family.table(np.float32)) == -f(~words, family.table(np.float32))).all()
    assert (
        noise_table.quantile64(words, low, double) == -noise_table.quantile64(~words, ~low, double)
    ).all()


@pytest.mark.parametrize("name", OWN)
def test_monotone_in_the_word(name):
    table = OWN[name].family.table(np.float32)
    grid = noise_table.quantile32(
        np.arange(0, 2**32, 2**14, dtype=np.uint64).astype(np.uint32), table
    )
    assert (np.diff(grid) > 0).all()
    start = np.random.default_rng(2).integers(0, 2**32 - 2, 1 << 15, dtype=np.uint64)
    start = np.concatenate([start, EDGE_WORDS[:-1].astype(np.uint64)])
    here, there = (noise_table.quantile32((start + i).astype(np.uint32), table) for i in (0, 1))
    usual = min(0.5, np.median(np.abs(here)))
    ulp = np.spacing(np.maximum(np.abs(here), usual).astype(np.float32))
    assert (there - here >= -4 * ulp).all()


def test_moments():
    expected = {
        "laplace": (0, 1), "student": (0, 4 / 6), "student-30": (0, 31 / 33),
        "sech": (0, np.pi**2 / 8), "gumbel": (np.euler_gamma, 1), "normal": (0, 1),
        "tiny": (0, 1e12), "shifted": (5, 1 / 12),
    }  # fmt: skip
    for name, (mean, information) in expected.items():
        family = OWN[name].family
        np.testing.assert_allclose(family.mean, mean, atol=1e-12)
        np.testing.assert_allclose(family.fisher_information, information, rtol=1e-9)


def test_a_table_of_built_in_noise_is_that_noise(dtype):
    """The same words through the library's own quantile: the same noise, to rounding."""
    own, built_in = (
        reference.Noise(Draws(family, SEED, 200), 3, 10, dtype)
        for family in (OWN["gumbel"].family, FAMILIES["gumbel"])
    )
    tolerance = 2e-6 if dtype == np.float32 else 1e-14
    np.testing.assert_allclose(own.z, built_in.z, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(own.scores, built_in.scores, rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------------------- every operation


@pytest.mark.parametrize(
    "name, rows, d, m, design",
    [
        ("argmax", 40, 6, 2, "iid"),
        ("argmax", 9, 12, 300, "iid"),
        ("argmax", 5, 10, 70, "antithetic"),
        ("argmax", 5, 10, 64, "sobol"),
        ("top-half", 3, 35, 65, "iid"),
    ],
)
def test_kernels_equal_the_reference(name, rows, d, m, design, dtype):
    if name == "top-half" and dtype == np.float64:
        pytest.skip("compiled in one precision: what tables change is in the argmax too")
    test_reference.compare(name, rows, d, m, "student", dtype, design)


def test_a_temperature_for_each_coordinate(dtype):
    test_reference.compare("argmax", 5, 10, 70, "laplace", dtype, epsilon=np.linspace(0.1, 2, 10))


@pytest.mark.parametrize("rows, d, num_samples", [(40, 7, 3), (9, 10, 33), (2, 31, 600)])
def test_float_sums_of_the_plain_argmax(rows, d, num_samples, dtype):
    test_reference.test_float_sums("laplace", dtype, rows, d, num_samples)


@pytest.mark.parametrize("spread", [0.0, 0.5, 5.0])
@pytest.mark.parametrize("name", ["laplace", "shifted"])
def test_dropped_quads_never_matter(name, spread, dtype):
    theta = (np.random.default_rng(6).standard_normal((1, 5000)) * spread).astype(dtype)
    theta[0, ::7] = -np.inf
    noise = Draws(OWN[name].family, SEED, 96)
    expected = reference.argmax_winners(theta, temperatures(theta, 0.5), noise)
    launch = test_reference.launch.launch
    counts = launch(Problem(), theta, temperatures(theta, 0.5), noise).counts[0, 0]
    assert (counts == np.bincount(expected[:, 0], minlength=5000)).all()


def test_built_in_kernels_do_not_know_of_tables():
    """A table is another type, so another specialisation; signatures of codes are as ever."""
    from dpo.kernels.cpu import argmax

    theta = np.zeros((1, 8), np.float32)
    call(theta, "normal", 70, VALUE)
    call(theta, "laplace", 70, VALUE)
    kinds = {str(signature[7]) for signature in argmax.run.signatures}
    assert any(kind == "int64" for kind in kinds) and any("array" in kind for kind in kinds)


# ----------------------------------------------------------------------------------- expectations

LAWS = {"laplace": stats.laplace(), "student": stats.t(3), "student-30": stats.t(30)}
THETA, V = np.array([0.3, -0.5, 0.6, 0.1]), np.array([1.0, -2.0, 0.5, 0.7])
EPSILON = 0.7
ROWS, SAMPLES = 400, 500
CASES = len(LAWS) * 2 * (4 + 4 + 1 + 4 + 1)
Z_THRESHOLD = float(stats.norm.isf(1e-6 / CASES / 2))
"""Chance 1e-6 that anything here fails, over all families, precisions, and entries."""


def probabilities(law, theta, epsilon):
    """``P(i wins)`` by SciPy's quadrature of its own densities, apart from the library's code."""

    def densities(t):
        u = (t - theta) / epsilon
        below = law.cdf(u)
        others = [np.prod(np.delete(below, i)) for i in range(len(theta))]
        return law.pdf(u) / epsilon * others

    pieces = [-np.inf, *np.sort(theta), np.inf]  # Laplace's density has a kink
    parts = [integrate.quad_vec(densities, a, b, epsabs=1e-13)[0] for a, b in pairwise(pieces)]
    return np.sum(parts, axis=0)


def slope(function, x, h=1e-2):
    """A derivative by differences of fourth order."""
    near, far = (function(x + k * h) - function(x - k * h) for k in (1, 2))
    return (8 * near - far) / (12 * h)


@ft.cache
def truth(name):
    """``y``, ``J V = V^T J`` (the Jacobian is symmetric), and ``<V, dy / d eps>``."""
    law = LAWS[name]
    y = probabilities(law, THETA, EPSILON)
    product = slope(lambda x: probabilities(law, THETA + x * V, EPSILON), 0.0)
    return y, product, slope(lambda e: V @ probabilities(law, THETA, e), EPSILON)


def z_scores(replicates, expected):
    error = replicates.std(0, ddof=1) / np.sqrt(len(replicates))
    return (replicates.mean(0) - expected) / error


@pytest.mark.parametrize("name", LAWS)
def test_estimators_are_unbiased(name, dtype):
    theta, v = (np.tile(x, (ROWS, 1)).astype(dtype) for x in (THETA, V))
    layer = dpo.Perturbed(noise=OWN[name], epsilon=EPSILON, num_samples=SAMPLES)
    y, vjp, of_epsilon = truth(name)
    np.testing.assert_allclose(y.sum(), 1, atol=1e-9)
    np.testing.assert_allclose(vjp.sum(), 0, atol=1e-7)  # scores may be shifted
    np.testing.assert_allclose(of_epsilon, -vjp @ THETA / EPSILON, atol=1e-6)  # homogeneity

    assert (np.abs(z_scores(layer(theta, seed=1), y)) < Z_THRESHOLD).all()
    assert (np.abs(z_scores(layer.vjp(theta, v, seed=2), vjp)) < Z_THRESHOLD).all()
    by_epsilon = np.asarray(layer.vjp_epsilon(theta, v, seed=3)).reshape(ROWS)
    assert np.abs(z_scores(by_epsilon, of_epsilon)) < Z_THRESHOLD
    each = dpo.Perturbed(noise=OWN[name], epsilon=np.full((1, 4), EPSILON), num_samples=SAMPLES)
    by_epsilon = np.asarray(each.vjp_epsilon(theta, v, seed=4)).reshape(ROWS, 4).sum(1)
    assert np.abs(z_scores(by_epsilon, of_epsilon)) < Z_THRESHOLD


def test_a_wrong_score_would_be_seen():
    """The negative control: a derivative that is 5% short."""
    theta, v = np.tile(THETA, (ROWS, 1)), np.tile(V, (ROWS, 1))
    layer = dpo.Perturbed(noise="laplace", epsilon=EPSILON, num_samples=SAMPLES)
    z = z_scores(0.95 * layer.vjp(theta, v, seed=2), truth("laplace")[1])
    assert np.abs(z).max() > Z_THRESHOLD


def test_maximum_and_loss():
    """``F_eps`` of two equal scores is ``eps E max(Z_1, Z_2)``, 3/4 for Laplace noise."""
    layer = dpo.Perturbed(noise="laplace", epsilon=2.0, num_samples=1000)
    theta = np.zeros((ROWS, 2))
    assert np.abs(z_scores(layer.max(theta, seed=0), 2 * 0.75)) < Z_THRESHOLD
    shifted = dpo.Perturbed(noise=OWN["shifted"], epsilon=0.5, num_samples=200)
    y = np.eye(4)[[1]]
    loss = shifted.loss(THETA[None], y, seed=0)  # normalised by the mean of the noise
    expected = shifted.max(THETA[None], seed=0) - THETA[1] - 0.5 * 5
    np.testing.assert_allclose(loss, expected, rtol=1e-12)


# ---------------------------------------------------------------------------------- the interface


def test_names_and_equality():
    assert dpo.Perturbed(noise="laplace").noise == dpo.Laplace()
    assert dpo.StudentT(4) == dpo.StudentT(4.0) != dpo.StudentT(5)
    assert dpo.Perturbed(noise=dpo.StudentT(4)) == dpo.Perturbed(noise=dpo.StudentT(4))
    own = dpo.NoiseFamily(sech_quantile, sech_score, label="sech")
    assert own == dpo.NoiseFamily(sech_quantile, sech_score, label="sech") and own.name == "sech"
    assert own.family is dpo.NoiseFamily(sech_quantile, sech_score, label="sech").family
    for noise in (dpo.Laplace(), dpo.StudentT(4), own):
        again = pickle.loads(pickle.dumps(noise))
        assert again == noise and hash(again) == hash(noise) and again.family is noise.family


def test_exact_is_refused_and_auto_samples():
    for noise in (dpo.Laplace(), OWN["sech"]):
        with pytest.raises(ValueError, match=r"normal, Gumbel or logistic, not for .* method='mc'"):
            dpo.Perturbed(noise=noise, method="exact")
        layer = dpo.Perturbed(noise=noise, method="auto", num_samples=300)
        sampled = dpo.Perturbed(noise=noise, num_samples=300)
        assert (layer(THETA, seed=1) == sampled(THETA, seed=1)).all()


def test_gradients_in_torch():
    torch = pytest.importorskip("torch")
    layer = dpo.Perturbed(noise=dpo.StudentT(3), epsilon=EPSILON, num_samples=200)
    theta = torch.tensor(THETA, requires_grad=True)
    layer(theta, seed=5).backward(torch.tensor(V))
    np.testing.assert_array_equal(theta.grad.numpy(), layer.vjp(THETA, V, seed=5))


def test_gradients_in_jax():
    jax = pytest.importorskip("jax")
    layer = dpo.Perturbed(noise="laplace", epsilon=EPSILON, num_samples=200)
    theta, v = (jax.numpy.asarray(x, dtype="float32") for x in (THETA, V))
    gradient = jax.grad(lambda x: layer(x, seed=5) @ v)(theta)
    expected = layer.vjp(THETA.astype(np.float32), V.astype(np.float32), seed=5)
    np.testing.assert_array_equal(np.asarray(gradient), expected)


def logistic(u):
    return special.logit(u)


@pytest.mark.parametrize(
    "functions, message",
    [
        ((logistic, lambda z: np.tanh(z)), r"score and quantile disagree: at u = .*, score\(z\)"),
        ((logistic, lambda z: -np.tanh(z / 2)), "score and quantile disagree"),
        ((lambda u: stats.t(5).ppf(u), dpo.StudentT(6).score), "score and quantile disagree"),
        ((lambda u: 2 * u - 1, lambda z: 0 * z), "does not vanish at the ends"),
        (
            (lambda u: -np.log1p(-u), lambda z: 1 + 0 * z, lambda p: -np.log(p)),
            "does not vanish at the ends",
        ),
        ((stats.t(2).ppf, lambda z: 3 * z / (2 + z * z)), r"no finite variance E\[Z\^2\]"),
        ((gumbel_quantile, gumbel_score), "quantile is not symmetric: .* pass upper_quantile"),
        (
            (lambda u: 1e-6 * gumbel_quantile(u), lambda z: 1e6 * gumbel_score(1e6 * z)),
            "quantile is not symmetric",
        ),
        ((gumbel_quantile, gumbel_score, gumbel_quantile), r"upper_quantile\(p\) must be"),
        ((lambda u: -logistic(u), lambda z: z), "quantile must increase"),
        ((lambda u: np.round(logistic(u), 1), lambda z: z), "quantile (must increase|cannot be)"),
        (
            (lambda u: logistic(u) + 0.1 * np.sign(u - 0.5) * np.abs(np.abs(u - 0.5) - 0.2), abs),
            "quantile cannot be tabulated near u = ",
        ),
        ((logistic, lambda z: np.tanh(z / 2) + 0.01 * np.sign(z - 1)), "score cannot be tabulated"),
        ((lambda u: np.log(u - 0.1), lambda z: z), "quantile must be finite, but at"),
        ((lambda u: u[:1], lambda z: z), "quantile must map an array to one of its shape"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_functions_that_disagree(functions, message):
    with pytest.raises(ValueError, match=message):
        dpo.NoiseFamily(*functions)


def test_infinite_information():
    """Gamma noise of shape 2: its density vanishes at 0, but too slowly."""
    gamma = stats.gamma(2)
    with pytest.raises(ValueError, match="no finite Fisher information"):
        dpo.NoiseFamily(gamma.ppf, lambda z: 1 - 1 / z, gamma.isf)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: dpo.StudentT(2), ValueError, "df must be finite and at least 2.01, got 2"),
        (lambda: dpo.StudentT(np.inf), ValueError, "df must be finite"),
        (lambda: dpo.StudentT("5"), ValueError, "df must be finite"),
        (lambda: dpo.NoiseFamily(3, abs), TypeError, "quantile must be a function"),
        (lambda: dpo.NoiseFamily(abs, None), TypeError, "score must be a function"),
        (lambda: dpo.NoiseFamily(abs, abs, 3), TypeError, "upper_quantile must be a function"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_tables_are_made_when_they_are_needed(monkeypatch):
    """``dpo.Laplace()`` and ``import dpo`` cost nothing; a table is made once."""
    made = []
    original = Tabulated.__init__

    def counting(self, name, *functions):
        made.append(name)
        original(self, name, *functions)

    monkeypatch.setattr(Tabulated, "__init__", counting)
    noise = dpo.StudentT(7.5)
    assert made == []
    assert noise.family is dpo.StudentT(7.5).family and len(made) == 1
    assert codes.Draws(noise.family, (0, 0), 1).family != 0
