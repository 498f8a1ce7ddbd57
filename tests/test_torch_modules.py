"""``dpo.torch``: modules whose noise resumes, in training loops as people write them."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

import dpo

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from dpo.torch import (  # noqa: E402
    FenchelYoungLoss,
    Perturbed,
    PerturbedArgmax,
    PerturbedRanks,
    PerturbedShortestPath,
    PerturbedTopK,
)

THETA = torch.linspace(0.1, 1.5, 15).reshape(3, 5)


def test_modules_are_layers():
    for module, oracle in (
        (PerturbedArgmax(num_samples=32, seed=5), dpo.Argmax()),
        (PerturbedTopK(2, num_samples=32, seed=5), dpo.TopK(2)),
        (PerturbedRanks(num_samples=32, seed=5), dpo.Ranks()),
        (PerturbedShortestPath(neighbors=4, num_samples=32, seed=5), dpo.ShortestPath(4)),
        (Perturbed(dpo.TopK(2), noise="gumbel", num_samples=32, seed=5), None),
    ):
        layer = module.layer if oracle is None else dpo.Perturbed(oracle, num_samples=32)
        assert torch.equal(module(THETA), layer(THETA, seed=5))
        assert torch.equal(module.max(THETA), layer.max(THETA, seed=(5, 1)))
        y_true = layer.samples(THETA, seed=1)[0]
        assert torch.equal(module.loss(THETA, y_true), layer.loss(THETA, y_true, seed=(5, 2)))


def test_the_layer_of_a_module_has_its_temperature():
    scores = 3 * THETA
    fixed = PerturbedTopK(2, num_samples=64, epsilon=0.05)
    for module in (
        fixed,
        PerturbedTopK(2, num_samples=64, epsilon=torch.tensor(0.05)),
        PerturbedTopK(2, num_samples=64, epsilon=0.05, learn_epsilon=True),
    ):
        mean, error, _ = module.layer.estimate(scores, seed=3)
        torch.testing.assert_close(mean, fixed.layer(scores, seed=3))
        assert float(torch.as_tensor(module.layer.epsilon).detach()) == pytest.approx(0.05)
        assert error.max() >= 0


def test_temperatures_are_annealed():
    for module in (
        PerturbedTopK(2, num_samples=64, epsilon=0.5, seed=1),
        PerturbedTopK(2, num_samples=64, epsilon=torch.tensor(0.5), seed=1),
        PerturbedTopK(2, num_samples=64, epsilon=0.5, learn_epsilon=True, seed=1),
    ):
        parameters = list(module.parameters())
        for k, epsilon in enumerate((0.4, 0.2)):
            module.epsilon = epsilon
            expected = dpo.Perturbed(dpo.TopK(2), num_samples=64, epsilon=epsilon)
            torch.testing.assert_close(module(THETA), expected(THETA, seed=(1, k)))
        assert all(a is b for a, b in zip(parameters, module.parameters(), strict=True))
        with pytest.raises(ValueError, match="epsilon must be positive"):
            module.epsilon = -1.0


def test_wrong_temperatures_are_refused_where_they_are_given():
    with pytest.raises(ValueError, match="makes a parameter of its own"):
        PerturbedArgmax(epsilon=nn.Parameter(torch.tensor(0.5)), learn_epsilon=True)
    with pytest.raises(ValueError, match=r"epsilon must be positive and finite, got -1\.0"):
        PerturbedArgmax(epsilon=torch.tensor(-1.0), learn_epsilon=True)
    module = PerturbedArgmax(epsilon=0.5)
    with pytest.raises(TypeError, match="make the module with a tensor"):
        module.epsilon = torch.tensor(0.3)


def test_torch_func_leaves_a_module_as_it_was():
    module, state = PerturbedTopK(2, num_samples=64, seed=1), {}
    torch.func.grad(lambda x: (module(x) ** 2).sum())(THETA)
    torch.func.vmap(lambda x: module(x))(THETA)
    state = pickle.loads(pickle.dumps(module.state_dict()))
    copied = copy.deepcopy(module)
    copied.load_state_dict(state)
    assert torch.equal(module(THETA), copied(THETA))
    assert torch.equal(copied(THETA), module.layer(THETA, seed=(1, 3)))


def test_threads_never_share_a_module_s_noise():
    module = PerturbedTopK(2, num_samples=8, seed=1)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: module(THETA), range(200)))
    assert module.get_extra_state().tolist() == [1, 0, 200]


def test_noise_is_fresh_distinct_and_resumes():
    model = nn.Sequential(PerturbedTopK(2, num_samples=64), PerturbedArgmax(num_samples=64))
    first = model(THETA)
    assert not torch.equal(first, model(THETA))
    assert not torch.equal(PerturbedTopK(2)(THETA), PerturbedTopK(2)(THETA))
    state = pickle.loads(pickle.dumps(model.state_dict()))
    ahead = [model(THETA) for _ in range(3)]
    resumed = nn.Sequential(PerturbedTopK(2, num_samples=64), PerturbedArgmax(num_samples=64))
    resumed.load_state_dict(state)
    assert all(torch.equal(resumed(THETA), y) for y in ahead)
    torch.manual_seed(0)
    once = PerturbedTopK(2)(THETA)
    torch.manual_seed(0)
    assert torch.equal(once, PerturbedTopK(2)(THETA))


def test_copies_go_on_alike():
    model = PerturbedTopK(2, num_samples=64, learn_epsilon=True)
    model(THETA)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    expected = model(THETA)
    assert all(torch.equal(twin(THETA), expected) for twin in copies)


@pytest.mark.parametrize("given", ["number", "tensor", "parameter", "learned"])
def test_temperatures(given):
    epsilon = {
        "number": 0.3,
        "tensor": torch.tensor([0.2, 0.3, 0.4]),
        "parameter": nn.Parameter(torch.tensor(0.3)),
        "learned": 0.3,
    }[given]
    module = PerturbedArgmax(
        epsilon=epsilon, num_samples=64, seed=5, learn_epsilon=given == "learned"
    )
    layer = dpo.Perturbed(epsilon=epsilon, num_samples=64)
    torch.testing.assert_close(module(THETA), layer(THETA, seed=5))
    names = {name for name, _ in module.named_parameters()}
    assert names == {"parameter": {"_epsilon"}, "learned": {"log_epsilon"}}.get(given, set())
    for parameter in module.parameters():
        module.max(THETA).sum().backward()
        assert float(parameter.grad) != 0
    assert ("_epsilon" in module.state_dict()) == (given in ("tensor", "parameter"))


def classified(compile_model: bool, seed: int = 0):
    """Loss and accuracy of a small classifier, trained through a perturbed top-1."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(256, 8, generator=generator)
    labels = (x @ torch.randn(8, 4, generator=generator)).argmax(1)
    target = nn.functional.one_hot(labels, 4).float()
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    loss = FenchelYoungLoss(dpo.TopK(1), num_samples=32, learn_epsilon=True, seed=1)
    optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters()], lr=0.02)

    def step(x, target):
        return loss(model(x), target)

    program = torch.compile(step, fullgraph=True, backend="aot_eager") if compile_model else step
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        value = program(x, target)
        value.backward()
        optimizer.step()
        losses.append(float(value))
    return losses, float((model(x).argmax(1) == labels).float().mean())


def test_training_inside_compile_converges_as_eager_does():
    eager, accuracy = classified(compile_model=False)
    compiled, same = classified(compile_model=True)
    assert accuracy > 0.9
    assert same == accuracy
    torch.testing.assert_close(torch.tensor(compiled), torch.tensor(eager), rtol=1e-4, atol=1e-5)


def test_autocast_and_half_precision():
    module, linear = PerturbedTopK(2, num_samples=64, seed=5), nn.Linear(5, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(linear(THETA))
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert linear.weight.grad.dtype == torch.float32
    assert linear.weight.grad.abs().sum() > 0


def test_readable_and_refusing():
    shown = repr(PerturbedTopK(2, learn_epsilon=True))
    assert "TopK(k=2)" in shown and "learn_epsilon=True" in shown
    with pytest.raises(ValueError, match="reduction must be 'mean', 'sum' or 'none', got 'max'"):
        FenchelYoungLoss(reduction="max")
    with pytest.raises(ValueError, match="epsilon must be positive"):
        PerturbedArgmax(epsilon=-1.0)
    with pytest.raises(TypeError, match="numpy array"):
        PerturbedArgmax(epsilon=torch.tensor(0.5))(THETA.numpy())
