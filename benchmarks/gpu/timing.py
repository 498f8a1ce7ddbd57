"""Times on one GPU by CUDA events, with a cold L2 cache: ours and what users write today.

The work is a perturbed argmax of float32 scores (B, d) with M normal samples: its value, or value
and VJP; for ranks, the value. Peers materialise M x B x d noise; one that runs out of memory says
so in its row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from dpo.kernels.codes import MAXIMUM, VALUE, VJP, Draws, Problem
from dpo.kernels.cuda import launch as cuda

from .devices import Machine, Step

EPSILON = 0.5
LITTLE = 0.05
"""What is timed of warm starts, which are for little noise."""
ARGMAX = [(128, 10, 1000), (128, 1000, 1000), (4, 32000, 64)]
RANKS = (128, 100, 1000)
TINY = [(2, 10, 32)]
EVERY = slice(None)
"""Of the cases."""

Steps = dict[str, Step]
Peak = Callable[[Step], int | None]


def measured(
    machine: Machine, oracle: str, shape: tuple[int, int, int], name: str, steps: Steps, peak: Peak
) -> Iterator[dict[str, Any]]:
    """A row for each step; a failure, most often of memory, is a row too."""
    rows, d, num_samples = shape
    for work, step in steps.items():
        row: dict[str, Any] = {
            "work": f"{oracle} {work} B={rows} d={d} M={num_samples}",
            "contender": name,
            "coordinates": rows * d * num_samples,
            "problems": rows * num_samples,
        }
        try:
            row["peak_bytes"] = peak(step)
            row["milliseconds"] = machine.milliseconds(step)
        except Exception as error:  # the next step may fit
            row["error"] = f"{type(error).__name__}: {error}"[:300]
        yield row


def scores(machine: Machine, rows: int, d: int) -> Any:
    theta = np.random.default_rng(0).uniform(0.5, 2, (rows, d)).astype(np.float32)
    return machine.xp.asarray(theta)


# -------------------------------------------------------------------------------------------- ours


def our_steps(
    machine: Machine, problem: Problem, theta: Any, num_samples: int, precision: str
) -> Steps:
    """Kernel launches as the API makes them."""
    xp, device = machine.xp, machine.kernels
    v, epsilon = xp.ones_like(theta), xp.full((len(theta), 1), EPSILON, theta.dtype)

    def launch(seed: int, operation: int, **parameters: Any) -> Any:
        draws = Draws(0, (seed, 0), num_samples)
        given = problem, theta, epsilon, draws, operation
        return cuda.launch(*given, precision=precision, device=device, **parameters)

    def both(seed: int) -> Any:
        memo = cuda.new_memo(problem, theta, epsilon, Draws(0, (seed, 0), num_samples), device)
        value = launch(seed, VALUE, memo=memo).counts[:, 0] / num_samples
        return launch(seed, VJP, direction=v, mean=value.astype(theta.dtype), memo=memo).totals

    return {
        "value": lambda seed: launch(seed, VALUE),
        "value and vjp": both,
        "maximum": lambda seed: launch(seed, MAXIMUM),
    }


def paths(rows: int, side: int) -> Problem:
    """From corner to corner, eight neighbours."""
    places = np.tile([0, side * side - 1], (rows, 1))
    return Problem("grid_path", (side, side, 8, 0), places, minimises=True)


def our_cases(tiny: bool) -> Iterator[tuple[str, Problem, tuple[int, int, int]]]:
    for shape in TINY if tiny else ARGMAX:
        yield "argmax", Problem(), shape
    if tiny:
        yield "paths 4x4", paths(2, 4), (2, 16, 32)
        return
    yield "ranks", Problem("ranks"), (128, 10, 1000)
    yield "ranks", Problem("ranks"), RANKS
    yield "ranks", Problem("ranks"), (128, 1000, 100)
    yield "ranks", Problem("ranks"), (16, 8000, 16)
    yield "top-10", Problem("topk", (10,)), (128, 1000, 100)
    yield "paths 12x12", paths(128, 12), (128, 144, 1000)
    yield "paths 30x30", paths(128, 30), (128, 900, 100)
    yield "paths 64x64", paths(16, 64), (16, 4096, 32)


def ours(machine: Machine, tiny: bool) -> Iterator[dict[str, Any]]:
    for k in range(len(list(our_cases(tiny)))):
        yield from our_rows(machine, tiny, k)
    if not tiny:
        yield from layers(machine)


def our_rows(machine: Machine, tiny: bool, k: int) -> Iterator[dict[str, Any]]:
    """Of one case."""
    oracle, problem, shape = list(our_cases(tiny))[k]
    theta = scores(machine, *shape[:2])
    for precision in ("fast", "portable"):
        steps = our_steps(machine, problem, theta, shape[2], precision)
        name = f"dpo {precision}"
        yield from measured(machine, oracle, shape, name, steps, machine.peak_bytes)
    if problem.oracle == "grid_path":
        yield from warm_starts(machine, oracle, problem, theta, shape)


def layers(machine: Machine, compiled: bool = False) -> Iterator[dict[str, Any]]:
    """Torch's: forward and backward, with all that the API does around the kernels."""
    import torch

    import dpo

    checked = {"torch layer": True, "torch layer, no checks": False}
    if compiled:
        checked = {"torch.compile of a layer": True}
    for rows, d, num_samples in ARGMAX:
        theta = torch.from_dlpack(scores(machine, rows, d)).clone().requires_grad_()
        v = torch.ones_like(theta)
        layer = dpo.Perturbed(epsilon=EPSILON, num_samples=num_samples)

        def value(x: Any, seed: Any, layer: Any = layer) -> Any:
            return layer(x, seed=seed)

        program = torch.compile(value, fullgraph=True) if compiled else value

        def both(seed: int, program: Any = program, theta: Any = theta, v: Any = v) -> Any:
            words = torch.tensor([seed, 0]) if compiled else seed
            return torch.autograd.grad(program(theta, words), theta, v)

        steps, shape = {"value and vjp": both}, (rows, d, num_samples)
        for name, checks in checked.items():
            dpo.set_device_checks(checks)
            contender = f"dpo portable, {name}"
            yield from measured(machine, "argmax", shape, contender, steps, machine.peak_bytes)
        dpo.set_device_checks(True)


def warm_starts(
    machine: Machine, oracle: str, problem: Problem, theta: Any, shape: tuple[int, int, int]
) -> Iterator[dict[str, Any]]:
    """Paths of little noise, relaxed from the tree of the row's own and not."""
    epsilon = machine.xp.full((len(theta), 1), LITTLE, theta.dtype)
    for name, warm in [("dpo warm", True), ("dpo cold", False)]:
        plan = cuda.Plan(256, 1, warm_start=warm)

        def value(seed: int, plan: cuda.Plan = plan) -> Any:
            given = problem, theta, epsilon, Draws(0, (seed, 0), shape[2])
            return cuda.launch(*given, plan=plan, device=machine.kernels)

        work = {f"value, epsilon {LITTLE}": value}
        yield from measured(machine, oracle, shape, name, work, machine.peak_bytes)


# ------------------------------------------------------------------------------------------- peers


def torch_value(theta: Any, z: Any) -> tuple[Any, Any]:
    """What every sample decides, (M, B), and the mean solution: the usual lines of torch."""
    import torch

    winners = (theta + EPSILON * z).argmax(-1)
    ones = torch.ones_like(winners, dtype=theta.dtype)
    return winners, torch.zeros_like(theta).scatter_add_(1, winners.T, ones.T) / len(z)


def torch_vjp(v: Any, z: Any, winners: Any, mean: Any) -> Any:
    """The same for the product with the Jacobian, one sample left out."""
    import torch

    weights = v.gather(1, winners.T) - (v * mean).sum(1, keepdim=True)
    return torch.einsum("bm,mbd->bd", weights, z) / ((len(z) - 1) * EPSILON)


def torch_steps(theta: Any, num_samples: int, compiled: bool) -> Steps:
    """Without autograd."""
    import torch

    v = torch.ones_like(theta)

    def noise() -> Any:
        return torch.randn(num_samples, *theta.shape, device=theta.device)

    def value() -> Any:
        return torch_value(theta, noise())[1]

    def both() -> Any:
        z = noise()
        winners, mean = torch_value(theta, z)
        return mean, torch_vjp(v, z, winners, mean)

    def ranks() -> Any:
        order = (theta + EPSILON * noise()).argsort(-1).argsort(-1)
        return (order + 1).to(theta.dtype).mean(0)

    made = {"value": value, "value and vjp": both, "ranks": ranks}
    if compiled:
        made = {name: torch.compile(step) for name, step in made.items()}
    return {name: lambda seed, step=step: step() for name, step in made.items()}


def torch_function_steps(theta: Any, num_samples: int) -> Steps:
    """As a layer that autograd knows."""
    import torch

    class PerturbedArgmax(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, theta: Any) -> Any:
            z = torch.randn(num_samples, *theta.shape, device=theta.device)
            winners, mean = torch_value(theta, z)
            ctx.save_for_backward(z, winners, mean)
            return mean

        @staticmethod
        def backward(ctx: Any, v: Any) -> Any:
            return torch_vjp(v, *ctx.saved_tensors)

    leaf, v = theta.requires_grad_(), torch.ones_like(theta)
    return {"value and vjp": lambda seed: torch.autograd.grad(PerturbedArgmax.apply(leaf), leaf, v)}


def torch_rows(
    machine: Machine, tiny: bool, compiled: bool = False, cases: slice = EVERY
) -> Iterator[dict[str, Any]]:
    import torch

    def peak(step: Step) -> int | None:
        if tiny:
            return None
        step(0)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(0)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    if compiled and not tiny and cases == EVERY:
        yield from layers(machine, compiled=True)
    yield from peer_rows(
        machine, tiny, "torch.compile" if compiled else "torch eager",
        lambda theta, m: torch_steps(torch.from_dlpack(theta).clone(), m, compiled), peak, cases,
    )  # fmt: skip
    for shape in [] if tiny or compiled else ARGMAX:
        theta = torch.from_dlpack(scores(machine, *shape[:2])).clone()
        steps = torch_function_steps(theta, shape[2])
        yield from measured(machine, "argmax", shape, "torch eager, autograd", steps, peak)


def jax_steps(theta: Any, num_samples: int) -> Steps:
    """The same under jit; waits for the result, since events are another stream's."""
    import jax
    import jax.numpy as jnp

    v = jnp.ones_like(theta)

    def decide(seed: Any) -> Any:
        z = jax.random.normal(jax.random.key(seed), (num_samples, *theta.shape))
        winners = (theta + EPSILON * z).argmax(-1)
        return z, winners, jax.nn.one_hot(winners, theta.shape[1]).mean(0)

    def both(seed: Any) -> Any:
        z, winners, value = decide(seed)
        weights = jnp.take_along_axis(v, winners.T, 1) - (v * value).sum(1, keepdims=True)
        return value, jnp.einsum("bm,mbd->bd", weights, z) / ((num_samples - 1) * EPSILON)

    def ranks(seed: Any) -> Any:
        z = jax.random.normal(jax.random.key(seed), (num_samples, *theta.shape))
        return (theta + EPSILON * z).argsort(-1).argsort(-1).mean(0) + 1

    made = {"value": lambda seed: decide(seed)[2], "value and vjp": both, "ranks": ranks}
    made = {name: jax.jit(step) for name, step in made.items()}
    return {
        name: lambda seed, step=step: jax.block_until_ready(step(seed))
        for name, step in made.items()
    }


def jax_layer_steps(theta: Any, num_samples: int) -> Steps:
    """Ours inside a program of JAX."""
    import jax

    import dpo

    layer = dpo.Perturbed(epsilon=EPSILON, num_samples=num_samples)
    v = jax.numpy.ones_like(theta)

    def both(words: Any) -> Any:
        value, pull = jax.vjp(lambda x: layer(x, seed=words), theta)
        return value, pull(v)[0]

    program = jax.jit(both)
    return {
        "value and vjp": lambda seed: jax.block_until_ready(program(np.array([seed, 0], np.uint32)))
    }


def jax_rows(machine: Machine, tiny: bool) -> Iterator[dict[str, Any]]:
    import jax

    def peak(step: Step) -> int | None:
        """The process's peak so far: sizes rise."""
        step(0)
        found = jax.devices()[0].memory_stats()
        return found["peak_bytes_in_use"] if found else None

    def steps(theta: Any, num_samples: int) -> Steps:
        host = theta if isinstance(theta, np.ndarray) else theta.get()
        return jax_steps(jax.numpy.asarray(host), num_samples)

    yield from peer_rows(machine, tiny, "jax jit", steps, peak)
    for shape in [] if tiny else ARGMAX:
        theta = jax.numpy.asarray(scores(machine, *shape[:2]).get())
        steps_of_ours = jax_layer_steps(theta, shape[2])
        name = "dpo portable, jax jit"
        yield from measured(machine, "argmax", shape, name, steps_of_ours, peak)


def peer_cases(tiny: bool) -> list[tuple[str, tuple[int, int, int], dict[str, str]]]:
    """Oracle, shape, and which of a peer's steps are what work."""
    both = {work: work for work in ("value", "value and vjp")}
    ranks = "ranks", TINY[0] if tiny else RANKS, {"value": "ranks"}
    return [*(("argmax", shape, both) for shape in (TINY if tiny else ARGMAX)), ranks]


def peer_rows(
    machine: Machine, tiny: bool, name: str, make: Callable[[Any, int], Steps], peak: Peak,
    cases: slice = EVERY,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """One contender has the process for itself."""
    for oracle, shape, works in peer_cases(tiny)[cases]:
        found = make(scores(machine, *shape[:2]), shape[2])
        steps = {work: found[step] for work, step in works.items()}
        yield from measured(machine, oracle, shape, name, steps, peak)
