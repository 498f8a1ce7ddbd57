"""Perturbed assignment: ``y*(x)`` is the permutation matrix of the largest total score.

Ours is ``dpo.solvers.assignment``, a user's oracle compiled into the kernels. Everyone else, and
``dpo.perturbed``, solves with ``scipy.optimize.linear_sum_assignment``, one instance at a time, and
differs in what it puts around it.
"""

from __future__ import annotations

import numpy as np

from ..workloads import Workload
from . import shells
from .base import Contender, Solver


def dpo_oracle(workload: Workload):
    from dpo import solvers

    return solvers.assignment


def one(scores: np.ndarray) -> np.ndarray:
    """The best assignment of one instance, 0/1."""
    from scipy.optimize import linear_sum_assignment

    y = np.zeros(scores.shape, np.float32)
    y[linear_sum_assignment(scores, maximize=True)] = 1
    return y


def _all(scores: np.ndarray) -> np.ndarray:
    y = np.empty(scores.shape, np.float32)
    for index in np.ndindex(scores.shape[:-2]):
        y[index] = one(scores[index])
    return y


def of_instances(workload: Workload):
    return one


def numpy_loop(workload: Workload) -> Solver:
    """NumPy's float32 Gumbel noise may be infinite, which SciPy refuses."""
    return shells.numpy_dense(lambda x: _all(np.minimum(x, np.float32(1e4))))


def torch_loop(workload: Workload) -> Solver:
    """As projects have it: to NumPy, a loop, and back."""
    import torch

    return Solver(
        lambda x: torch.from_numpy(_all(x.numpy())),
        lambda y: y.mean(0),
        lambda y, v: torch.einsum("mbij,bij->mb", y, v),
    )


def jax_callback(workload: Workload):
    """``pure_callback`` of one instance; under ``vmap`` one call of all."""
    import jax

    def solve(x):
        result = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(
            lambda x: _all(np.asarray(x)), result, x, vmap_method="broadcast_all"
        )

    return solve


CONTENDERS = (
    Contender("dpo, torch", ("dpo.oracle", "torch"), shells.dpo_torch, dpo_oracle),
    Contender("dpo, NumPy", ("dpo.oracle",), shells.dpo_numpy, dpo_oracle),
    Contender("dpo, any function", ("dpo.perturbed",), shells.dpo_function, of_instances),
    Contender(
        "dpo, any function, 2 threads", ("dpo.perturbed",), shells.dpo_function_2, of_instances
    ),
    Contender("torch, loop", ("torch",), shells.torch_function, torch_loop, 25),
    Contender("jaxopt", ("jax", "jaxopt"), shells.jaxopt_argmax, jax_callback, 25),
    Contender("optax", ("jax", "optax"), shells.optax_fun, jax_callback, 33),
    Contender("NumPy, loop", (), shells.numpy_function, numpy_loop, 20),
)
