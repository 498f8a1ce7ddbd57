"""Any function in torch: it gets tensors, autograd goes around it, and never through it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import dpo

torch = pytest.importorskip("torch")

THETA = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 5)))
V = torch.from_numpy(np.random.default_rng(1).standard_normal((3, 5)))


def argmax(scores):
    assert isinstance(scores, torch.Tensor)
    return torch.nn.functional.one_hot(scores.argmax(-1), scores.shape[-1])


def pair(**settings):
    settings = {"num_samples": 320, **settings}
    return (
        dpo.perturbed(argmax, maximizer=True, **settings),
        dpo.Perturbed(dpo.Argmax(), **settings),
    )


def leaf(x):
    return x.clone().requires_grad_()


@pytest.mark.parametrize("reduction", ["loo", "none", "antithetic", "qmc"])
def test_gradients_are_those_of_the_fused_solver(reduction):
    epsilons = leaf(torch.tensor([0.4, 0.5, 0.6]).double())
    results = []
    function, fused = pair(variance_reduction=reduction, epsilon=epsilons)
    # One temperature a row has another estimator in fused solvers; one a coordinate the same.
    wide = dataclasses.replace(fused, epsilon=epsilons[:, None].expand(3, 5))
    for f in (function, wide):
        theta, epsilons.grad = leaf(THETA), None
        y = f(theta, seed=7)
        (y * V).sum().backward()
        results.append((y.detach(), theta.grad, epsilons.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", ["max", "loss"])
@pytest.mark.parametrize("noise", ["normal", "gumbel"])
def test_max_and_loss_are_those_of_the_fused_solver_twice(method, noise):
    """Values, gradients in theta and epsilon, and second derivatives in theta."""
    args = (torch.eye(5).double()[[0, 3, 1]],) if method == "loss" else ()
    epsilon = leaf(torch.tensor(0.5).double())
    results = []
    for f in pair(noise=noise, epsilon=epsilon):
        theta = leaf(THETA)
        value = getattr(f, method)(theta, *args, seed=7)
        gradients = torch.autograd.grad(value.sum(), (theta, epsilon), create_graph=True)
        second = torch.autograd.grad((gradients[0] * V).sum(), theta)
        results.append([x.detach() for x in (value, *gradients, *second)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_second_derivatives_of_the_value_are_an_error():
    f, _ = pair()
    theta = leaf(THETA)
    (gradient,) = torch.autograd.grad((f(theta, seed=7) * V).sum(), theta, create_graph=True)
    with pytest.raises(NotImplementedError, match="cannot be differentiated twice"):
        (gradient.sum() + theta.sum()).backward()
    with pytest.raises(NotImplementedError, match="not differentiable"):
        f.jvp(theta, V, seed=7).sum().backward()


def test_solutions_are_found_once_and_arguments_survive_backward():
    solved = []

    def fun(x, scale, *, offset):
        solved.append(x.shape[0])
        return {"best": scale * x.max(-1).values, "all": [x[..., :2] + offset[:, None]]}

    f = dpo.perturbed(fun, num_samples=320)
    offset = torch.tensor([1.0, 2.0, 3.0])
    theta = leaf(THETA)
    y = f(theta, 2.0, offset=dpo.PerInstance(offset), seed=7)
    assert y["best"].shape == (3,) and y["all"][0].shape == (3, 2)
    (y["best"].sum() + (y["all"][0] ** 2).sum()).backward()
    assert sum(solved) == 320
    v = {"best": torch.ones(3), "all": [2 * y["all"][0].detach()]}
    explicit = f.vjp(THETA, v, 2.0, offset=dpo.PerInstance(offset), seed=7)
    torch.testing.assert_close(theta.grad, explicit)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes_come_back(dtype):
    f, fused = pair()
    theta = leaf(THETA.to(dtype))
    y = f(theta, seed=7)
    y.sum().backward()
    assert y.dtype == theta.grad.dtype == dtype
    torch.testing.assert_close(y, fused(theta, seed=7), rtol=0, atol=0)


def test_a_gradient_through_the_function_is_refused():
    weight = torch.ones(5, dtype=torch.float64, requires_grad=True)
    f = dpo.perturbed(lambda x, w: (x * w).sum(-1), num_samples=20)
    with pytest.raises(dpo.SolverError, match="requires a gradient of its own"):
        f(THETA, weight, seed=7)
    assert f(THETA, weight.detach(), seed=7).shape == (3,)
    with torch.no_grad():
        assert f(THETA, weight, seed=7).shape == (3,)


def test_one_at_a_time_in_threads_with_fresh_seeds():
    f = dpo.perturbed(lambda x, warm_start=None: x.max(), batched=False, num_samples=20, workers=2)
    torch.manual_seed(3)
    one = f(THETA)
    torch.manual_seed(3)
    assert (f(THETA) == one).all() and (f(THETA) != one).any()


def test_adaptive_rows():
    f = dpo.perturbed(argmax, maximizer=True, num_samples=dpo.Adaptive(0.02))
    theta = leaf(THETA)
    y = f(theta, seed=7)
    y[:, 0].sum().backward()
    fused = dpo.Perturbed(num_samples=dpo.Adaptive(0.02))
    other = leaf(THETA)
    fused(other, seed=7)[:, 0].sum().backward()
    torch.testing.assert_close(theta.grad, other.grad, rtol=1e-10, atol=1e-10)


def test_compiled_programs_run_it_between_graphs():
    f, _ = pair(num_samples=20)
    compiled = torch.compile(lambda x: 2 * f(2 * x, seed=7), backend="eager")
    torch.testing.assert_close(compiled(THETA), 2 * f(2 * THETA, seed=7))
