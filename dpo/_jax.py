"""JAX transformations around the engine. Imported only once a JAX tracer has been seen.

One primitive, ``perturbed``, whose operands are the scores, the seed, the number of the first row
and sample, the temperatures and arrays beside them:

    operation         results                     derivative in theta along t, in epsilon along e
    value             y = layer(theta)            product of t, epsilon_product of e
    max, loss         F, and its slopes           <slope, .>; of the slope in theta, as of value
    product           J t                         second of t, where exact; else an error
    adjoint           v^T J                       likewise
    second            D^2 y [v, w]                an error
    epsilon_product   sum e dy / d epsilon        an error
    epsilon_adjoint   v^T dy / d epsilon          an error
    method            anything explicit           an error

The transpose of a product is its adjoint, on the samples that the value saw: forward and reverse
mode are the same numbers. Outside ``jit`` the primitive calls the layer on concrete arrays. Inside,
on the CPU, what training calls is compiled into the program (``_jax_cpu.py``), and everything else
is a callback, which runs NumPy and never JAX; on a GPU, see ``_jax_gpu.py``.

Temperatures are an operand of as many axes as the scores, with one entry a row or one a
coordinate: how an ``epsilon`` broadcasts, and the sum that transposes it, are JAX's own.

``vmap`` maps: each instance is what the call of it alone gives, with the noise of its own rows
(numbered from 0) and of its seed. Under one seed instances therefore share their noise; map over
keys, or pass the whole batch, for independent noise. Instances of one seed are one launch.
"""

from __future__ import annotations

import functools as ft
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ._arrays import kind_of
from ._checks import check_estimated, refuse_second_slope
from ._estimate import Estimate
from ._host_jax import called_back, fronted
from ._jax_operands import (
    as_offsets,
    as_operand_beside,
    as_temperature_operand,
    as_words,
    checked,
    facts,
    is_shared,
    varying_alike,
)
from ._jax_operations import LINEAR, Spec, batch_of, run
from ._oracles import is_concrete

if TYPE_CHECKING:
    from ._perturbed import Perturbed


# ------------------------------------------------------------------------------------ the primitive

perturbed_p = Primitive("perturbed")
perturbed_p.multiple_results = True


def _impl(theta, seeds, offsets, *others, spec: Spec):
    theta, *rest = (jnp.asarray(x) for x in (theta, *others))  # of one kind: JAX passes any
    operands = theta, seeds, offsets, *rest
    if spec.kept and not _is_on_cpu(theta):
        results = _forgetting(lambda _, given, plain: run(*given, spec=plain), operands, spec)
    else:
        results = run(*operands, spec=spec)
    return [jnp.asarray(x) for x in results]


def _is_on_cpu(x: jax.Array) -> bool:
    return all(device.platform == "cpu" for device in x.devices())


def _forgetting(call, operands, spec: Spec) -> list:
    """The results of ``call(their shapes, operands, spec)`` on a GPU, where nothing is kept for
    derivatives: to decide again is cheaper there."""
    results, plain = _shapes(*map(jax.typeof, operands), spec=spec), spec._replace(kept=0)
    if not spec.kept:
        return call(results, operands, plain)
    if spec.operation != "value":
        return call(results, operands[:-1], plain)
    words = [jnp.zeros(r.shape, r.dtype) for r in results[1:]]
    return [*call(results[:1], operands, plain), *words]


@perturbed_p.def_abstract_eval
def _shapes(theta, seeds, offsets, epsilon, *arrays, spec: Spec):
    """Shapes and dtypes of an operation's results."""
    batch = batch_of(spec.layer, theta)
    name = spec.options[0] if spec.operation == "method" else spec.operation
    if name in ("max", "loss"):
        like = {"theta": theta, "epsilon": epsilon}
        slopes = [(like[of].shape, like[of].dtype) for of in spec.slopes]
        results = [(batch, theta.dtype), *slopes]
    elif name == "estimate":
        (of,) = (value for key, value in spec.options[1] if key == "of")
        square = theta.shape + theta.shape[len(batch) :]
        mean = {"max": batch, "jacobian": square}.get(of, theta.shape)
        results = [(mean, theta.dtype)] * 2 + [(batch, np.dtype(np.uint32))]
    elif name == "jacobian":
        results = [(theta.shape + theta.shape[len(batch) :], theta.dtype)]
    elif name == "vjp_epsilon":
        results = [(batch if is_shared(spec.layer, epsilon) else theta.shape, theta.dtype)]
    elif name == "epsilon_adjoint":
        results = [(epsilon.shape, epsilon.dtype)]
    else:
        results = [(theta.shape, theta.dtype)]
    if name == "value" and spec.kept:
        results.append(((*batch, spec.kept), np.dtype(np.uint32)))
    return [_like(theta, *result) for result in results]


def _like(theta, shape, dtype):
    """A shape and dtype, on the mesh of the scores; varying, as they do, over manual axes of it."""
    whole = theta.sharding.update(spec=jax.sharding.PartitionSpec(*[None] * len(shape)))
    return theta.update(shape=shape, dtype=dtype, weak_type=False, sharding=whole)


def _callback(spec: Spec, results):
    def call(*operands):
        outputs = run(*map(np.asarray, operands), spec=spec)
        return tuple(np.asarray(x, r.dtype) for x, r in zip(outputs, results, strict=True))

    return call


def _over_devices(*operands, spec: Spec):
    results = _shapes(*map(jax.typeof, operands), spec=spec)
    shapes = [jax.ShapeDtypeStruct(r.shape, r.dtype) for r in results]
    return jax.pure_callback(_callback(spec, shapes), shapes, *operands)


def _compiled(context, *operands, spec: Spec):
    """The operation inside a compiled program: a handler, or a callback."""
    theta, exact = context.avals_in[0], facts(spec, *context.avals_in).exact
    single = [x.update(dtype=_single(x)) for x in context.avals_in]
    plan = _handlers().plan(spec, exact, *single)
    if plan is not None and _single(theta) != theta.dtype:
        return mlir.lower_fun(_in_single, multiple_results=True)(context, *operands, spec=spec)
    if plan is not None:
        handler, parameters = plan
        return jax.ffi.ffi_lowering(handler)(context, *operands, parameters=parameters)
    if getattr(context.module_context.axis_context, "num_devices", 0) != 1:
        over_devices = mlir.lower_fun(_over_devices, multiple_results=True)
        return over_devices(context, *operands, spec=spec)
    return called_back(context, _callback(spec, context.avals_out), *operands)


def _single(x) -> np.dtype:
    """The dtype that an operand is computed in: float32 for float16 and bfloat16."""
    is_half = x.dtype.itemsize == 2 and jnp.issubdtype(x.dtype, jnp.floating)
    return np.dtype(np.float32) if is_half else x.dtype


def _in_single(*operands, spec: Spec):
    """The operation on half-precision scores: computed in float32, and rounded."""
    types = _shapes(*map(jax.typeof, operands), spec=spec)
    results = perturbed_p.bind(*(x.astype(_single(x)) for x in operands), spec=spec)
    return [x.astype(t.dtype) for x, t in zip(results, types, strict=True)]


@ft.cache
def _handlers():
    """Importing them imports Numba, so not before a program is compiled."""
    from . import _jax_cpu

    return _jax_cpu


def _on_gpu(context, *operands, spec: Spec):
    """CUDA kernels on XLA's stream."""
    return mlir.lower_fun(_in_buffers, multiple_results=True)(context, *operands, spec=spec)


def _in_buffers(*operands, spec: Spec):
    from ._jax_gpu import in_buffers

    def call(results, given, plain):
        return in_buffers(ft.partial(run, spec=plain), results, *given)

    return _forgetting(call, operands, spec)


def _elsewhere(context, *operands, spec: Spec):
    raise NotImplementedError(
        "under jax.jit, dpo is for the CPU and for CUDA GPUs: compile with "
        "jax.jit(f, backend='cpu'), or call the layer outside jit"
    )


def _map(operands, axes, *, spec: Spec):
    """Every operand gets the mapped axis, in front."""
    results = perturbed_p.bind(*fronted(operands, axes), spec=spec)
    return results, [0] * len(results)


# ------------------------------------------------------------------------------------- derivatives


class _Moves(NamedTuple):
    """Tangents of the scores and of the temperatures; None where there is none."""

    theta: Any
    epsilon: Any

    @classmethod
    def of(cls, tangents) -> _Moves:
        moved = (None if isinstance(t, ad.Zero) else t for t in (tangents[0], tangents[3]))
        return cls(*moved)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, t in zip(self._fields, self, strict=True) if t is not None)


def _jvp(primals, tangents, *, spec: Spec):
    moves, operation = _Moves.of(tangents), spec.operation
    moved = [not isinstance(t, ad.Zero) for t in tangents[4:]]
    if operation in LINEAR:
        return _jvp_of_linear(primals, tangents[4:], moves, spec)
    if operation == "method" and (moves.names or any(moved)):
        raise NotImplementedError(
            f"layer.{spec.options[0]} is not differentiable; differentiate layer(theta), "
            "layer.max(theta) or layer.loss(theta, y_true), or use jax.lax.stop_gradient(theta)"
        )
    if operation == "loss" and any(moved):
        raise TypeError(
            "y_true requires a gradient, but the loss is differentiable in theta and epsilon only; "
            "pass jax.lax.stop_gradient(y_true)"
        )
    if not moves.names:
        results = perturbed_p.bind(*primals, spec=spec)
        return results, [_zero(x) for x in results]
    if operation == "value":
        keeping = spec._replace(kept=facts(spec, *primals).kept)
        value, *kept = perturbed_p.bind(*primals, spec=keeping)
        changes = [_change_of_value(primals, moves, keeping, "value", *kept)]
        if spec.kept:
            return [value, *kept], changes + [_zero(x) for x in kept]
        return [value], changes
    return _jvp_of_maximum(primals, moves, spec)


def _zero(x) -> ad.Zero:
    """No tangent of ``x``."""
    return ad.Zero(jax.typeof(x).to_tangent_aval())


def _change_of_value(primals, moves: _Moves, spec: Spec, of: str, *kept):
    """``J t + sum e dy / d epsilon``, on the samples that ``of`` sees."""
    spec = spec._replace(options=(of,), slopes=())
    changes = [
        perturbed_p.bind(*primals[:4], t, *kept, spec=spec._replace(operation=operation))[0]
        for operation, t in zip(("product", "epsilon_product"), moves, strict=True)
        if t is not None
    ]
    return ft.reduce(jnp.add, changes)


def _jvp_of_maximum(primals, moves: _Moves, spec: Spec):
    """Of ``max`` and ``loss``, with or without their slopes: that in theta is the optimum."""
    theta, *_ = primals
    if "epsilon" in spec.slopes:
        raise NotImplementedError(
            "derivatives of max and loss in epsilon are not differentiable again; "
            "use jax.lax.stop_gradient(epsilon) in one of the two"
        )
    wanted = tuple(n for n in _Moves._fields if n in moves.names or n in spec.slopes)
    value, *slopes = perturbed_p.bind(*primals, spec=spec._replace(slopes=wanted))
    slope = dict(zip(wanted, slopes, strict=True))
    sign = facts(spec, *primals).sign
    residual = dict(slope)
    if "theta" in slope and len(primals) > 4:
        residual["theta"] = slope["theta"] - sign * primals[4].astype(theta.dtype)
    event = tuple(range(-spec.layer.oracle.event_ndim, 0))
    changes = [
        (residual[name] * getattr(moves, name)).sum(event).astype(theta.dtype)
        for name in moves.names
    ]
    change = ft.reduce(jnp.add, changes)
    if not spec.slopes:
        return [value], [change]
    if spec.layer.perturbation == "multiplicative":
        refuse_second_slope()
    return [value, slope["theta"]], [change, sign * _change_of_value(primals, moves, spec, "max")]


def _jvp_of_linear(primals, tangents, moves: _Moves, spec: Spec):
    """Linear in every array; in theta the next derivative, where there is one."""
    common, arrays = primals[:4], primals[4:]
    results = perturbed_p.bind(*primals, spec=spec)
    changes = []
    for k, tangent in enumerate(tangents):
        if not isinstance(tangent, ad.Zero):
            moved = [*arrays[:k], tangent, *arrays[k + 1 :]]
            changes += perturbed_p.bind(*common, *moved, spec=spec)
    if moves.epsilon is not None or (moves.theta is not None and "epsilon" in spec.operation):
        raise NotImplementedError(
            "derivatives of the perturbed optimum are differentiable in theta only, and those in "
            "epsilon not at all: use jax.lax.stop_gradient(epsilon)"
        )
    if moves.theta is not None:
        exact = facts(spec, *primals).exact
        if not exact or spec.operation == "second":
            raise NotImplementedError(
                "the perturbed optimum cannot be differentiated "
                + ("three times" if exact else "twice by sampling; use method='exact'")
            )
        second = spec._replace(operation="second")
        changes += perturbed_p.bind(*common, *arrays, moves.theta, spec=second)
    return results, [ft.reduce(jnp.add, changes) if changes else _zero(results[0])]


def _transpose(cotangents, *operands, spec: Spec):
    """``J`` against ``J^T``; ``<u, D^2 y [v, w]>`` is symmetric, being a third derivative."""
    (cotangent,) = cotangents
    common, arrays = operands[:4], operands[4:]
    known = [x for x in arrays if not ad.is_undefined_primal(x)]
    if isinstance(cotangent, ad.Zero):
        return [None] * len(operands)
    transposed = spec._replace(operation=LINEAR[spec.operation])
    (result,) = perturbed_p.bind(*common, cotangent, *known, spec=transposed)
    return [None] * 4 + [
        _placed_as(x.aval, result) if ad.is_undefined_primal(x) else None for x in arrays
    ]


def _placed_as(aval, x):
    """``x`` on the axes of an explicit mesh as ``aval`` says, which a cotangent must be."""
    if jax.typeof(x).sharding == aval.sharding:
        return x
    return jax.sharding.reshard(x, aval.sharding)


perturbed_p.def_impl(_impl)
mlir.register_lowering(perturbed_p, _elsewhere)
mlir.register_lowering(perturbed_p, _compiled, platform="cpu")
mlir.register_lowering(perturbed_p, _on_gpu, platform="cuda")
batching.primitive_batchers[perturbed_p] = _map
ad.primitive_jvps[perturbed_p] = _jvp
ad.primitive_transposes[perturbed_p] = _transpose


# -------------------------------------------------------------------------------- the layer's calls


def call(name: str, layer: Perturbed, theta: Any, *args: Any, **parameters: Any):
    """``layer.name(theta, *args, **parameters)``, something of it being traced."""
    bound = _signature(getattr(type(layer), name)).bind(layer, theta, *args, **parameters)
    bound.apply_defaults()
    _, theta, *given = bound.arguments.values()
    named = dict(zip(list(bound.arguments)[2:], given, strict=True))
    if name == "samples":
        raise NotImplementedError(
            "samples is not available inside JAX transformations; call it on concrete arrays"
        )
    if name == "pullback":
        raise NotImplementedError(
            "pullback is for concrete arrays; inside JAX transformations use jax.vjp(layer, theta)"
        )
    if kind_of(theta) != "jax":
        raise TypeError(
            f"theta is a {kind_of(theta)} array inside a JAX transformation; pass "
            "jax.numpy.asarray(theta)"
        )
    if not is_concrete(theta.shape):
        raise NotImplementedError(
            f"theta has the symbolic shape {theta.shape}, and a program holds a layer for one "
            "shape: export a program for each shape, given in numbers"
        )
    epsilon = as_temperature_operand(layer, theta)
    layer = layer._at(1.0)
    checked(layer, theta.shape, theta.dtype, is_shared(layer, epsilon))
    seeds = as_words(layer, named.pop("seed"))
    offsets = as_offsets(named.pop("row_offset"), named.pop("sample_offset"))
    arrays = [
        as_operand_beside(named.pop(key), theta, key)
        for key in _ARRAYS
        if named.get(key) is not None
    ]
    named.pop("direction", None)
    if name == "estimate":
        check_estimated(named["of"], bool(arrays))
    if name in ("__call__", "max", "loss"):
        operation = "value" if name == "__call__" else name
        spec = Spec(operation, layer, theta.ndim, tuple(map(bool, named.values())))
    else:
        spec = Spec("method", layer, theta.ndim, (name, tuple(named.items())))
    operands = varying_alike(theta, seeds, offsets, epsilon, *arrays)
    results = perturbed_p.bind(*operands, spec=spec)
    if name != "estimate":
        return results[0]
    mean, error, number = results
    fixed = isinstance(layer.num_samples, int) and not facts(spec, theta, None, None, epsilon).exact
    return Estimate(mean, error, layer.num_samples if fixed else number)


_ARRAYS = ("v", "t", "w", "y_true", "direction")


@ft.cache
def _signature(method: Callable) -> inspect.Signature:
    return inspect.signature(method)
