"""The estimators, once a framework: draw noise, call a solver, average, and weigh by the score.

    y = (1 / M) sum_m y_m,    g = (1 / (M s)) sum_m <v, y_m> score(z_m),    y_m = y*(theta + s z_m)

The derivative reuses the forward's samples, except where a library draws them again by itself.
"""

from __future__ import annotations

import warnings

import numpy as np

from ..workloads import Workload
from .base import Calls, Solver

# ----------------------------------------------------------------------------------------- dpo


def _dpo_layer(workload: Workload, oracle, theta, method: str):
    from dataclasses import replace

    import dpo

    layer = dpo.Perturbed(
        oracle,
        noise=workload.noise,
        epsilon=abs(workload.scale),
        num_samples=workload.num_samples,
        **({} if method == "mc" else {"method": method}),
    )
    for num_samples in (1, 16):  # loads the kernels, for few samples and for many
        once = replace(layer, num_samples=num_samples)
        once(theta[:1], seed=0)
        once.vjp(theta[:1], theta[:1], seed=0)
    return layer


def dpo_numpy(workload: Workload, oracle) -> Calls:
    """The explicit NumPy interface; ``vjp`` knows nothing of the forward call before it."""
    theta, v = workload.arrays()
    layer = _dpo_layer(workload, oracle, theta, "mc")
    return Calls(
        lambda seed: layer(theta, seed=seed),
        lambda seed: (layer(theta, seed=seed), layer.vjp(theta, v, seed=seed)),
    )


def dpo_torch(workload: Workload, oracle, method: str = "mc") -> Calls:
    """The layer in a torch model: backward reuses the mean that forward has computed."""
    import torch

    theta, v = map(torch.from_numpy, workload.arrays())
    layer = _dpo_layer(workload, oracle, theta, method)
    return _torch_calls(theta, v, lambda theta, seed: layer(theta, seed=seed))


def dpo_jax(workload: Workload, oracle) -> Calls:
    """The layer in a compiled program: backward uses what the value decided."""
    theta, _ = workload.arrays()
    layer = _dpo_layer(workload, oracle, theta, "mc")
    return _jax_calls(workload, lambda theta, key: layer(theta, seed=key))


def dpo_torch_exact(workload: Workload, oracle) -> Calls:
    """No samples: the expectation itself, to the precision of float32."""
    return dpo_torch(workload, oracle, "exact")


def dpo_function(workload: Workload, fun, workers: int | None = None) -> Calls:
    """Any function of one instance, in a torch model: backward uses forward's solutions."""
    import torch

    import dpo

    f = dpo.perturbed(
        lambda x: fun(x.numpy()),
        event_ndim=len(workload.shape),
        batched=False,
        maximizer=True,
        noise=workload.noise,
        epsilon=workload.scale,
        num_samples=workload.num_samples,
        workers=workers,
    )
    theta, v = map(torch.from_numpy, workload.arrays())
    calls = _torch_calls(theta, v, lambda theta, seed: f(theta, seed=seed))
    calls.both(0)  # loads the kernels
    return calls


def dpo_function_2(workload: Workload, fun) -> Calls:
    """The same, in threads."""
    return dpo_function(workload, fun, workers=2)


# --------------------------------------------------------------------------------------- torch


def _torch_calls(theta, v, perturbed) -> Calls:
    def both(seed):
        leaf = theta.clone().requires_grad_()
        y = perturbed(leaf, seed)
        y.backward(v)
        return y.detach(), leaf.grad

    return Calls(lambda seed: perturbed(theta, seed), both)


def _torch_noise(name: str):
    """Samplers and scores as they are usually spelled."""
    import torch

    if name == "normal":
        return torch.randn, lambda z: z
    return (
        lambda shape: -torch.empty(shape).exponential_().log(),
        lambda z: 1 - torch.exp(-z),
    )


def torch_function(workload: Workload, solver: Solver) -> Calls:
    """An ``autograd.Function`` that saves noise and solutions, as most projects vendor it."""
    import torch

    sample, score = _torch_noise(workload.noise)
    m, scale = workload.num_samples, workload.scale

    class PerturbedOptimizer(torch.autograd.Function):
        @staticmethod
        def forward(ctx, theta):
            z = sample((m, *theta.shape))
            solutions = solver.solve(theta + scale * z)
            ctx.save_for_backward(z, solutions)
            return solver.mean(solutions)

        @staticmethod
        def backward(ctx, v):
            z, solutions = ctx.saved_tensors
            weights = solver.products(solutions, v)
            return torch.einsum("mb...,mb->b...", score(z), weights) / (scale * m)

    def perturbed(theta, seed):
        torch.manual_seed(seed)
        return PerturbedOptimizer.apply(theta)

    return _torch_calls(*map(torch.from_numpy, workload.arrays()), perturbed)


def torch_dense(solve) -> Solver:
    """Solutions are (M, B, d) floats."""
    import torch

    return Solver(solve, lambda y: y.mean(0), lambda y, v: torch.einsum("mbd,bd->mb", y, v))


def torch_indices(workload: Workload, solve) -> Solver:
    """Solutions are (M, B, k) indices of ones: counted by a scatter, weighed by a gather."""
    import torch

    m, rows, d = workload.num_samples, workload.rows, workload.d

    def mean(indices):
        flat = indices.transpose(0, 1).flatten(1)
        share = torch.full((), 1 / m).expand(flat.shape)
        return torch.zeros(rows, d).scatter_add_(1, flat, share)

    def products(indices, v):
        return v.expand(m, rows, d).gather(-1, indices).sum(-1)

    return Solver(solve, mean, products)


# ----------------------------------------------------------------------------------------- JAX


def _jax_calls(workload: Workload, perturbed) -> Calls:
    """``perturbed(theta, key)`` of a batch, compiled ahead; value and VJP in one program.

    Programs make the key of a seed themselves: outside one it takes 0.07 ms.
    """
    import jax

    theta, v = map(jax.numpy.asarray, workload.arrays())

    def forward(theta, seed):
        return perturbed(theta, jax.random.key(seed))

    def both(theta, v, seed):
        y, pullback = jax.vjp(lambda theta: forward(theta, seed), theta)
        return y, pullback(v)[0]

    forward_program = jax.jit(forward).lower(theta, np.uint32(0)).compile()
    both_program = jax.jit(both).lower(theta, v, np.uint32(0)).compile()
    return Calls(
        lambda seed: jax.block_until_ready(forward_program(theta, np.uint32(seed))),
        lambda seed: jax.block_until_ready(both_program(theta, v, np.uint32(seed))),
    )


def _one_key_a_row(function):
    """``function(theta, key)`` of one row, mapped over a batch as the libraries' manuals say."""
    import jax

    return lambda theta, key: jax.vmap(function)(theta, jax.random.split(key, len(theta)))


def jaxopt_argmax(workload: Workload, solve) -> Calls:
    """``jaxopt.perturbations.make_perturbed_argmax`` under ``jit(vmap)``.

    Any solver whose solution has the shape of its input will do, ranks included.
    """
    with warnings.catch_warnings():  # the package announces that it is unmaintained
        warnings.simplefilter("ignore", DeprecationWarning)
        from jaxopt import perturbations

    noise = {"normal": perturbations.Normal, "gumbel": perturbations.Gumbel}[workload.noise]
    perturbed = perturbations.make_perturbed_argmax(
        solve, num_samples=workload.num_samples, sigma=workload.scale, noise=noise()
    )
    return _jax_calls(workload, _one_key_a_row(perturbed))


def optax_fun(workload: Workload, solve) -> Calls:
    """``optax.perturbations.make_perturbed_fun`` under ``jit(vmap)``."""
    from optax import perturbations

    noise = {"normal": perturbations.Normal, "gumbel": perturbations.Gumbel}[workload.noise]
    perturbed = perturbations.make_perturbed_fun(
        solve, num_samples=workload.num_samples, sigma=workload.scale, noise=noise()
    )
    return _jax_calls(workload, _one_key_a_row(lambda theta, key: perturbed(key, theta)))


def jax_function(workload: Workload, solve) -> Calls:
    """A ``custom_vjp`` over all samples at once: ``solve`` takes and returns (M, B, ...)."""
    import jax
    from jax import numpy as jnp

    shape = workload.num_samples, workload.rows, *workload.shape
    sample = {"normal": jax.random.normal, "gumbel": jax.random.gumbel}[workload.noise]
    score = {"normal": lambda z: z, "gumbel": lambda z: 1 - jnp.exp(-z)}[workload.noise]

    def forward(theta, key):
        z = sample(key, shape)
        y = solve(theta + workload.scale * z)
        return y.mean(0), (z, y)

    def backward(saved, v):
        z, y = saved
        weights = (y * v).reshape(*shape[:2], -1).sum(-1)
        g = jnp.einsum("mb...,mb->b...", score(z), weights)
        return g / (workload.scale * workload.num_samples), None

    perturbed = jax.custom_vjp(lambda theta, key: forward(theta, key)[0])
    perturbed.defvjp(forward, backward)
    return _jax_calls(workload, perturbed)


# --------------------------------------------------------------------------------------- NumPy


def numpy_function(workload: Workload, solver: Solver) -> Calls:
    """Noise of shape (M, B, ...), a solver, a score-weighted ``einsum``."""
    theta, v = workload.arrays()
    m, scale = workload.num_samples, np.float32(workload.scale)
    shape = m, *theta.shape

    def solve(seed):
        rng = np.random.default_rng(seed)
        if workload.noise == "normal":
            z = rng.standard_normal(shape, np.float32)
        else:
            with np.errstate(divide="ignore"):  # float32 exponentials can be 0, and z infinite
                z = -np.log(rng.standard_exponential(shape, np.float32))
        return z, solver.solve(theta + scale * z)

    def both(seed):
        z, solutions = solve(seed)
        weights = solver.products(solutions, v)
        score = z if workload.noise == "normal" else 1 - np.exp(-z)
        g = np.einsum("mb...,mb->b...", score, weights) / (scale * m)
        return solver.mean(solutions), g

    return Calls(lambda seed: solver.mean(solve(seed)[1]), both)


def numpy_dense(solve) -> Solver:
    """Solutions are (M, B, ...) floats."""

    def products(y, v):
        return np.einsum("mbd,bd->mb", y.reshape(*y.shape[:2], -1), v.reshape(len(v), -1))

    return Solver(solve, lambda y: y.mean(0), products)


def numpy_indices(workload: Workload, solve) -> Solver:
    """Solutions are (M, B, k) indices of ones: counted by ``bincount``, weighed by a gather."""
    m, rows, d = workload.num_samples, workload.rows, workload.d
    first = d * np.arange(rows)[:, None]

    def mean(indices):
        counts = np.bincount((indices + first).ravel(), minlength=rows * d)
        return (counts / m).reshape(rows, d)

    def products(indices, v):
        return np.take_along_axis(v[None], indices, axis=-1).sum(-1)

    return Solver(solve, mean, products)
