"""What a call costs beside its computation: ``python -m benchmarks.overhead``.

One row of two scores, one sample: there is nothing to compute. Each framework's calls are timed in
turn beside a bare call of the same framework, NumPy's before torch and JAX are imported. Printed
are the median and the least of blocks of calls, in microseconds.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable

import numpy as np

import dpo

BLOCKS, CALLS = 40, 500
THETA = np.array([[0.1, 0.2]], np.float32)
V = np.ones_like(THETA)

Calls = dict[str, Callable[[], object]]


def numpy_calls() -> Calls:
    layer = dpo.Perturbed(num_samples=1)
    return {
        "layer(theta, seed=0)": lambda: layer(THETA, seed=0),
        "layer(theta)": lambda: layer(THETA),
        "layer.vjp(theta, v, seed=0)": lambda: layer.vjp(THETA, V, seed=0),
    }


def torch_calls() -> Calls:
    import torch

    layer = dpo.Perturbed(num_samples=1)
    theta, v = torch.tensor(THETA, requires_grad=True), torch.tensor(V)

    class Double(torch.autograd.Function):
        """As little as a function with a derivative can do."""

        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return torch.from_numpy(2 * x.detach().numpy())

        @staticmethod
        def backward(ctx, v):
            return torch.from_numpy(2 * v.numpy())

    def backward(f) -> Callable[[], object]:
        def call():
            theta.grad = None
            y = f()
            y.backward(v if y.dim() == 2 else v[:, 0])

        return call

    seed = torch.tensor([0, 0])  # which one program takes in every step
    double = torch.compile(lambda x: 2 * x, fullgraph=True)
    compiled = torch.compile(lambda x, seed: layer(x, seed=seed), fullgraph=True)
    return {
        "bare: 2 x, and backward": backward(lambda: 2 * theta),
        "bare: 2 x compiled, and backward": backward(lambda: double(theta)),
        "bare: an autograd.Function, and backward": backward(lambda: Double.apply(theta)),
        "layer(theta, seed=0)": lambda: layer(theta, seed=0),
        "layer(theta, seed=0), and backward": backward(lambda: layer(theta, seed=0)),
        "layer(theta, seed=seed) compiled, and backward": backward(lambda: compiled(theta, seed)),
        "layer(theta), and backward": backward(lambda: layer(theta)),
        "layer.max(theta, seed=0), and backward": backward(lambda: layer.max(theta, seed=0)),
    }


def jax_calls() -> Calls:
    import jax

    layer = dpo.Perturbed(num_samples=1)
    theta, v, key = jax.numpy.asarray(THETA), jax.numpy.asarray(V), jax.random.key(0)

    def program(f) -> Callable[[], object]:
        """Value and VJP, compiled ahead."""

        def both(theta, v, key):
            value, pull = jax.vjp(lambda x: f(x, key), theta)
            return value, pull(v)

        compiled = jax.jit(both).lower(theta, v, key).compile()
        return lambda: jax.block_until_ready(compiled(theta, v, key))

    value = jax.jit(lambda x, key: layer(x, seed=key)).lower(theta, key).compile()
    return {
        "bare: 2 x and its VJP, jitted": program(lambda x, key: 2 * x),
        "layer(x, seed=key), jitted": lambda: jax.block_until_ready(value(theta, key)),
        "layer(x, seed=key) and its VJP, jitted": program(lambda x, key: layer(x, seed=key)),
    }


def timed(calls: Calls) -> dict[str, list[float]]:
    """Microseconds a call, a block after another, contenders in turn."""
    blocks: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(BLOCKS + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                call()
            if number:  # the first block warms up
                blocks[name].append((time.perf_counter() - start) / CALLS * 1e6)
    return blocks


def main() -> None:
    """Print a Markdown table."""
    print("| framework | call | median, us | least, us |\n|---|---|--:|--:|")
    for framework, calls in (
        ("numpy", numpy_calls),
        ("torch", torch_calls),
        ("jax", jax_calls),
    ):
        if importlib.util.find_spec(framework) is None:
            print(f"| {framework} | not installed | | |")
            continue
        for name, blocks in timed(calls()).items():
            print(
                f"| {framework} | `{name}` | {statistics.median(blocks):.1f} | {min(blocks):.1f} |"
            )


if __name__ == "__main__":
    main()
