"""One workload, written the way users of each library write it.

    y = (1 / M) sum_m onehot(argmax(theta + eps z_m)),    g = v^T dy/dtheta

A contender is built once for a workload: imports, arrays in its own framework, compilation. What
is left are two calls that take a seed, return once the work is done, and are all that is timed:
``forward(seed) -> y`` and ``both(seed) -> (y, g)``.

Each uses its library's default estimator of ``g``: leave-one-out in dpo, a baseline ``y*(theta)``
in optax, the plain score function elsewhere. All are unbiased; the plain one is the noisiest.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

EPSILON = 0.5


@dataclass(frozen=True)
class Workload:
    """Sizes of a perturbed argmax: ``rows`` instances of ``d`` scores, ``num_samples`` draws."""

    rows: int
    d: int
    num_samples: int
    noise: str
    """``"normal"`` or ``"gumbel"``, the two families that every contender has."""

    @property
    def draws(self) -> int:
        """How many noise variables one pass needs."""
        return self.rows * self.d * self.num_samples

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """``theta`` and ``v``, standard normal, float32."""
        rng = np.random.default_rng(0)
        return tuple(rng.standard_normal((2, self.rows, self.d), np.float32))

    def __str__(self):
        return f"{self.noise}, B={self.rows} d={self.d} M={self.num_samples}"


class Calls(NamedTuple):
    """A contender, ready to run."""

    forward: Callable[[int], Any]
    both: Callable[[int], tuple[Any, Any]]


class Contender(NamedTuple):
    """How to build the calls, and what they need."""

    name: str
    modules: tuple[str, ...]
    build: Callable[[Workload], Calls]
    bytes_per_draw: int
    """Live bytes a noise variable at the peak of ``both``, measured: decides what is skipped."""


# ----------------------------------------------------------------------------------------- dpo


def _dpo_layer(workload: Workload, theta):
    import dpo

    layer = dpo.Perturbed(noise=workload.noise, epsilon=EPSILON, num_samples=workload.num_samples)
    once = replace(layer, num_samples=1)
    once.vjp(theta[:1], theta[:1], seed=0)  # loads the kernel of many samples
    return layer


def dpo_numpy(workload: Workload) -> Calls:
    """The explicit NumPy interface; ``vjp`` knows nothing of the forward call before it."""
    theta, v = workload.arrays()
    layer = _dpo_layer(workload, theta)
    return Calls(
        lambda seed: layer(theta, seed=seed),
        lambda seed: (layer(theta, seed=seed), layer.vjp(theta, v, seed=seed)),
    )


def dpo_torch(workload: Workload) -> Calls:
    """The layer in a torch model: backward reuses the mean that forward has computed."""
    import torch

    theta, v = map(torch.from_numpy, workload.arrays())
    layer = _dpo_layer(workload, theta)
    return _torch_calls(theta, v, lambda theta, seed: layer(theta, seed=seed))


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


def torch_onehot(workload: Workload) -> Calls:
    """The form most projects vendor: one-hot solutions and the noise saved for backward."""
    import torch

    sample, score = _torch_noise(workload.noise)
    m = workload.num_samples

    class PerturbedArgmax(torch.autograd.Function):
        @staticmethod
        def forward(ctx, theta):
            z = sample((m, *theta.shape))
            winners = (theta + EPSILON * z).argmax(-1)
            y = torch.nn.functional.one_hot(winners, theta.shape[-1]).to(theta.dtype)
            ctx.save_for_backward(z, y)
            return y.mean(0)

        @staticmethod
        def backward(ctx, v):
            z, y = ctx.saved_tensors
            weights = torch.einsum("mbd,bd->mb", y, v)
            return torch.einsum("mbd,mb->bd", score(z), weights) / (EPSILON * m)

    def perturbed(theta, seed):
        torch.manual_seed(seed)
        return PerturbedArgmax.apply(theta)

    return _torch_calls(*map(torch.from_numpy, workload.arrays()), perturbed)


def torch_indices(workload: Workload) -> Calls:
    """The careful form: winners stay indices, counted by a scatter; only the noise is saved."""
    import torch

    sample, score = _torch_noise(workload.noise)
    m = workload.num_samples

    class PerturbedArgmax(torch.autograd.Function):
        @staticmethod
        def forward(ctx, theta):
            z = sample((m, *theta.shape))
            winners = (theta + EPSILON * z).argmax(-1).T
            ctx.save_for_backward(z, winners)
            share = theta.new_full((), 1 / m).expand(winners.shape)
            return torch.zeros_like(theta).scatter_add_(1, winners, share)

        @staticmethod
        def backward(ctx, v):
            z, winners = ctx.saved_tensors
            weights = v.gather(1, winners)
            return torch.einsum("mbd,bm->bd", score(z), weights) / (EPSILON * m)

    def perturbed(theta, seed):
        torch.manual_seed(seed)
        return PerturbedArgmax.apply(theta)

    return _torch_calls(*map(torch.from_numpy, workload.arrays()), perturbed)


# ----------------------------------------------------------------------------------------- JAX


def _jax_calls(workload: Workload, perturbed) -> Calls:
    """``perturbed(theta, keys)`` over a batch, compiled ahead; value and VJP in one program."""
    import jax

    theta, v = map(jax.numpy.asarray, workload.arrays())

    def forward(theta, key):
        return perturbed(theta, jax.random.split(key, workload.rows))

    def both(theta, v, key):
        y, pullback = jax.vjp(lambda theta: forward(theta, key), theta)
        return y, pullback(v)[0]

    key = jax.random.key(0)
    forward_program = jax.jit(forward).lower(theta, key).compile()
    both_program = jax.jit(both).lower(theta, v, key).compile()
    return Calls(
        lambda seed: jax.block_until_ready(forward_program(theta, jax.random.key(seed))),
        lambda seed: jax.block_until_ready(both_program(theta, v, jax.random.key(seed))),
    )


def _onehot_argmax(x):
    import jax

    return jax.nn.one_hot(jax.numpy.argmax(x), x.shape[-1])


def jaxopt_argmax(workload: Workload) -> Calls:
    """``jaxopt.perturbations.make_perturbed_argmax`` under ``jit(vmap)``."""
    import jax

    with warnings.catch_warnings():  # the package announces that it is unmaintained
        warnings.simplefilter("ignore", DeprecationWarning)
        from jaxopt import perturbations

    noise = {"normal": perturbations.Normal, "gumbel": perturbations.Gumbel}[workload.noise]
    perturbed = perturbations.make_perturbed_argmax(
        _onehot_argmax, num_samples=workload.num_samples, sigma=EPSILON, noise=noise()
    )
    return _jax_calls(workload, jax.vmap(perturbed))


def optax_fun(workload: Workload) -> Calls:
    """``optax.perturbations.make_perturbed_fun`` under ``jit(vmap)``."""
    import jax
    from optax import perturbations

    noise = {"normal": perturbations.Normal, "gumbel": perturbations.Gumbel}[workload.noise]
    perturbed = perturbations.make_perturbed_fun(
        _onehot_argmax, num_samples=workload.num_samples, sigma=EPSILON, noise=noise()
    )
    return _jax_calls(workload, lambda theta, keys: jax.vmap(perturbed)(keys, theta))


# --------------------------------------------------------------------------------------- NumPy


def numpy_idiom(workload: Workload) -> Calls:
    """Noise of shape (M, B, d), argmax, counts by ``bincount``, a score-weighted ``einsum``."""
    theta, v = workload.arrays()
    shape = workload.num_samples, *theta.shape
    first = workload.d * np.arange(workload.rows)

    def solve(seed):
        rng = np.random.default_rng(seed)
        if workload.noise == "normal":
            z = rng.standard_normal(shape, np.float32)
        else:
            with np.errstate(divide="ignore"):  # float32 exponentials can be 0, and z infinite
                z = -np.log(rng.standard_exponential(shape, np.float32))
        winners = (theta + np.float32(EPSILON) * z).argmax(-1)
        counts = np.bincount((winners + first).ravel(), minlength=theta.size)
        return z, winners, (counts / workload.num_samples).reshape(theta.shape)

    def both(seed):
        z, winners, y = solve(seed)
        weights = np.take_along_axis(v, winners.T, axis=1)
        score = z if workload.noise == "normal" else 1 - np.exp(-z)
        return y, np.einsum("mbd,bm->bd", score, weights) / (EPSILON * workload.num_samples)

    return Calls(lambda seed: solve(seed)[-1], both)


CONTENDERS = (
    Contender("dpo, torch", ("dpo", "torch"), dpo_torch, 0),
    Contender("dpo, NumPy", ("dpo",), dpo_numpy, 0),
    Contender("torch, one-hot", ("torch",), torch_onehot, 16),
    Contender("torch, indices", ("torch",), torch_indices, 12),
    Contender("jaxopt", ("jax", "jaxopt"), jaxopt_argmax, 16),
    Contender("optax", ("jax", "optax"), optax_fun, 20),
    Contender("NumPy", (), numpy_idiom, 12),
)


# ---------------------------------------------------------------------------------- agreement


def agreement(result, ours, ours_again) -> float:
    """A z-score for ``result`` and ``ours`` having one expectation.

    The three are independent (rows, d) estimates. Each row projects ``result - ours`` on
    ``ours_again``, which points where the signal is; the rows' own spread is the unit, so noisier
    estimators are judged by their own noise. A wrong eps (by a tenth) or a VJP scaled by 0.8 shows
    clearly at d = 10, hardly at d = 32000 with 64 samples.
    """
    products = ((np.asarray(result, float) - np.asarray(ours)) * np.asarray(ours_again)).sum(-1)
    return float(products.sum() / math.sqrt(max((products**2).sum(), 1e-300)))
