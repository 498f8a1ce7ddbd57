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


def jax_counting(workload: Workload):
    """``y_i`` counts the ``x_j <= x_i``, one j after the other.

    d^2 work, but no sort, and vectorised over the batch: on CPUs XLA needs a tenth of the time of a
    sort up to d = 100, a quarter at 1000. Comparing all pairs at once would be faster at d = 10
    and hold d^2 numbers a sample at 100.
    """
    import jax

    def solve(x):
        def count(j, ranks):
            return ranks + (x[j] <= x)

        return jax.lax.fori_loop(0, workload.d, count, jax.numpy.zeros_like(x), unroll=5)

    return solve


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
    Contender("dpo, JAX", ("dpo.Ranks", "jax"), shells.dpo_jax, dpo_oracle),
    Contender("dpo, exact", ("dpo.Ranks", "torch"), shells.dpo_torch_exact, dpo_oracle),
    Contender("torch, argsort twice", ("torch",), shells.torch_function, torch_argsort_twice, 45),
    Contender("torch, scatter", ("torch",), shells.torch_function, torch_scatter, 41),
    Contender("jaxopt", ("jax", "jaxopt"), shells.jaxopt_argmax, jax_scatter, 33),
    Contender("jaxopt, counting", ("jax", "jaxopt"), shells.jaxopt_argmax, jax_counting, 24),
    Contender("optax", ("jax", "optax"), shells.optax_fun, jax_scatter, 40),
    Contender("NumPy", (), shells.numpy_function, numpy_argsort, 20),
)
