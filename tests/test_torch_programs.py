"""torch.compile, torch.func and forward-mode AD: the same numbers as eager calls and backward()."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest

import dpo
from dpo import solvers
from dpo._engine import Sampler

torch = pytest.importorskip("torch")

from torch._dynamo.testing import CompileCounterWithBackend  # noqa: E402
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap  # noqa: E402

ORACLES = {
    "argmax": dpo.Argmax(),
    "topk": dpo.TopK(2),
    "ranks": dpo.Ranks(),
    "path": dpo.ShortestPath(neighbors=4),
}
EXACT = dpo.Perturbed(dpo.TopK(2), method="exact", epsilon=0.7)


@pytest.fixture(params=ORACLES)
def oracle(request):
    return ORACLES[request.param]


def scores(oracle, rows=3, seed=0, dtype=torch.float32):
    shape = (rows, 3, 4) if oracle.event_ndim == 2 else (rows, 6)
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=dtype) + 0.5


def eager_gradient(f, *inputs):
    """``backward()``'s, of the sum."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    return torch.autograd.grad(f(*leaves).sum(), leaves)


def layers(oracle):
    """A layer for each way of drawing samples."""
    return [
        dpo.Perturbed(oracle, num_samples=64),
        dpo.Perturbed(oracle, num_samples=64, noise="gumbel", variance_reduction="none"),
        dpo.Perturbed(oracle, num_samples=64, variance_reduction="antithetic"),
        dpo.Perturbed(oracle, num_samples=64, variance_reduction="qmc"),
        dpo.Perturbed(oracle, num_samples=dpo.Adaptive(0.1, 256)),
        dpo.Perturbed(oracle, num_samples=64, perturbation="multiplicative"),
    ]


# ------------------------------------------------------------------------------------ torch.func


def test_grad_vjp_and_jvp_are_the_explicit_derivatives(oracle):
    theta, v = scores(oracle), scores(oracle, seed=1)
    for layer in layers(oracle):

        def f(x, layer=layer):
            return layer(x, seed=7)

        value, pull = vjp(f, theta)
        assert torch.equal(value, layer(theta, seed=7))
        assert torch.equal(pull(v)[0], eager_gradient(lambda x, f=f: f(x) * v, theta)[0])
        if not isinstance(layer.num_samples, dpo.Adaptive):  # a JVP draws what it needs itself
            assert torch.equal(jvp(f, (theta,), (v,))[1], layer.jvp(theta, v, seed=7))


def test_gradients_of_max_and_loss(oracle):
    theta = scores(oracle)
    target = dpo.Perturbed(oracle, num_samples=1)(theta, seed=9)
    for layer in layers(oracle):
        for f in (
            lambda x, layer=layer: layer.max(x, seed=7).sum(),
            lambda x, layer=layer: layer.loss(x, target, seed=7).sum(),
        ):
            assert torch.equal(grad(f)(theta), eager_gradient(f, theta)[0])
            along = jvp(f, (theta,), (torch.ones_like(theta),))[1]
            torch.testing.assert_close(along, grad(f)(theta).sum())


def test_jacobians_by_both_modes(oracle):
    theta = scores(oracle, dtype=torch.float64)[0]
    layer = dpo.Perturbed(oracle, num_samples=64)
    explicit = layer.jacobian(theta, seed=7)
    for mode in (jacrev, jacfwd):
        torch.testing.assert_close(mode(lambda x: layer(x, seed=7))(theta), explicit)


def test_second_derivatives_are_right_or_an_error():
    theta = scores(EXACT.oracle, dtype=torch.float64)[0]
    v = torch.linspace(-1, 1, 6, dtype=torch.float64)
    for of_max in (lambda x: EXACT.max(x), lambda x: dpo.Perturbed(num_samples=50).max(x, seed=1)):
        curvature = hessian(of_max)(theta)
        slope = jacrev(grad(of_max))(theta)
        torch.testing.assert_close(curvature, slope)
    torch.testing.assert_close(hessian(EXACT.max)(theta), EXACT.jacobian(theta))
    second = grad(lambda x: grad(lambda y: (EXACT(y) * v).sum())(x) @ v)(theta)
    torch.testing.assert_close(second, EXACT.second_order_product(theta, v, v))
    twice = jvp(lambda x: jvp(EXACT, (x,), (v,))[1], (theta,), (v,))[1]
    torch.testing.assert_close(twice, second)
    sampled = dpo.Perturbed(num_samples=20)
    for mode in (jacfwd, jacrev):
        with pytest.raises(NotImplementedError, match="differentiated twice by sampling"):
            mode(grad(lambda x: (sampled(x, seed=1) * v).sum()))(theta)
    with pytest.raises(NotImplementedError, match="are not differentiable"):
        grad(lambda x: sampled.vjp(x, v, seed=1).sum())(theta)


def test_vmap_maps(oracle):
    theta = scores(oracle, rows=4)
    for layer in (dpo.Perturbed(oracle, num_samples=64), *layers(oracle)[-3:]):
        shared = vmap(lambda x, layer=layer: layer(x, seed=7))(theta)
        own = vmap(lambda x, s, layer=layer: layer(x, seed=s))(theta, torch.arange(4))
        slopes = vmap(grad(lambda x, layer=layer: layer.max(x, seed=7)))(theta)
        for k in range(4):
            assert torch.equal(shared[k], layer(theta[k], seed=7))
            assert torch.equal(own[k], layer(theta[k], seed=k))
            assert torch.equal(
                slopes[k], eager_gradient(lambda x, layer=layer: layer.max(x, seed=7), theta[k])[0]
            )
    last = vmap(lambda x: layer(x, seed=7), in_dims=-1, out_dims=-1)(theta.movedim(0, -1))
    assert torch.equal(last.movedim(-1, 0), vmap(lambda x: layer(x, seed=7))(theta))


def test_vmap_of_batches_and_of_nothing():
    theta = torch.randn(2, 3, 5)
    layer = dpo.Perturbed(num_samples=64)
    nested = vmap(vmap(lambda x: layer(x, seed=7)))(theta)
    assert torch.equal(nested[1, 2], layer(theta[1, 2], seed=7))
    assert torch.equal(vmap(lambda x: layer(x, seed=7))(theta)[1], layer(theta[1], seed=7))
    estimate = vmap(lambda x: layer.estimate(x, seed=7).standard_error)(theta)
    assert torch.equal(estimate[1], layer.estimate(theta[1], seed=7).standard_error)
    assert layer(torch.zeros(0, 5), seed=7).shape == (0, 5)
    assert grad(lambda x: layer(x, seed=7).sum())(torch.zeros(0, 5)).shape == (0, 5)


def test_vmap_draws_one_seed_or_many_as_torch_is_told():
    theta, layer = torch.zeros(3, 5), dpo.Perturbed(num_samples=64)
    torch.manual_seed(0)
    same = vmap(layer, randomness="same")(theta)
    assert torch.equal(same[0], same[1])
    different = vmap(layer, randomness="different")(theta)
    assert not torch.equal(different[0], different[1])
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(layer)(theta)


@pytest.mark.parametrize("shape", [(), (3,), (3, 1), (6,), (3, 6), (1, 6)])
def test_temperatures_are_differentiated(shape):
    """() and (3,): a number, an instance each; (3, 6): a coordinate each. (6,) does not fit."""
    theta, v = scores(dpo.TopK(2)), scores(dpo.TopK(2), seed=1)
    target = dpo.Perturbed(dpo.TopK(2), num_samples=1)(theta, seed=9)
    epsilon = torch.full(shape, 0.5) + 0.1 * torch.arange(float(np.prod(shape))).reshape(shape)
    for method in ("mc", "exact"):

        def layer(e, method=method):
            return dpo.Perturbed(dpo.TopK(2), epsilon=e, num_samples=64, method=method)

        for f in (
            lambda e, x, layer=layer: (layer(e)(x, seed=7) * v).sum(),
            lambda e, x, layer=layer: layer(e).max(x, seed=7).sum(),
            lambda e, x, layer=layer: layer(e).loss(x, target, seed=7).sum(),
        ):
            if shape == (6,):
                with pytest.raises(ValueError, match="epsilon must be one number, or broadcast"):
                    grad(f)(epsilon, theta)
                continue
            ours, slope = grad(f, argnums=(0, 1))(epsilon, theta)
            expected = eager_gradient(f, epsilon, theta)
            torch.testing.assert_close(ours, expected[0])
            torch.testing.assert_close(slope, expected[1])
            mapped = vmap(grad(f), in_dims=(0, None))(torch.stack([epsilon, 2 * epsilon]), theta)
            torch.testing.assert_close(mapped[1], grad(f)(2 * epsilon, theta))
            along = jvp(lambda e, f=f: f(e, theta), (epsilon,), (torch.ones_like(epsilon),))[1]
            torch.testing.assert_close(along, ours.sum())
            both = (epsilon, theta), (torch.ones_like(epsilon), v)
            torch.testing.assert_close(jvp(f, *both)[1], ours.sum() + (slope * v).sum())
            along = vmap(lambda e, f=f: jvp(lambda e: f(e, theta), (e,), (torch.ones_like(e),))[1])(
                torch.stack([epsilon, 2 * epsilon])
            )
            torch.testing.assert_close(along[1], mapped[1].sum())


@pytest.mark.parametrize("name", ["max", "loss"])
def test_second_derivatives_in_the_temperature_are_never_wrong(name):
    """Along the temperature the slope in theta is that of the value; offsets that are not linear
    in the temperature are not differentiated twice."""
    theta = scores(dpo.Argmax())
    target = torch.full_like(theta, 1 / theta.shape[-1])

    def slope(e, method):
        layer = dpo.Perturbed(epsilon=e, num_samples=64, method=method)
        of = layer.max if name == "max" else lambda x, seed: layer.loss(x, target, seed=seed)
        return grad(lambda x: of(x, seed=7).sum())(theta)

    one = torch.tensor(0.5), torch.tensor(1.0)
    for method in ("mc", "exact"):
        along = jvp(lambda e, method=method: slope(e, method), *[(x,) for x in one])[1]
        expected = jvp(
            lambda e, method=method: dpo.Perturbed(epsilon=e, num_samples=64, method=method)(
                theta, seed=7
            ),
            *[(x,) for x in one],
        )[1]
        torch.testing.assert_close(along, expected)


def test_forward_mode_without_transforms():
    theta, t = scores(dpo.TopK(2)), scores(dpo.TopK(2), seed=1)
    layer = dpo.Perturbed(dpo.TopK(2), num_samples=64)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(theta, t)
        along = torch.autograd.forward_ad.unpack_dual(layer(dual, seed=7)).tangent
    assert torch.equal(along, layer.jvp(theta, t, seed=7))


LARGE = {
    "argmax, outer sums": (dpo.Argmax(), (64, 10), 700),
    "argmax, winners": (dpo.Argmax(), (16, 40), 500),
    "top-k": (dpo.TopK(2), (6, 30), 100),
    "paths": (dpo.ShortestPath(), (3, 5, 6), 40),
    "ranks, only their mean": (dpo.Ranks(), (6, 40), 100),
}


@pytest.mark.parametrize("transformed", ["grad", "vmap", "compile"])
@pytest.mark.parametrize("oracle, shape, num_samples", LARGE.values(), ids=LARGE.keys())
def test_a_value_leaves_what_it_decided(oracle, shape, num_samples, transformed, monkeypatch):
    """Gradients inside programs launch what eager ones do, and are the same bits."""
    theta, v = torch.rand(shape) + 2, torch.randn(shape)
    layer = dpo.Perturbed(oracle, num_samples=num_samples)
    unpacked, calls = Sampler.unpacked, []
    monkeypatch.setattr(Sampler, "unpacked", lambda *x: calls.append(1) or unpacked(*x))
    if transformed == "compile":
        leaf = theta.clone().requires_grad_()
        program, _ = compiled(lambda x: (layer(2 * x, seed=7) * v).sum())
        program(leaf).backward()
        result = leaf.grad
    elif transformed == "grad":
        result = grad(lambda x: (layer(2 * x, seed=7) * v).sum())(theta)
    else:
        f = grad(lambda x, s: (layer(2 * x, seed=s) * v).sum())
        many = torch.stack([theta, theta + 1])
        results = vmap(f)(many, torch.tensor([7, 8]))
        result = results[0]
        assert torch.equal(results[1], 2 * layer.vjp(2 * many[1], v, seed=8))
        assert torch.equal(vmap(f, in_dims=(0, None))(many, torch.tensor(7))[0], result)
    assert calls
    assert torch.equal(result, 2 * layer.vjp(2 * theta, v, seed=7))


# ---------------------------------------------------------------------------------- torch.compile


def compiled(f):
    """Without generating code, which is torch's own and slow; one test below does."""
    counter = CompileCounterWithBackend("aot_eager")
    return torch.compile(f, fullgraph=True, backend=counter), counter


def test_one_graph_with_gradients(oracle):
    theta, v = scores(oracle), scores(oracle, seed=1)
    target = dpo.Perturbed(oracle, num_samples=1)(theta, seed=9)
    layer = dpo.Perturbed(oracle, num_samples=64)
    for f in (
        lambda x: (layer(2 * x, seed=7) * v) ** 2,
        lambda x: layer.max(x, seed=7) * 3,
        lambda x: layer.loss(x, target, seed=7),
    ):
        program, _ = compiled(f)
        assert torch.equal(program(theta), f(theta))
        assert torch.equal(eager_gradient(program, theta)[0], eager_gradient(f, theta)[0])


def test_one_graph_for_every_seed_and_shape():
    layer = dpo.Perturbed(num_samples=64)
    program, counter = compiled(lambda x, seed: layer(x, seed=seed))
    for seed in range(5):
        theta = torch.randn(3, 5)
        assert torch.equal(program(theta, torch.tensor(seed)), layer(theta, seed=seed))
    words = torch.tensor([5, 2**32 - 1])
    assert counter.frame_count == 1
    assert torch.equal(program(theta, words), layer(theta, seed=words.numpy().astype(np.uint32)))
    drawn, counter = compiled(lambda x: layer(x))
    torch.manual_seed(3)
    first, second = drawn(theta), drawn(theta)
    assert not torch.equal(first, second)
    assert counter.frame_count == 1


def test_code_generated_by_inductor_agrees():
    theta, layer = torch.randn(3, 5), dpo.Perturbed(dpo.TopK(2), num_samples=64)

    def f(x):
        return (layer(2 * x, seed=7) * torch.arange(5)) ** 2

    program = torch.compile(f, fullgraph=True)
    torch.testing.assert_close(eager_gradient(program, theta)[0], eager_gradient(f, theta)[0])


def test_layers_and_calls_made_inside():
    theta, target = torch.randn(3, 5), torch.eye(5)[:3]
    for f in (
        lambda x: dpo.perturbed_argmax(x, epsilon=0.3, noise="gumbel", num_samples=64, seed=7),
        lambda x: dpo.perturbed_topk(x, 2, num_samples=64, seed=7, noise=dpo.Logistic()),
        lambda x: dpo.perturbed_ranks(x, method="exact"),
        lambda x: dpo.perturbed_shortest_path(x.abs(), neighbors=4, num_samples=64, seed=7),
        lambda x: dpo.fenchel_young_loss(x, target, num_samples=64, seed=7),
        lambda x: dpo.fenchel_young_loss(x, target, oracle=dpo.TopK(1), num_samples=64, seed=7),
        lambda x: dpo.Perturbed(dpo.TopK(2), num_samples=64)(x, seed=7),
        lambda x: dpo.Perturbed(num_samples=64)(x, seed=7),
        lambda x: dpo.Perturbed(epsilon=x.abs().mean() + 1, num_samples=64)(x, seed=7),
    ):
        program, _ = compiled(f)
        assert torch.equal(program(theta), f(theta))


def test_explicit_derivatives_and_estimates_inside():
    theta, v = torch.randn(3, 5), torch.randn(3, 5)
    layer = dpo.Perturbed(num_samples=64)
    for f in (
        lambda x: layer.vjp(x, v, seed=7),
        lambda x: layer.jvp(x, t=v, seed=7),
        lambda x: layer.jacobian(x, seed=7),
        lambda x: layer.vjp_epsilon(x, v, seed=7),
        lambda x: layer.estimate(x, seed=7).standard_error,
        lambda x: layer.estimate(x, of="max", seed=7).mean,
        lambda x: layer.estimate(x, of="vjp", direction=v, seed=7).mean,
    ):
        program, _ = compiled(f)
        assert torch.equal(program(theta), f(theta))


def test_another_layer_is_another_graph():
    theta = torch.randn(3, 5)
    program, counter = compiled(lambda x, layer: layer(x, seed=7))
    for layer in (
        *(dpo.Perturbed(dpo.TopK(k), num_samples=64) for k in (1, 2, 2)),
        *(dpo.Perturbed(num_samples=m) for m in (50, 70, 70)),
    ):
        assert torch.equal(program(theta, layer), layer(theta, seed=7))
    assert counter.frame_count == 4  # for each k and each number of samples
    annealed, counter = compiled(lambda x, e: dpo.perturbed_argmax(x, epsilon=e, seed=7))
    for epsilon in (0.1, 0.2, 0.3, 0.4):
        expected = dpo.perturbed_argmax(theta, epsilon=epsilon, seed=7)
        assert torch.equal(annealed(theta, torch.tensor(epsilon, dtype=torch.float64)), expected)
    calls = sum("dpo.value" in graph.code for graph in counter.graphs)
    assert calls == 1  # a temperature that is a tensor


@pytest.mark.parametrize("dynamic", [None, True])
def test_another_number_as_temperature_is_another_program(dynamic):
    theta = torch.randn(3, 5)
    f = torch.compile(
        lambda x, e: dpo.perturbed_argmax(x, epsilon=e, num_samples=64, seed=7),
        fullgraph=True, dynamic=dynamic, backend="eager",
    )  # fmt: skip
    for epsilon in (0.5, 0.4, 0.3):
        expected = dpo.perturbed_argmax(theta, epsilon=epsilon, num_samples=64, seed=7)
        assert torch.equal(f(theta, epsilon), expected)


@pytest.mark.parametrize(
    "layer",
    [
        dpo.Perturbed(solvers.assignment, num_samples=32),
        dpo.Perturbed(solvers.spanning_tree(ends=[[0, 1], [1, 2], [0, 2]]), num_samples=32),
        dpo.Perturbed(dpo.TopK(2), noise=dpo.StudentT(5), num_samples=32),
    ],
    ids=["assignment", "spanning tree", "tabulated noise"],
)
def test_oracles_and_noise_of_ones_own(layer):
    theta = torch.rand((2, 3, 3) if layer.oracle.event_ndim == 2 else (2, 3))
    v = torch.randn_like(theta)

    def f(x):
        return (layer(x, seed=7) * v).sum() + layer.max(x, seed=8).sum()

    (expected,) = eager_gradient(f, theta)
    torch.testing.assert_close(grad(f)(theta), expected)
    program, _ = compiled(f)
    torch.testing.assert_close(eager_gradient(program, theta)[0], expected)
    rows = vmap(lambda x: layer(x, seed=7))(theta)
    assert torch.equal(rows[0], layer(theta[0], seed=7))


def test_layers_that_look_alike_are_kept_apart():
    few, many = (
        dpo.Perturbed(solvers.knapsack(weights=w, capacity=3), epsilon=0.1, num_samples=8)
        for w in ([1, 1, 1, 9], [9, 9, 9, 1])
    )
    assert repr(few) == repr(many) and few != many
    theta = torch.ones(2, 4)
    for layer in (few, many, few):

        def f(x, layer=layer):
            return layer(x, seed=0)

        assert torch.equal(vmap(f)(theta)[0], f(theta[0]))
        assert torch.equal(compiled(f)[0](theta), f(theta))


@pytest.mark.parametrize(
    "given, message",
    [
        (dict(seed=torch.tensor(0.7)), "seed must be an int, two uint32 words"),
        (dict(seed=torch.tensor([1, 2, 3])), "seed must be an int, two uint32 words"),
        (dict(seed=True), "seed must be an integer"),
        (dict(seed=-1), r"seed must be in 0 \.\. 2\*\*64 - 1, got -1"),
        (dict(seed=0, row_offset=1.7), "row_offset must be an integer"),
        (dict(seed=0, sample_offset=True), "sample_offset must be an integer"),
        (dict(seed=0, y_true=torch.tensor(1)), "of class labels pass one-hot rows"),
    ],
)
def test_what_is_wrong_outside_programs_is_wrong_inside(given, message):
    layer, theta = dpo.Perturbed(num_samples=8), torch.randn(2, 3)
    targets = [given.pop("y_true")] if "y_true" in given else []
    f = layer.loss if targets else layer
    with pytest.raises((TypeError, ValueError), match=message):
        f(theta, *targets, **given)
    with pytest.raises((TypeError, ValueError), match=message):
        vmap(lambda x: f(x, *targets, **given))(theta)


def test_programs_and_eager_calls_have_the_same_defaults():
    from dpo._torch_operators import _known

    defaults = {f.name: f.default for f in dataclasses.fields(dpo.Perturbed)}
    for name, parameter in inspect.signature(_known).parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            assert parameter.default == defaults[name], name


def test_a_learned_temperature_inside():
    theta, v = torch.randn(3, 5), torch.randn(3, 5)

    def f(x, log_epsilon):
        return dpo.perturbed_argmax(x, epsilon=log_epsilon.exp(), num_samples=64, seed=7) * v

    program, _ = compiled(f)
    for ours, expected in zip(
        eager_gradient(program, theta, torch.tensor(-0.5)),
        eager_gradient(f, theta, torch.tensor(-0.5)),
        strict=True,
    ):
        torch.testing.assert_close(ours, expected)


def test_operators_pass_torchs_own_checks():
    theta = torch.randn(3, 5, requires_grad=True)
    epsilon = torch.tensor(0.5, requires_grad=True)
    grad(lambda x: dpo.Perturbed(epsilon=epsilon, num_samples=8)(x, seed=1).sum())(theta.detach())
    from dpo import _torch_layers

    name = repr(dpo.Perturbed(epsilon=1.0, num_samples=8))
    seed, v = torch.tensor([1, 0, 0, 0]), torch.randn(3, 5)
    where, ops = (name, 2), torch.ops.dpo
    given = (theta, epsilon, seed)
    for call, arguments in (
        (ops.value, (*given, *where, True)),
        (ops.maximum, (theta, None, seed, torch.eye(5)[:3], *where, True)),
        (ops.product, (theta, None, seed, v, None, *where, "value")),
        (ops.adjoint, (theta, None, seed, v, None, *where, "value")),
        (ops.value_in_epsilon, (theta.detach(), epsilon.detach(), seed, v, v, None, *where)),
        (ops.value_along_epsilon, (theta.detach(), epsilon, seed, epsilon, *where, "value")),
        (ops.explicit, (theta.detach(), None, seed, v, None, *where, "vjp", "value")),
    ):
        tests = ["test_schema", "test_faketensor", "test_autograd_registration"]
        if call in (ops.value, ops.maximum):
            tests.append("test_aot_dispatch_dynamic")
        torch.library.opcheck(call.default, arguments, test_utils=tests)
    assert name in _torch_layers.LAYERS


def test_errors_inside_programs_are_the_same():
    layer = dpo.Perturbed(dpo.TopK(7), num_samples=8)
    program, _ = compiled(lambda x: layer(x, seed=1))
    with pytest.raises(ValueError, match=r"k must be in 1\.\.5"):
        program(torch.zeros(3, 5))
    with pytest.raises(ValueError, match=r"theta contains NaN, first at index \(1, "):
        compiled(lambda x: dpo.perturbed_argmax(x, seed=1))[0](
            torch.tensor([[0.0, 1.0], [0.0, float("nan")]])
        )
    with pytest.raises(NotImplementedError, match="samples is not available inside"):
        vmap(lambda x: dpo.Perturbed(num_samples=8).samples(x, seed=1))(torch.zeros(3, 5))
    with pytest.raises(TypeError, match="y_true requires a gradient"):
        grad(lambda y: dpo.fenchel_young_loss(torch.zeros(2, 2), y, seed=1).sum())(torch.eye(2))
