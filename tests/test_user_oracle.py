"""Oracles made of Python functions: what they may be, what they equal, and how they fail.

That every operation equals the uncompiled function on the reference noise, bit for bit, is in
``test_reference.py`` ("user", "user-ranks").
"""

from __future__ import annotations

import itertools as it
import os
import pickle
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
import user_oracles
from dpo.kernels.cpu import user_digest, user_function

import dpo

RNG = np.random.default_rng(0)
SCORES = RNG.standard_normal((4, 6))
REDUCTIONS = ("loo", "none", "antithetic", "qmc")


# --------------------------------------------------------------------------- the same as built in


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("ours, built_in", [("argmax", dpo.TopK(1)), ("ranks", dpo.Ranks())])
def test_equals_the_built_in_oracle(ours, built_in, reduction, family, dtype):
    """Values, maxima, products, Jacobians, errors, samples and losses: the same bits."""
    theta, v = SCORES.astype(dtype), RNG.standard_normal((4, 6)).astype(dtype)
    mine, theirs = (
        dpo.Perturbed(o, family, num_samples=320, variance_reduction=reduction)
        for o in (getattr(user_oracles, ours), built_in)
    )
    for of, direction in (
        ("value", None),
        ("max", None),
        ("vjp", v),
        ("jvp", v),
        ("jacobian", None),
    ):
        a, b = (x.estimate(theta, of=of, direction=direction, seed=3) for x in (mine, theirs))
        np.testing.assert_array_equal(a.mean, b.mean)
        np.testing.assert_array_equal(a.standard_error, b.standard_error)
    np.testing.assert_array_equal(mine.samples(theta, seed=3), theirs.samples(theta, seed=3))
    target = theirs.samples(theta, seed=9)[0]
    a, b = (x.loss(theta, target, seed=3, normalize=False) for x in (mine, theirs))
    np.testing.assert_array_equal(a, b)


def test_multiplicative_noise_and_adaptive_samples():
    theta = 1 + abs(SCORES)
    for parameters in (
        dict(perturbation="multiplicative", num_samples=500),
        dict(num_samples=dpo.Adaptive(0.02)),
        dict(epsilon=np.linspace(0.1, 1, 6)[None], num_samples=100),
        dict(num_samples=3),
    ):
        a, b = (dpo.Perturbed(o, **parameters) for o in (user_oracles.argmax, dpo.TopK(1)))
        np.testing.assert_array_equal(a(theta, seed=0), b(theta, seed=0))
        np.testing.assert_array_equal(a.vjp(theta, SCORES, seed=0), b.vjp(theta, SCORES, seed=0))


def test_costs_are_minimised():
    """Costs see minus the noise: the cheapest of ``c - eps z`` is the largest of ``-c + eps z``."""
    costs, scores = (dpo.Perturbed(o) for o in (user_oracles.argmin, user_oracles.argmax))
    np.testing.assert_array_equal(costs(SCORES, seed=0), scores(-SCORES, seed=0))
    np.testing.assert_allclose(costs.max(SCORES, seed=0), scores.max(-SCORES, seed=0), rtol=1e-12)
    v = RNG.standard_normal(SCORES.shape)
    np.testing.assert_allclose(
        costs.vjp(SCORES, v, seed=0), -scores.vjp(-SCORES, v, seed=0), rtol=1e-9, atol=1e-12
    )


def test_the_temperature_gradient_assumes_nothing_of_the_function():
    """By the scores of the scale, not by a homogeneity that a function may lack."""
    layer = dpo.Perturbed(user_oracles.argmax, num_samples=200_000)
    exact = dpo.Perturbed(dpo.Argmax(), method="exact")
    v = RNG.standard_normal((1, 6))
    estimate = layer.vjp_epsilon(SCORES[:1], v, seed=0)
    again = [layer.vjp_epsilon(SCORES[:1], v, seed=s) for s in range(1, 9)]
    assert abs(estimate - exact.vjp_epsilon(SCORES[:1], v)) < 6 * np.std(again, ddof=1)


def test_any_number_of_threads(threads):
    oracle = user_oracles.fitting_interval(11, 3)
    theta = RNG.standard_normal((3, 11)).astype(np.float32)
    layer, results = dpo.Perturbed(oracle, num_samples=6000), []
    for n in (1, 2, 5):
        threads(n)
        results.append((layer(theta, seed=0), layer.vjp(theta, theta, seed=0)))
    for value, product in results[1:]:
        np.testing.assert_array_equal(value, results[0][0])
        np.testing.assert_array_equal(product, results[0][1])


def test_torch_and_jax():
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    layer = dpo.Perturbed(user_oracles.fitting_interval(6, 4), num_samples=50)
    v = RNG.standard_normal((4, 6)).astype(np.float32)
    theta = SCORES.astype(np.float32)
    expected = layer(theta, seed=3), layer.vjp(theta, v, seed=3)
    leaf = torch.from_numpy(theta.copy()).requires_grad_()
    y = layer(leaf, seed=3)
    y.backward(torch.from_numpy(v))
    np.testing.assert_array_equal(y.detach(), expected[0])
    np.testing.assert_allclose(leaf.grad, expected[1], rtol=1e-5, atol=1e-6)

    @jax.jit
    def both(theta, v):
        y, pullback = jax.vjp(lambda theta: layer(theta, seed=3), theta)
        return y, pullback(v)[0]

    y, gradient = both(jax.numpy.asarray(theta), jax.numpy.asarray(v))
    np.testing.assert_array_equal(y, expected[0])
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-5, atol=1e-6)


# --------------------------------------------------------------------------------------- parameters


def test_parameters_of_all_rows_and_of_each():
    """A row's own parameters are those it has alone; numbers of each instance broadcast."""
    theta = RNG.standard_normal((2, 3, 8))
    sizes, room = RNG.uniform(0.5, 2, 8), np.array([[1.0], [4.0]])
    layer = dpo.Perturbed(user_oracles.interval(sizes=sizes, room=room, least=1), num_samples=64)
    y = layer(theta, seed=0)
    assert ((y @ sizes) <= room + 1e-12).all() and (y @ sizes)[1].max() > 1
    one = user_oracles.interval(sizes=sizes, room=1.0, least=1)
    np.testing.assert_array_equal(y[0], dpo.Perturbed(one, num_samples=64)(theta[0], seed=0))
    for reduction in ("qmc", "antithetic"):
        layer = replace(layer, variance_reduction=reduction)
        assert ((layer(theta, seed=0) @ sizes) <= room + 1e-12).all()


def test_oracles_are_values():
    """Equal, hashable and picklable, parameters included; calling again replaces some."""
    one = user_oracles.interval(room=2, sizes=np.ones(3), least=1)
    same = user_oracles.interval(least=1)(room=2, sizes=[1.0, 1.0, 1.0])
    assert one == same and hash(one) == hash(same) and one != one(room=3)
    assert one != user_oracles.interval(room=2.0, sizes=np.ones(3), least=1)  # another type
    assert pickle.loads(pickle.dumps(one)) == one
    assert repr(one) == "interval(room=2, sizes=<float64 [3]>, least=1)"
    assert dpo.Perturbed(one) == dpo.Perturbed(same)


def test_a_local_function_is_pickled_with_its_code():
    least = 2

    @dpo.oracle
    def local(scores, solution):
        solution[least] = 1

    copy = pickle.loads(pickle.dumps(local))
    np.testing.assert_array_equal(copy.solve(SCORES), local.solve(SCORES))
    np.testing.assert_array_equal(dpo.Perturbed(copy)(SCORES, seed=0), local.solve(SCORES))


def test_helpers_and_numba_functions():
    from numba import njit
    from numba.extending import register_jitable

    @register_jitable
    def largest(x):
        return np.argmax(x)

    @njit
    def choose(scores, solution):
        solution[largest(scores)] = 1

    oracle = dpo.oracle(choose)
    np.testing.assert_array_equal(
        dpo.Perturbed(oracle)(SCORES, seed=0), dpo.Perturbed(dpo.TopK(1))(SCORES, seed=0)
    )


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: dpo.oracle(3), "must decorate a Python function"),
        (lambda: dpo.oracle(lambda scores: None), r"must take \(scores, solution"),
        (lambda: dpo.oracle(lambda a, b, weights: None), "say how many axes of each"),
        (lambda: dpo.oracle(lambda a, b, w: None, parameters={"w": -1}), "0 to 3, got -1"),
        (lambda: dpo.oracle(lambda a, b: None, parameters={"w": 1}), r"must take \(scores"),
        (lambda: dpo.oracle(lambda a, b: None, event_ndim=3), "event_ndim must be 1 or 2"),
        (lambda: user_oracles.interval(rooms=2), "no parameter 'rooms'; it has room, sizes, least"),
        (lambda: user_oracles.interval(sizes=1.0), "sizes must have at least 1 axes"),
        (lambda: user_oracles.interval(room="x"), "room must be a number"),
        (lambda: user_oracles.interval(room=np.nan), "room must not contain NaN"),
        (
            lambda: user_oracles.interval(room=1).problem((3,)),
            r"needs its parameters: interval\(room",
        ),
        (
            lambda: user_oracles.interval(room=[1, 2], sizes=[1], least=1).problem((3, 1)),
            r"room must be one for all.*broadcast to the batch \(3,\)",
        ),
        (
            lambda: dpo.oracle(lambda a, b, w: None, workspace=lambda shape: {}).problem((3,)),
            "must make w, got nothing",
        ),
        (
            lambda: dpo.oracle(lambda a, b, w: None, workspace=lambda s: {"w": [1]}).problem((3,)),
            "workspace array w must be float64 or int64",
        ),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_a_solution_that_is_returned_is_refused():
    def early(scores, solution):
        if scores[0] > 0:
            return
        solution[0] = 1

    def returns(scores, solution):
        return scores.argmax()

    dpo.oracle(early)
    with pytest.raises(TypeError, match="returns returns something, which is lost"):
        dpo.oracle(returns)
    with pytest.raises(TypeError, match="binary must be True or False, got 'no'"):
        dpo.oracle(early, binary="no")
    with pytest.raises(TypeError, match="takes its parameters by name"):
        user_oracles.interval(3)


def test_what_numba_cannot_compile():
    @dpo.oracle
    def through_a_class(scores, solution):
        class Best:
            pass

        solution[0] = 1

    @dpo.oracle
    def with_an_unknown_name(scores, solution):
        solution[0] = no_such_name  # noqa: F821

    for oracle in (through_a_class, with_an_unknown_name):
        name = oracle.declaration.name
        with pytest.raises(TypeError, match=rf"oracle {name} cannot(.|\n)*dpo.perturbed\({name}"):
            dpo.Perturbed(oracle)(SCORES, seed=0)


def failing(how):
    """Oracles that fail where the third score is the largest of all, and rarely."""

    @dpo.oracle
    def raises(scores, solution):
        solution[0] = 1
        if np.argmax(scores) == 2:
            raise ZeroDivisionError("third is best")

    @dpo.oracle
    def out_of_range(scores, solution):
        solution[1] = 1 + (np.argmax(scores) == 2)

    @dpo.oracle(binary=False)
    def huge(scores, solution):
        solution[1] = 2**20 + (np.argmax(scores) == 2)

    @dpo.oracle
    def out_of_bounds(scores, solution):
        solution[5 + (np.argmax(scores) == 2)] = 1

    return {f.declaration.name: f for f in (raises, out_of_range, huge, out_of_bounds)}[how]


@pytest.mark.parametrize(
    "how, message, cause",
    [
        ("raises", "raised ZeroDivisionError: third is best", ZeroDivisionError),
        ("out_of_range", r"wrote 2 to solution\[1\], where entries are 0 or 1; for", type(None)),
        ("huge", r"wrote 1048577 to solution\[1\], where entries are in", type(None)),
        ("out_of_bounds", "raised IndexError", IndexError),
    ],
)
@pytest.mark.parametrize("m, reduction", [(3, "loo"), (600, "antithetic"), (320, "qmc")])
def test_a_failure_names_row_sample_and_seed(threads, how, message, cause, m, reduction):
    """The first, whatever the threads; and the sample is the one it names."""
    theta = SCORES.copy()
    theta[:, 2] = [-99, -99, 0.7, 9]
    shape = dict(noise="gumbel", num_samples=m, variance_reduction=reduction)
    layer, texts = dpo.Perturbed(failing(how), **shape), set()
    for n in (1, 3):
        threads(n)
        for call in (layer, layer.max, layer.jacobian, layer.samples):
            with pytest.raises(dpo.SolverError, match=f"oracle {how} {message}") as caught:
                call(theta, seed=5)
            assert type(caught.value.__cause__) is cause
            texts.add(str(caught.value))
    (text,) = texts
    assert "seed 5)" in text
    if reduction == "qmc":
        assert "on randomisation 32, sample" in text  # the first of row 2
    else:
        winners = dpo.Perturbed(dpo.TopK(1), **shape).samples(theta, seed=5).argmax(-1)
        first = np.argwhere((winners == 2).T)[0]
        assert f"on row {first[0]}, sample {first[1]} " in text
    again = dpo.Perturbed(failing(how), **shape)
    assert np.isfinite(again(theta[:2], seed=5)).all()  # nothing is left behind


def test_results_do_not_depend_on_what_workspaces_hold():
    """Uncompiled, they hold garbage; compiled, the sample before: no difference may show."""
    oracle = user_oracles.fitting_interval(6, 4)
    y = dpo.Perturbed(oracle, epsilon=1e-9, num_samples=100)(SCORES, seed=0)
    np.testing.assert_array_equal(y, oracle.solve(SCORES))


# ------------------------------------------------------------------------------------- compilation


def test_one_compilation_serves_both_precisions():
    layer = dpo.Perturbed(user_oracles.argmax)
    layer(SCORES, seed=0)
    before = user_function._compiled.cache_info().misses
    layer(SCORES.astype(np.float32), seed=0)
    assert user_function._compiled.cache_info().misses == before


def digest_of(source, **names):
    exec(source, names)
    return user_digest.digest(dpo.oracle(names["solve"]).problem((3,)).solver.solver)


def test_the_digest_sees_every_edit():
    """Of the function, of its constants, of helpers and of globals; and nothing else."""
    plain = "def solve(scores, solution):\n    solution[k] = f(scores)\n"
    helper = "def f(x):\n    return {}\n"
    cases = list(it.product(("1", "1.0", "x.size"), (0, 1, 0.0, np.int64(0))))
    digests = [digest_of(helper.format(body) + plain, k=k) for body, k in cases]
    assert None not in digests and len(set(digests)) == len(cases)
    assert digest_of(helper.format("1") + plain, k=0, unused=5) == digests[0]
    assert digest_of("\n\n" + helper.format("1") + plain, k=0) == digests[0]
    assert digest_of(plain, k=object(), f=len) is None  # not known, so not kept


def test_byte_code_is_read_once_and_globals_at_every_call(monkeypatch):
    names = {"k": 1}
    exec("def solve(scores, solution):\n    solution[k] = 1\n", names)
    solver = dpo.oracle(names["solve"]).problem((3,)).solver.solver
    first = user_digest.digest(solver)
    monkeypatch.setattr(user_digest, "dis", None)
    assert user_digest.digest(solver) == first
    names["k"] = 2
    assert user_digest.digest(solver) != first


SECOND_PROCESS = """
import sys; sys.path.insert(0, "tests")
import numpy as np, user_oracles, dpo
from dpo.kernels.cpu import user_function
dpo.Perturbed(user_oracles.argmax, num_samples=20)(np.zeros((1, 3)), seed=0)
(code,) = [user_function._compiled(s, user_function.digest(s)) for s in
           [user_oracles.argmax.problem((1, 3)).solver.solver]]
print(code.cache_hits)
"""


def test_another_process_loads_the_machine_code():
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    command = [sys.executable, "-c", textwrap.dedent(SECOND_PROCESS)]
    outputs = [
        subprocess.run(command, capture_output=True, text=True, cwd=root, check=True).stdout
        for _ in range(2)
    ]
    assert outputs[1] == "1\n"


def test_machine_code_that_cannot_be_loaded_is_made_again(monkeypatch):
    def load(self, key):
        raise ModuleNotFoundError("No module named '<dynamic>'")

    solver = user_oracles.argmax.problem((1, 3)).solver.solver
    digest = user_function.digest(solver)
    user_function._compiled(solver, digest)
    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.load", load)
    code = user_function._compiled.__wrapped__(solver, digest)
    assert code.cache_hits == 0 and code.address


def test_importing_dpo_loads_no_compiler():
    code = "import sys, dpo, dpo.solvers; dpo.solvers.knapsack(weights=[1], capacity=1)\n"
    code += "print('numba' in sys.modules)"
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True).stdout
    assert out == "False\n"
