"""Perturbed argmax: ``y*(x)`` is the one-hot of the largest score."""

from __future__ import annotations

import numpy as np

from ..workloads import Workload
from . import shells
from .base import Contender, Solver


def dpo_oracle(workload: Workload):
    import dpo

    return dpo.Argmax()


def dpo_user_oracle(workload: Workload):
    """As a user would write it: what generality costs."""
    import dpo

    return dpo.oracle(_first_largest)


def _first_largest(scores, solution):
    solution[np.argmax(scores)] = 1


def torch_onehot(workload: Workload) -> Solver:
    """The form most projects vendor."""
    import torch

    def solve(x):
        return torch.nn.functional.one_hot(x.argmax(-1), workload.d).to(x.dtype)

    return shells.torch_dense(solve)


def torch_indices(workload: Workload) -> Solver:
    """The careful form: winners stay indices, so only the noise is large and saved."""
    return shells.torch_indices(workload, lambda x: x.argmax(-1, keepdim=True))


def jax_onehot(workload: Workload):
    import jax

    return lambda x: jax.nn.one_hot(jax.numpy.argmax(x), x.shape[-1])


def numpy_indices(workload: Workload) -> Solver:
    return shells.numpy_indices(workload, lambda x: x.argmax(-1, keepdims=True))


CONTENDERS = (
    Contender("dpo, torch", ("dpo", "torch"), shells.dpo_torch, dpo_oracle),
    Contender("dpo, NumPy", ("dpo",), shells.dpo_numpy, dpo_oracle),
    Contender("dpo, JAX", ("dpo", "jax"), shells.dpo_jax, dpo_oracle),
    Contender("dpo, user's", ("dpo.oracle", "torch"), shells.dpo_torch, dpo_user_oracle),
    Contender("dpo, exact", ("dpo", "torch"), shells.dpo_torch_exact, dpo_oracle),
    Contender("torch, one-hot", ("torch",), shells.torch_function, torch_onehot, 16),
    Contender("torch, indices", ("torch",), shells.torch_function, torch_indices, 12),
    Contender("jaxopt", ("jax", "jaxopt"), shells.jaxopt_argmax, jax_onehot, 16),
    Contender("optax", ("jax", "optax"), shells.optax_fun, jax_onehot, 20),
    Contender("NumPy", (), shells.numpy_function, numpy_indices, 12),
)
