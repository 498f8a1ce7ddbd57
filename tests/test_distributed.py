"""Processes that share out a batch, or the samples, reproduce what one process does."""

from __future__ import annotations

import numpy as np
import pytest

import dpo

torch = pytest.importorskip("torch")
if not torch.distributed.is_available():
    pytest.skip("torch is built without torch.distributed", allow_module_level=True)

ORACLES = {"argmax": dpo.Argmax(), "topk": dpo.TopK(3), "ranks": dpo.Ranks()}
SEED, WORLD = 7, 2


def problem(d):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, d, generator=generator), torch.randn(5, d, generator=generator)


class Model(torch.nn.Module):
    """A layer after weights that are learned."""

    def __init__(self):
        from dpo.torch import PerturbedArgmax

        super().__init__()
        self.linear = torch.nn.Linear(8, 4)
        self.choose = PerturbedArgmax(num_samples=50, seed=SEED)

    def forward(self, x, first_row):
        return self.choose(self.linear(x), row_offset=first_row)


def model():
    torch.manual_seed(0)
    return Model()


def single(layer, theta, v):
    theta = theta.clone().requires_grad_()
    y = layer(theta, seed=SEED)
    (y * v).sum().backward()
    return y.detach(), theta.grad


def shares(results):
    """What each process computes: samples shared out, and rows shared out under DDP."""
    from torch.nn.parallel import DistributedDataParallel

    from dpo.distributed import row_offset, sharded

    rank = torch.distributed.get_rank()
    for name, oracle in ORACLES.items():
        for d in (6, 40):  # derivatives by one outer product, or by a pass of their own
            for m in (1, 101, 600):
                for centring in ("loo", "none"):
                    layer = dpo.Perturbed(oracle, num_samples=m, variance_reduction=centring)
                    theta, v = problem(d)
                    if m < WORLD:
                        with pytest.raises(ValueError, match="at least the number of processes"):
                            sharded(layer, theta, seed=SEED)
                        continue
                    theta.requires_grad_()
                    y = sharded(layer, theta, seed=SEED)
                    (y * v).sum().backward()
                    results[rank, name, d, m, centring] = y.detach(), theta.grad
    layer = dpo.Perturbed(dpo.TopK(3), num_samples=100)
    theta, v = problem(8)
    mine = slice(0, 2) if rank == 0 else slice(2, 5)  # of unequal sizes
    offset = row_offset(mine.stop - mine.start)
    results[rank, "rows"] = layer(theta[mine], seed=SEED, row_offset=offset)
    parallel = DistributedDataParallel(model())
    for step in range(3):
        x, v = (a[2 * rank : 2 * rank + 2] for a in problem(8))
        y = parallel(x, 2 * rank)
        parallel.zero_grad()
        (y * v[:, :4]).sum(1).mean().backward()
        results[rank, "steps", step] = y.detach(), parallel.module.linear.weight.grad.clone()
    with pytest.raises(ValueError, match="sharded samples are independent"):
        sharded(dpo.Perturbed(variance_reduction="qmc"), theta, seed=SEED)
    with pytest.raises(ValueError, match="sharded has no gradient in epsilon"):
        sharded(dpo.Perturbed(epsilon=torch.tensor(0.5, requires_grad=True)), theta, seed=SEED)


def process(rank, folder):
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", WORLD)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=WORLD)
    results = {}
    shares(results)
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(process, (str(folder),), nprocs=WORLD)
    return {k: v for rank in range(WORLD) for k, v in torch.load(f"{folder}/{rank}.pt").items()}


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("centring", ["loo", "none"])
def test_samples_shared_out(results, name, centring):
    for d in (6, 40):
        for m in (101, 600):
            layer = dpo.Perturbed(ORACLES[name], num_samples=m, variance_reduction=centring)
            value, slope = single(layer, *problem(d))
            for rank in range(WORLD):
                ours, gradient = results[rank, name, d, m, centring]
                assert torch.equal(ours, value)
                torch.testing.assert_close(gradient, slope, rtol=2e-5, atol=2e-6)


def test_rows_shared_out(results):
    layer = dpo.Perturbed(dpo.TopK(3), num_samples=100)
    theta, _ = problem(8)
    together = torch.cat([results[rank, "rows"] for rank in range(WORLD)])
    assert torch.equal(together, layer(theta, seed=SEED))


def test_modules_under_ddp_do_what_one_process_does(results):
    alone, (x, v) = model(), problem(8)
    for step in range(3):
        y = alone(x[:4], 0)
        alone.zero_grad()
        (y * v[:4, :4]).sum(1).mean().backward()
        assert torch.equal(torch.cat([results[rank, "steps", step][0] for rank in range(WORLD)]), y)
        for rank in range(WORLD):
            gradient = results[rank, "steps", step][1]
            torch.testing.assert_close(gradient, alone.linear.weight.grad)


def test_offsets_are_places_in_a_larger_call():
    theta = problem(10)[0].numpy()
    for reduction, parts in (("loo", (30, 70)), ("none", (1, 99)), ("antithetic", (40, 60))):
        whole = dpo.Perturbed(dpo.Ranks(), num_samples=100, variance_reduction=reduction)
        solutions = whole.samples(theta, seed=SEED)
        first = 0
        for m in parts:
            share = dpo.Perturbed(dpo.Ranks(), num_samples=m, variance_reduction=reduction)
            ours = share.samples(theta, seed=SEED, sample_offset=first)
            np.testing.assert_array_equal(ours, solutions[first : first + m])
            first += m
    np.testing.assert_array_equal(whole(theta[2:], seed=1, row_offset=2), whole(theta, seed=1)[2:])
    for bad, message in (
        ({"row_offset": -1}, "row_offset must be in 0"),
        ({"row_offset": 0.5}, "row_offset must be an integer"),
        ({"sample_offset": 3}, "sample_offset must be even for antithetic"),
        ({"sample_offset": 2**32 - 50}, r"must be at most 2\*\*32"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            whole(theta, seed=1, **bad)
    with pytest.raises(ValueError, match="sample_offset is for a fixed num_samples"):
        dpo.Perturbed(variance_reduction="qmc")(theta, seed=1, sample_offset=8)
