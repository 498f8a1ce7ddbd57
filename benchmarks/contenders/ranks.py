"""Perturbed ranks: ``y*(x)_i`` is the rank of score ``i``, ascending, 1 to d."""

from __future__ import annotations

import numpy as np

from ..workloads import Workload
from . import shells
from .base import Contender, Solver


def dpo_oracle(workload: Workload):
    import dpo

    return dpo.Ranks()


def torch_argsort_twice(workload: Workload) -> Solver:
    """The form most projects vendor: the inverse of a permutation is its ``argsort``."""
    return shells.torch_dense(lambda x: x.argsort(-1).argsort(-1).to(x.dtype) + 1)


def torch_scatter(workload: Workload) -> Solver:
    """The careful form: one sort, inverted by a scatter."""
    import torch

    ranks = torch.arange(1.0, workload.d + 1)

    def solve(x):
        return torch.empty_like(x).scatter_(-1, x.argsort(-1), ranks.expand(x.shape))

    return shells.torch_dense(solve)


def jax_scatter(workload: Workload):
    """One sort, inverted by a scatter: on CPUs XLA needs half the time of two sorts."""
    from jax import numpy as jnp

    ranks = jnp.arange(1.0, workload.d + 1)
    return lambda x: jnp.empty_like(x).at[jnp.argsort(x)].set(ranks)


def jax_comparisons(workload: Workload):
    """``y_i`` counts the ``x_j <= x_i``: d^2 work, but fused and without any sort."""
    return lambda x: (x <= x[:, None]).sum(-1).astype(x.dtype)


def numpy_argsort(workload: Workload) -> Solver:
    """One sort, inverted by an assignment."""
    ranks = np.arange(1, workload.d + 1, dtype=np.float32)

    def solve(x):
        y = np.empty_like(x)
        np.put_along_axis(y, x.argsort(-1), ranks[None, None], axis=-1)
        return y

    return shells.numpy_dense(solve)


CONTENDERS = (
    Contender("dpo, torch", ("dpo.Ranks", "torch"), shells.dpo_torch, dpo_oracle),
    Contender("dpo, NumPy", ("dpo.Ranks",), shells.dpo_numpy, dpo_oracle),
    Contender("torch, argsort twice", ("torch",), shells.torch_function, torch_argsort_twice, 28),
    Contender("torch, scatter", ("torch",), shells.torch_function, torch_scatter, 28),
    Contender("jaxopt", ("jax", "jaxopt"), shells.jaxopt_argmax, jax_scatter, 28),
    Contender("jaxopt, counting", ("jax", "jaxopt"), shells.jaxopt_argmax, jax_comparisons, 28),
    Contender("optax", ("jax", "optax"), shells.optax_fun, jax_scatter, 28),
    Contender("NumPy", (), shells.numpy_function, numpy_argsort, 28),
)
