"""Times on one GPU by CUDA events, with a cold L2 cache: ours and what users write today.

The work is a perturbed argmax of float32 scores (B, d) with M normal samples: its value, or value
and VJP. Peers materialise M x B x d noise; a peer that runs out of memory is left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from dpo.kernels.codes import MAXIMUM, VALUE, VJP, Draws, Problem
from dpo.kernels.cuda import launch as cuda

EPSILON = 0.5
ROUNDS = 15
L2_BYTES = 2**28
"""More than any L2 cache holds; written before each timing."""

SIZES = [(128, 10, 1000), (128, 1000, 1000), (4, 32000, 64)]
Steps = dict[str, Callable[[int], object]]


class Time(NamedTuple):
    """One contender on one workload."""

    work: str
    contender: str
    milliseconds: float
    per_second: float
    """Perturbed coordinates, or solved problems."""
    peak_mb: float
    """Device memory that one call takes beyond its inputs."""


def milliseconds(step: Callable[[int], object]) -> float:
    """The median of some calls, after two that warm up."""
    import cupy

    flush = cupy.empty(L2_BYTES, np.uint8)
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    times = []
    for seed in range(ROUNDS + 2):
        flush.fill(seed)
        cupy.cuda.Device().synchronize()
        start.record()
        step(seed)
        end.record()
        end.synchronize()
        times.append(cupy.cuda.get_elapsed_time(start, end))
    return statistics.median(times[2:])


def our_steps(problem: Problem, theta, num_samples: int, precision: str) -> Steps:
    """Kernel launches as the API makes them."""
    import cupy

    v, epsilon = cupy.ones_like(theta), cupy.full((len(theta), 1), EPSILON, theta.dtype)

    def launch(seed, operation, **parameters):
        draws = Draws(0, (seed, 0), num_samples)
        return cuda.launch(
            problem, theta, epsilon, draws, operation, precision=precision, **parameters
        )

    def both(seed):
        memo = cuda.new_memo(problem, theta, epsilon, Draws(0, (seed, 0), num_samples))
        value = launch(seed, VALUE, memo=memo).counts[:, 0] / num_samples
        return launch(seed, VJP, direction=v, mean=value.astype(theta.dtype), memo=memo).totals

    return {"value": lambda seed: launch(seed, VALUE), "value and vjp": both,
            "maximum": lambda seed: launch(seed, MAXIMUM)}  # fmt: skip


def torch_steps(theta, num_samples: int, compiled: bool) -> Steps:
    """The usual lines of torch, on torch's own copy of the scores."""
    import torch

    theta = torch.from_dlpack(theta).clone()
    v = torch.ones_like(theta)

    def decide(theta):
        z = torch.randn(num_samples, *theta.shape, device=theta.device)
        winners = (theta + EPSILON * z).argmax(-1)
        ones = torch.ones_like(winners, dtype=theta.dtype)
        value = torch.zeros_like(theta).scatter_add_(1, winners.T, ones.T) / num_samples
        return z, winners, value

    def both(theta, v):
        z, winners, value = decide(theta)
        weights = v.gather(1, winners.T) - (v * value).sum(1, keepdim=True)
        return value, torch.einsum("bm,mbd->bd", weights, z) / ((num_samples - 1) * EPSILON)

    value = lambda theta: decide(theta)[2]  # noqa: E731
    if compiled:
        value, both = torch.compile(value), torch.compile(both)
    return {"value": lambda seed: value(theta), "value and vjp": lambda seed: both(theta, v)}


def jax_steps(theta, num_samples: int) -> Steps:
    """The same under jit; waits for the result, since events are another stream's."""
    import jax
    import jax.numpy as jnp

    theta = jnp.asarray(theta.get())
    v = jnp.ones_like(theta)

    def decide(seed):
        z = jax.random.normal(jax.random.key(seed), (num_samples, *theta.shape))
        winners = (theta + EPSILON * z).argmax(-1)
        return z, winners, jax.nn.one_hot(winners, theta.shape[1]).mean(0)

    @jax.jit
    def value(seed):
        return decide(seed)[2]

    @jax.jit
    def both(seed):
        z, winners, value = decide(seed)
        weights = jnp.take_along_axis(v, winners.T, 1) - (v * value).sum(1, keepdims=True)
        return value, jnp.einsum("bm,mbd->bd", weights, z) / ((num_samples - 1) * EPSILON)

    def waiting(step):
        return lambda seed: jax.block_until_ready(step(seed))

    return {"value": waiting(value), "value and vjp": waiting(both)}


def contenders(theta, num_samples: int):
    """Name and steps of whatever is installed."""
    for precision in ("fast", "portable"):
        yield f"dpo {precision}", lambda p=precision: our_steps(Problem(), theta, num_samples, p)
    yield "torch eager", lambda: torch_steps(theta, num_samples, compiled=False)
    yield "torch.compile", lambda: torch_steps(theta, num_samples, compiled=True)
    yield "jax jit", lambda: jax_steps(theta, num_samples)


def free_bytes() -> int:
    import cupy

    return cupy.cuda.runtime.memGetInfo()[0]


def argmax_times():
    """Every contender on every size."""
    import cupy

    for rows, d, num_samples in SIZES:
        theta = cupy.random.default_rng(0).standard_normal((rows, d), dtype=np.float32)
        for name, make in contenders(theta, num_samples):
            try:
                for work, step in make().items():
                    before = free_bytes()
                    ms = milliseconds(step)
                    yield Time(
                        f"argmax {work} B={rows} d={d} M={num_samples}", name, ms,
                        rows * d * num_samples / ms * 1e3, max(0, before - free_bytes()) / 2**20,
                    )  # fmt: skip
            except ImportError as missing:
                print(f"skipped {name}: {missing}")
            except Exception as error:  # most often out of memory: the next contender may fit
                print(f"failed {name}: {type(error).__name__}: {error}"[:200])
            cupy.get_default_memory_pool().free_all_blocks()


def oracle_times():
    """Ours for the other oracles: solved problems a second."""
    import cupy

    cases = [
        ("ranks d=100", Problem("ranks"), 128, 100, 1000),
        ("top-10 of 1000", Problem("topk", (10,)), 128, 1000, 100),
        ("paths 12x12", None, 128, 144, 1000),
        ("paths 30x30", None, 128, 900, 100),
    ]
    for name, problem, rows, d, num_samples in cases:
        side = int(d**0.5)
        if problem is None:
            places = np.tile([0, d - 1], (rows, 1))
            problem = Problem("grid_path", (side, side, 8, 0), places, minimises=True)
        theta = cupy.random.default_rng(0).random((rows, d), dtype=np.float32) + np.float32(0.5)
        for precision in ("fast", "portable"):
            for work, step in our_steps(problem, theta, num_samples, precision).items():
                ms = milliseconds(step)
                solved = rows * num_samples / ms * 1e3
                work = f"{name} {work} B={rows} M={num_samples}"
                yield Time(work, f"dpo {precision}", ms, solved, 0)
