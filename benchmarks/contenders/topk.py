"""Perturbed top-k: ``y*(x)`` has ones at the k largest scores."""

from __future__ import annotations

from ..workloads import Workload
from . import shells
from .base import Contender, Solver


def dpo_oracle(workload: Workload):
    import dpo

    return dpo.TopK(k=workload.k)


def torch_khot(workload: Workload) -> Solver:
    """The form most projects vendor: k-hot floats of the noise's size."""
    import torch

    def solve(x):
        return torch.zeros_like(x).scatter_(-1, x.topk(workload.k, -1).indices, 1.0)

    return shells.torch_dense(solve)


def torch_indices(workload: Workload) -> Solver:
    """The careful form: winners stay indices, unsorted, so only the noise is large and saved."""
    return shells.torch_indices(workload, lambda x: x.topk(workload.k, -1, sorted=False).indices)


def jax_khot(workload: Workload):
    """Ones are scattered; the sum of k one-hot rows takes half as long again."""
    import jax

    return lambda x: jax.numpy.zeros_like(x).at[jax.lax.top_k(x, workload.k)[1]].set(1)


def numpy_argpartition(workload: Workload) -> Solver:
    """Selection without sorting; the winners stay indices."""
    k = workload.k
    return shells.numpy_indices(workload, lambda x: x.argpartition(-k, axis=-1)[..., -k:])


CONTENDERS = (
    Contender("dpo, torch", ("dpo.TopK", "torch"), shells.dpo_torch, dpo_oracle),
    Contender("dpo, NumPy", ("dpo.TopK",), shells.dpo_numpy, dpo_oracle),
    Contender("dpo, JAX", ("dpo.TopK", "jax"), shells.dpo_jax, dpo_oracle),
    Contender("dpo, exact", ("dpo.TopK", "torch"), shells.dpo_torch_exact, dpo_oracle),
    Contender("torch, k-hot", ("torch",), shells.torch_function, torch_khot, 34),
    Contender("torch, indices", ("torch",), shells.torch_function, torch_indices, 30),
    Contender("jaxopt", ("jax", "jaxopt"), shells.jaxopt_argmax, jax_khot, 25),
    Contender("optax", ("jax", "optax"), shells.optax_fun, jax_khot, 33),
    Contender("NumPy", (), shells.numpy_function, numpy_argpartition, 20),
)
