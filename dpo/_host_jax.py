"""A function of NumPy arrays as an operation of a JAX program: a callback under every transform.

One that takes CuPy's arrays as well is called in a GPU's own memory, where a program runs there.
What ``vmap`` maps stands alone: the function is called once for each mapped instance.
"""

from __future__ import annotations

import functools as ft
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ._device import namespace, require_cupy


class Host(NamedTuple):
    """A function of NumPy arrays, as an operation of a program."""

    fun: Callable[..., tuple[np.ndarray, ...]]
    shapes: tuple[tuple[tuple[int, ...], np.dtype], ...]
    takes_cupy: bool = False
    """Whether it takes CuPy's arrays, and is called on a GPU where a program runs there."""


host_p = Primitive("dpo_host")
host_p.multiple_results = True


def _run(*arrays, host: Host, lead: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """The function; ``lead`` axes of every operand are ``vmap``'s, whose instances stand alone."""
    if not lead:
        parts = zip(host.fun(*arrays), host.shapes, strict=True)
        return tuple(part.astype(dtype, copy=False) for part, (_, dtype) in parts)
    xp = namespace(arrays[0])
    results = [xp.empty(lead + shape, dtype) for shape, dtype in host.shapes]
    for index in np.ndindex(lead):
        for whole, part in zip(results, host.fun(*(x[index] for x in arrays)), strict=True):
            whole[index] = part
    return tuple(results)


def _run_on_host(*operands, **parameters) -> tuple[np.ndarray, ...]:
    return _run(*map(np.asarray, operands), **parameters)


@host_p.def_impl
def _impl(*operands, **parameters):
    return [jnp.asarray(x) for x in _run_on_host(*operands, **parameters)]


@host_p.def_abstract_eval
def _shapes(*operands, host: Host, lead: tuple[int, ...]):
    return [jax.core.ShapedArray(lead + shape, dtype) for shape, dtype in host.shapes]


def called_back(context, fun: Callable, *operands):
    """``fun`` of NumPy arrays inside a compiled program.

    As ``jax.pure_callback``, but for its copies of operands to JAX arrays: where XLA has one
    thread, those wait for the very thread that waits for the callback.
    """
    results, _, _ = mlir.emit_python_callback(
        context,
        fun,
        None,
        list(operands),
        context.avals_in,
        context.avals_out,
        has_side_effect=False,
        returns_token=False,
    )
    return results


def _lowered(context, *operands, **parameters):
    return called_back(context, ft.partial(_run_on_host, **parameters), *operands)


def _lowered_for_gpu(context, *operands, host: Host, lead: tuple[int, ...]):
    if not host.takes_cupy:
        return _lowered(context, *operands, host=host, lead=lead)
    require_cupy("theta", "a GPU")
    run = ft.partial(_run, host=host, lead=lead)
    return mlir.lower_fun(_in_buffers, multiple_results=True)(
        context, *operands, run=run, results=context.avals_out
    )


def _in_buffers(*operands, run: Callable, results):
    from ._jax_gpu import called_in_buffers

    return called_in_buffers(run, results, *operands)


def fronted(operands, axes) -> list:
    """Every operand with the mapped axis in front."""
    size = next(x.shape[a] for x, a in zip(operands, axes, strict=True) if a is not None)
    return [
        jnp.broadcast_to(x, (size, *x.shape)) if a is None else jnp.moveaxis(x, a, 0)
        for x, a in zip(operands, axes, strict=True)
    ]


def _map(operands, axes, *, host: Host, lead: tuple[int, ...]):
    mapped = fronted(operands, axes)
    results = host_p.bind(*mapped, host=host, lead=(mapped[0].shape[0], *lead))
    return results, [0] * len(results)


def _no_jvp(primals, tangents, **parameters):
    if all(isinstance(t, ad.Zero) for t in tangents):
        results = host_p.bind(*primals, **parameters)
        return results, [ad.Zero(jax.typeof(x).to_tangent_aval()) for x in results]
    raise NotImplementedError(
        "the perturbed function cannot be differentiated twice; max and loss of a maximizer can"
    )


mlir.register_lowering(host_p, _lowered)
mlir.register_lowering(host_p, _lowered_for_gpu, platform="cuda")
batching.primitive_batchers[host_p] = _map
ad.primitive_jvps[host_p] = _no_jvp
