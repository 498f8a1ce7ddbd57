"""Any function of perturbed scores inside JAX transformations. Imported once a tracer is seen.

The function is traced: it is part of the program, wherever that runs. Only the perturbed scores
come through a callback on the CPU, so that they have the bits of the noise contract (and, with
``callback=True``, so do the function's results, which then is called on NumPy arrays).

Values are ``custom_jvp``. With ``G`` the samples that share noise with sample m (itself; its pair;
its randomisation), in number g, and ``c_m`` the mean of all samples but those, a derivative is

    u(t) = (1 / (M eps)) sum_m (y_m - c_m) <s_m, t>

a scan over windows of samples, linear in ``t``; reverse mode is its transpose. What it needs of the
forward pass is every solution, kept where they fit in ``memory``, and otherwise solved for again;
windows are rematerialised, so that noise is always drawn again.
"""

from __future__ import annotations

import dataclasses
import functools as ft
from collections.abc import Callable

import jax
import numpy as np
from jax import numpy as jnp
from jax.custom_derivatives import SymbolicZero

from ._arrays import as_scores, compute_dtype, kind_of
from ._black_box import PerturbedFunction
from ._black_box_program import Arguments, Program
from ._checks import Adaptive, is_traced, refuse_second_slope
from ._jax_operands import as_words
from .kernels.noise import law_of

# ------------------------------------------------------------------------------------ derivatives


@ft.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _value(program: Program, theta, words, arrays):
    """``ybar``, (rows, D)."""
    return program.forward(theta, words, arrays)[0]["y"].sum(0) / program.num_samples


@_value.defjvp
def _(program, primals, tangents):
    sums, kept = program.forward(*primals, keep=True)
    change = program.product(*primals, sums["y"], kept, tangents[0])
    return sums["y"].sum(0) / program.num_samples, change


@ft.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _maximum(program: Program, theta, words, arrays):
    """``Fbar``, (rows,)."""
    sums, _ = program.forward(theta, words, arrays, maximum=True)
    return program.whole.sign * sums["value"] / program.num_samples


@_maximum.defjvp
def _(program, primals, tangents):
    value, slope = _maximum_and_slope(program, *primals)
    return value, (slope * tangents[0]).sum(1)


@ft.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _maximum_and_slope(program: Program, theta, words, arrays):
    """``Fbar`` and its slope, which is ``ybar``, from one pass."""
    sums, _ = program.forward(theta, words, arrays, maximum=True)
    value = program.whole.sign * sums["value"] / program.num_samples
    return value, program.slope_of_maximum(theta, sums)


@_maximum_and_slope.defjvp
def _(program, primals, tangents):
    if program.whole.draws.multiplicative:
        refuse_second_slope()
    sums, kept = program.forward(*primals, keep=True, maximum=True)
    value = program.whole.sign * sums["value"] / program.num_samples
    slope = program.slope_of_maximum(primals[0], sums)
    change = program.product(*primals, sums["y"], kept, tangents[0])
    return (value, slope), ((slope * tangents[0]).sum(1), program.whole.sign * change)


@jax.custom_jvp
def _fixed(x):
    """``x``, which has no derivative."""
    return x


def _refuse(primals, tangents):
    (x,), (tangent,) = primals, tangents
    if not isinstance(tangent, SymbolicZero):
        raise TypeError(
            "an argument beside theta requires a gradient, but derivatives are those in theta "
            "only; pass jax.lax.stop_gradient(argument)"
        )
    return x, tangent


_fixed.defjvp(_refuse, symbolic_zeros=True)


# ---------------------------------------------------------------------------------- public calls


def call(name: str, f: PerturbedFunction, theta, *args, seed=None, **parameters):
    """``f.name(theta, *args, **parameters)``, something of it being traced."""
    if kind_of(theta) != "jax":
        raise TypeError(
            f"theta is a {kind_of(theta)} array inside a JAX transformation; pass "
            "jax.numpy.asarray(theta)"
        )
    method = _METHODS.get(name)
    if method is None:
        raise NotImplementedError(
            f"{name} is not available inside JAX transformations; call it on concrete arrays"
        )
    return method(f, theta, *args, seed=seed, **parameters)


def _program(f: PerturbedFunction, theta, args, kwargs) -> Program:
    if isinstance(f.num_samples, Adaptive):
        raise NotImplementedError("inside JAX transformations num_samples must be a number")
    if is_traced(f.epsilon):
        raise NotImplementedError(
            "epsilon is traced by JAX (jit, grad or vmap): it must be a number or a concrete array "
            "when the function is traced; its gradient is f.vjp_epsilon, on concrete arrays"
        )
    if not isinstance(f.epsilon, float):
        f = dataclasses.replace(f, epsilon=np.asarray(f.epsilon))  # a callback must not call JAX
    compute = compute_dtype(theta.dtype.name, "theta", "theta.astype('float32')")
    scores = as_scores(np.zeros(theta.shape, compute), "theta", f.event_ndim)
    return Program(f, scores, Arguments(args, kwargs))


def _operands(program: Program, theta, seed) -> tuple:
    """Scores as rows, the seed, and the arrays of the function's arguments."""
    rows = theta.astype(program.scores.rows.dtype).reshape(program.scores.rows.shape)
    words = jnp.asarray(as_words(program.function._layer, seed))
    return rows, words, tuple(map(_fixed, program.arguments.arrays))


def _call(f: PerturbedFunction, theta, *args, seed=None, **kwargs):
    program = _program(f, theta, args, kwargs)
    mean = _value(program, *_operands(program, theta, seed)).astype(theta.dtype)
    structure, (tree, _) = program.structure, program._result
    parts = zip(structure.split(mean), structure.shapes, strict=True)
    return jax.tree.unflatten(tree, [x.reshape(program.scores.batch + shape) for x, shape in parts])


def _max(f: PerturbedFunction, theta, *args, seed=None, **kwargs):
    f.require_solver("max")
    program = _program(f, theta, args, kwargs)
    value = _maximum(program, *_operands(program, theta, seed))
    return value.astype(theta.dtype).reshape(program.scores.batch)


def _loss(f: PerturbedFunction, theta, y_true, *args, seed=None, normalize=True, **kwargs):
    f.require_solver("loss")
    value = _max(f, theta, *args, seed=seed, **kwargs)
    program = _program(f, theta, (), {})
    y = jnp.broadcast_to(_fixed(jnp.asarray(y_true)), theta.shape).astype(theta.dtype)
    products = (jnp.where(y == 0, 0, theta) * y).reshape(program.scores.rows.shape)
    loss = value - program.whole.sign * products.sum(1).reshape(value.shape)
    if not normalize or program.whole.draws.multiplicative:
        return loss
    mean = law_of(program.whole.draws.family).mean
    offset = -mean * (program.whole.epsilon * y.reshape(products.shape)).sum(1)
    return loss + offset.astype(theta.dtype).reshape(value.shape)


def _vjp(f: PerturbedFunction, theta, v, *args, seed=None, **kwargs):
    y, transpose = jax.vjp(lambda x: _call(f, x, *args, seed=seed, **kwargs), theta)
    v = jax.tree.map(lambda a, b: jnp.broadcast_to(jnp.asarray(a, b.dtype), b.shape), v, y)
    return transpose(v)[0]


def _jvp(f: PerturbedFunction, theta, t, *args, seed=None, **kwargs):
    t = jnp.broadcast_to(jnp.asarray(t, theta.dtype), theta.shape)
    return jax.jvp(lambda x: _call(f, x, *args, seed=seed, **kwargs), (theta,), (t,))[1]


def _jacobian(f: PerturbedFunction, theta, *args, seed=None, **kwargs):
    y, linear = jax.linearize(lambda x: _call(f, x, *args, seed=seed, **kwargs), theta)
    event = theta.shape[theta.ndim - f.event_ndim :]
    basis = jnp.eye(int(np.prod(event)), dtype=theta.dtype).reshape(-1, *event)
    columns = jax.vmap(lambda t: linear(jnp.broadcast_to(t, theta.shape)))(basis)
    return jax.tree.map(
        lambda x, one: jnp.moveaxis(x, 0, -1).reshape(one.shape + event), columns, y
    )


_METHODS: dict[str, Callable] = {
    "__call__": _call,
    "max": _max,
    "loss": _loss,
    "vjp": _vjp,
    "jvp": _jvp,
    "jacobian": _jacobian,
}
