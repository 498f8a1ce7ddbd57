"""torch: autograd inside a model is the explicit derivative; what cannot be right raises."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import dpo

torch = pytest.importorskip("torch")

LAYER = dpo.Perturbed(num_samples=200)


@pytest.fixture
def theta():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 5, generator=generator, dtype=torch.float64, requires_grad=True)


def test_value_and_backward(theta, family):
    layer = dpo.Perturbed(noise=family, num_samples=200)
    y = layer(theta, seed=1)
    np.testing.assert_array_equal(y.detach().numpy(), layer(theta.detach().numpy(), seed=1))
    v = torch.linspace(-1, 1, 15, dtype=torch.float64).reshape(3, 5)
    y.backward(v)
    expected = layer.vjp(theta.detach().numpy(), v.numpy(), seed=1)
    np.testing.assert_array_equal(theta.grad.numpy(), expected)


def test_gradient_of_max_and_loss(theta):
    target = torch.nn.functional.one_hot(torch.tensor([0, 4, 2]), 5)
    value = LAYER(theta.detach(), seed=1)
    (slope,) = torch.autograd.grad(LAYER.max(theta, seed=1).sum(), theta)
    assert torch.equal(slope, value)
    (residual,) = torch.autograd.grad(LAYER.loss(theta, target, seed=1).sum(), theta)
    assert torch.equal(residual, value - target)


def test_chain_rule_through_a_model():
    """A layer inside a network: the gradient is that of the explicit VJP through the weights."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(4, 5)
    x = torch.randn(6, 4)
    scores = linear(x)
    (LAYER(scores, seed=2) ** 2).sum().backward()
    y = LAYER(scores.detach(), seed=2)
    gradient = LAYER.vjp(scores.detach(), 2 * y, seed=2)
    torch.testing.assert_close(linear.weight.grad, gradient.T @ x)


def test_training_reduces_the_loss():
    torch.manual_seed(0)
    x = torch.randn(200, 4)
    labels = (x @ torch.randn(4, 3)).argmax(-1)
    target = torch.nn.functional.one_hot(labels, 3)
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    losses = []
    for _ in range(60):
        loss = LAYER.loss(model(x), target).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert (model(x).argmax(-1) == labels).float().mean() > 0.9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(dtype):
    theta = torch.randn(3, 5).to(dtype).requires_grad_()
    y = LAYER(theta, seed=0)
    assert y.dtype == dtype
    y.sum().backward()
    assert theta.grad.dtype == dtype
    assert LAYER.loss(theta, torch.eye(5)[:3], seed=0).dtype == dtype


def test_non_contiguous_and_expanded_gradients(theta):
    transposed = theta.detach().T.contiguous().T.requires_grad_()
    LAYER(transposed, seed=1).sum().backward()  # an expanded gradient of ones
    expected = LAYER.vjp(theta.detach(), torch.ones(3, 5, dtype=torch.float64), seed=1)
    torch.testing.assert_close(transposed.grad, expected)


def test_second_derivatives_of_max_and_loss(theta):
    """The gradient of F_eps is the perturbed argmax, itself differentiable: a Hessian product."""
    target = torch.eye(5, dtype=torch.float64)[[0, 4, 2]]
    v = torch.linspace(-1, 1, 15, dtype=torch.float64).reshape(3, 5)
    expected = LAYER.vjp(theta.detach(), v, seed=1)
    for value in (LAYER.max(theta, seed=1), LAYER.loss(theta, target, seed=1)):
        (slope,) = torch.autograd.grad(value.sum(), theta, create_graph=True)
        (product,) = torch.autograd.grad((slope * v).sum(), theta)
        assert torch.equal(product, expected)


def test_second_derivative_of_the_value_raises(theta):
    epsilon = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    layer = dpo.Perturbed(epsilon=epsilon, num_samples=50)
    for f in (lambda y: y**2, lambda y: y * 3):  # the gradient that comes in may be a constant
        value = f(layer(theta, seed=1)).sum()
        for slope in torch.autograd.grad(value, [theta, epsilon], create_graph=True):
            with pytest.raises(NotImplementedError, match="cannot be differentiated twice"):
                (slope.sum() + theta.sum()).backward(retain_graph=True)


@pytest.mark.parametrize("oracle", [dpo.Argmax(), dpo.TopK(2), dpo.Ranks()], ids=str)
@pytest.mark.parametrize("changed", ["theta", "epsilon", "y_true"])
def test_what_is_changed_in_place_has_no_gradient(oracle, changed):
    """The gradient would be that of other scores: an error, as everywhere in torch."""
    scores = torch.randn(4, 40, requires_grad=True)
    given = {"theta": scores * 1, "epsilon": torch.tensor(0.5, requires_grad=True) * 1}
    layer = dpo.Perturbed(oracle, epsilon=given["epsilon"], num_samples=50)
    given["y_true"] = layer.samples(scores.detach(), seed=1)[0].detach()
    result = layer.loss(given["theta"], given["y_true"], seed=0).sum()
    if changed != "y_true":
        result = result + layer(given["theta"], seed=0).square().sum()
    with torch.no_grad():
        given[changed].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.backward()


def _first(of, theta, epsilon):
    """A first derivative under ``create_graph``, and what it depends on."""
    v = torch.linspace(1, 2, 15, dtype=torch.float64).reshape(3, 5).requires_grad_()
    weight = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    layer = dpo.Perturbed(epsilon=epsilon, num_samples=64)
    black_box = dpo.perturbed(
        lambda x: torch.nn.functional.one_hot(x.argmax(-1), 5).to(x.dtype),
        epsilon=epsilon, num_samples=64, maximizer=True,
    )  # fmt: skip
    factors = dpo.Perturbed(epsilon=epsilon, num_samples=64, perturbation="multiplicative")
    if of in ("vjp", "jvp"):
        return getattr(layer, of)(theta, v, seed=0), (theta, epsilon, v)
    if of == "estimate":
        mean, _, _ = black_box.estimate(theta, of="vjp", direction=v, seed=0)
        return mean, (theta, epsilon, v)
    name, by = of.split(" by ")
    total = {
        "max": lambda: layer.max(theta, seed=0),
        "factors": lambda: factors.max(theta, seed=0),
        "function": lambda: (black_box(theta, seed=0) * v).sum(1),
        "its max": lambda: black_box.max(theta, seed=0),
    }[name]()
    (slope,) = torch.autograd.grad(
        (weight * total).sum(), theta if by == "theta" else epsilon, create_graph=True
    )
    return slope, (theta, epsilon, weight, *([v] if name == "function" else []))


@pytest.mark.parametrize(
    "of",
    [
        "vjp", "jvp", "estimate", "max by epsilon", "factors by theta", "factors by epsilon",
        "function by theta", "function by epsilon", "its max by epsilon",
    ],
)  # fmt: skip
def test_second_derivatives_are_an_error_in_every_input(theta, of):
    """Never a term left out: also where something else depends on the input, too."""
    epsilon = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    slope, inputs = _first(of, theta, epsilon)
    for x in inputs:
        linear = of == "factors by theta" and x is inputs[2]  # the slope times the weight
        total = (slope**2).sum() + x.sum()
        if linear:
            torch.autograd.grad(total, x, retain_graph=True)
            continue
        with pytest.raises(NotImplementedError, match="differentia"):
            torch.autograd.grad(total, x, retain_graph=True)


def test_a_product_with_the_hessian_by_two_reverse_passes(theta):
    along = torch.randn_like(theta)
    _, product = torch.autograd.functional.hvp(
        lambda x: LAYER.max(x, seed=1).sum(), theta.detach(), along
    )
    expected = LAYER.jvp(theta.detach(), along, seed=1)
    torch.testing.assert_close(product, expected)
    v = torch.randn_like(theta).requires_grad_()
    (pulled,) = torch.autograd.grad(LAYER(theta, seed=1), theta, v, create_graph=True)
    (pushed,) = torch.autograd.grad(pulled, v, along)
    torch.testing.assert_close(pushed, expected)


def test_explicit_results_refuse_to_be_differentiated(theta):
    results = [
        LAYER.samples(theta, seed=1),
        LAYER.vjp(theta, theta.detach(), seed=1),
        LAYER.jvp(theta, theta.detach(), seed=1),
        LAYER.jacobian(theta, seed=1),
        LAYER.estimate(theta, seed=1).mean,
    ]
    for result in results:
        with pytest.raises(NotImplementedError, match="not differentiable"):
            result.sum().backward()
    assert not LAYER.samples(theta.detach(), seed=1).requires_grad


def test_no_graph_without_need(theta):
    assert not LAYER(theta.detach(), seed=1).requires_grad
    with torch.no_grad():
        assert not LAYER(theta, seed=1).requires_grad


def test_what_is_not_supported_says_so(theta):
    with pytest.raises(NotImplementedError, match="theta is on meta: kernels are for"):
        LAYER(torch.zeros(2, 3, device="meta"), seed=0)
    with pytest.raises(TypeError, match="epsilon is a torch array but theta is a numpy array"):
        dpo.Perturbed(epsilon=torch.tensor(0.5, requires_grad=True))(np.zeros(3), seed=0)
    with pytest.raises(TypeError, match="y_true requires a gradient"):
        LAYER.loss(theta, torch.eye(5)[:3].requires_grad_(), seed=0)
    with pytest.raises(TypeError, match="v is a numpy array but theta is a torch array"):
        LAYER.vjp(theta, np.zeros((3, 5)), seed=0)
    with pytest.raises(TypeError, match=r"torch|int64"):
        LAYER(torch.zeros(2, 3, dtype=torch.int64), seed=0)


def test_deepcopy_of_a_model_with_a_layer():
    model = torch.nn.Linear(2, 2)
    model.layer = LAYER
    assert copy.deepcopy(model).layer == LAYER


class Solved(torch.utils.data.Dataset):
    """A dataset whose workers call the kernels."""

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return LAYER(torch.zeros(64, 200), seed=i)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_inside_data_loader_workers(context):
    here = [LAYER(torch.zeros(64, 200), seed=i) for i in range(8)]  # the parent's pool exists
    loader = torch.utils.data.DataLoader(
        Solved(), batch_size=None, num_workers=2, multiprocessing_context=context
    )
    assert all(torch.equal(a, b) for a, b in zip(here, loader, strict=True))


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("num_samples", [1, 3])
def test_what_is_no_number_stays_in_its_row(num_samples, kept, monkeypatch):
    """Rows share groups of lanes where samples are few."""
    if not kept:
        monkeypatch.setattr("dpo._engine._MEMO_BYTES", 0)
    theta = torch.rand(4, 6, requires_grad=True)
    v = torch.ones(4, 6)
    v[1] = torch.nan
    y = dpo.Perturbed(dpo.Ranks(), num_samples=num_samples)(theta, seed=0)
    (slope,) = torch.autograd.grad(y, theta, v)
    assert slope[1].isnan().all()
    assert slope[[0, 2, 3]].isfinite().all()
