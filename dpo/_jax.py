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
on the CPU, what training calls is compiled into the program (``_jax_cpu.py``) where it is small,
and everything else is a callback, which runs NumPy and never JAX; on a GPU, see ``_jax_gpu.py``.

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

from ._arrays import as_companion, as_scores, as_temperatures, compute_dtype, kind_of
from ._checks import check_temperatures, is_traced
from ._designs import designed
from ._device import as_host, beside, namespace
from ._engine import Sampler
from ._estimate import Estimate
from ._host_jax import called_back, fronted
from ._losses import fenchel_young
from ._seeds import Place, as_place, as_seed

if TYPE_CHECKING:
    from ._perturbed import Perturbed


class Spec(NamedTuple):
    """What a trace fixes; hashable, so that an equal call is not compiled again."""

    operation: str
    layer: Perturbed
    """At temperature 1: the operand says which."""
    axes: int
    """Of the scores, as the user's function sees them: axes before those are ``vmap``'s."""
    options: tuple = ()
    """The method's name and its keyword arguments, or what an operation needs to know."""
    slopes: tuple[str, ...] = ()
    """Of ``max`` and ``loss``: in what the slopes are, "theta" or "epsilon"."""
    kept: int = 0
    """Words a row of what a value leaves for its derivatives: a result of the one, (..., kept)
    uint32, and the last array beside the scores of the others."""


# ---------------------------------------------------------------------- operations, on real arrays


def _sampled(layer, theta, place, of: str):
    """The call on the samples that ``of`` sees, whatever they are used for."""
    return layer._prepare(theta, place, of)[0]


def _value(spec: Spec, layer, theta, place):
    if not spec.kept:
        return (layer(theta, seed=place),)
    call = _sampled(layer, theta, place, "value")
    mean, words = call.sampler.packed_forward()
    return call.result(mean, call.scores.shape), words.reshape(*call.scores.batch, spec.kept)


def _kept(call, words):
    """What a value left, if anything."""
    return call.sampler.unpacked(np.asarray(words[0])) if words else None


def _product(spec: Spec, layer, theta, place, t, *kept):
    call = _sampled(layer, theta, place, *spec.options)
    product, _ = call.sampler.jvp(as_companion(t, "a tangent", call.scores))
    return (call.result(product, call.scores.shape),)


def _adjoint(spec: Spec, layer, theta, place, v, *kept):
    call = _sampled(layer, theta, place, *spec.options)
    v = as_companion(v, "a tangent", call.scores)
    product, _ = call.sampler.vjp(v, _kept(call, kept))
    return (call.result(product, call.scores.shape),)


def _second(spec: Spec, layer, theta, place, v, w):
    call = _sampled(layer, theta, place, *spec.options)
    v, w = (as_companion(x, "a tangent", call.scores) for x in (v, w))
    return (call.result(call.sampler.second_order_product(v, w), call.scores.shape),)


def _epsilon_product(spec: Spec, layer, theta, place, tangent, *kept):
    call = _sampled(layer, theta, place, *spec.options)
    columns = call.whole.epsilon.shape[1]
    t = as_companion(tangent, "a tangent", call.scores)[:, :columns]
    return (call.result(call.sampler.epsilon_jvp(t), call.scores.shape),)


def _epsilon_adjoint(spec: Spec, layer, theta, place, v, *kept):
    call = _sampled(layer, theta, place, *spec.options)
    v = as_companion(v, "a tangent", call.scores)
    return (_like_epsilon(call, call.sampler.epsilon_vjp(v, None, _kept(call, kept))),)


def _like_epsilon(call, slope):
    """A slope in (rows, 1) or (rows, d) temperatures, as the operand."""
    epsilon = call.epsilon
    slope = slope.reshape(epsilon.shape).astype(epsilon.dtype)
    return jnp.asarray(as_host(slope)) if isinstance(epsilon, jax.Array) else slope


def _maximum(spec: Spec, layer, theta, place, *y_true):
    """``max`` or ``loss``, and slopes of it, from one pass over the samples."""
    if not spec.slopes:
        if y_true:
            return (layer.loss(theta, *y_true, seed=place, normalize=spec.options[0]),)
        return (layer.max(theta, seed=place),)
    call = _sampled(layer, theta, place, "max")
    maximum, _, mean = call.sampler.maximum()
    value, by_offset = maximum, None
    if y_true:
        targets, offset, by_offset = layer._targets(call, *y_true, *spec.options)
        value = fenchel_young(call.scores.rows, value, targets, call.whole.sign, offset)
    results = [call.result(value, call.scores.batch)]
    if "theta" in spec.slopes:
        results.append(call.result(call.sampler.slope_of_maximum(mean), call.scores.shape))
    if "epsilon" in spec.slopes:
        slope = call.sampler.epsilon_slope_of_maximum(maximum, mean)
        if by_offset is not None:
            slope = slope + beside(by_offset, slope)
        results.append(_like_epsilon(call, slope))
    return tuple(results)


def _method(spec: Spec, layer, theta, place, *directions):
    name, parameters = spec.options
    if name == "estimate":
        direction = directions[0] if directions else None
        result = layer.estimate(theta, seed=place, direction=direction, **dict(parameters))
        number = np.broadcast_to(np.asarray(result.num_samples, np.uint32), _batch(layer, theta))
        return result.mean, result.standard_error, number
    return (getattr(layer, name)(theta, *directions, seed=place, **dict(parameters)),)


_OPERATIONS: dict[str, Callable[..., tuple]] = {
    "value": _value,
    "max": _maximum,
    "loss": _maximum,
    "product": _product,
    "adjoint": _adjoint,
    "second": _second,
    "epsilon_product": _epsilon_product,
    "epsilon_adjoint": _epsilon_adjoint,
    "method": _method,
}
_LINEAR = {
    "product": "adjoint",
    "adjoint": "product",
    "second": "second",
    "epsilon_product": "epsilon_adjoint",
    "epsilon_adjoint": "epsilon_product",
}
"""Operations that are linear in the arrays beside the scores, and their transposes."""


def _batch(layer, theta) -> tuple[int, ...]:
    return theta.shape[: theta.ndim - layer.oracle.event_ndim]


def _run(theta, seeds, offsets, epsilon, *arrays, spec: Spec):
    """An operation on real arrays, JAX's or NumPy's, whose leading axes are independent calls."""
    mapped = theta.ndim - spec.axes
    layer = spec.layer._at(epsilon)
    operation = ft.partial(_OPERATIONS[spec.operation], spec, layer)
    seeds, offsets = np.asarray(seeds), np.asarray(offsets)
    calls = theta.shape[:mapped]
    words = seeds.reshape(int(np.prod(calls)), *seeds.shape[mapped:])
    firsts = offsets.reshape(len(words), 2)
    if (words == words[:1]).all() and (firsts == firsts[:1]).all():
        rows = np.arange(int(np.prod(_batch(layer, theta)[mapped:])))
        return operation(theta, _place(words, firsts, np.tile(rows, len(words))), *arrays)
    each = (theta, seeds, offsets, epsilon, *arrays)
    results = [_run(*(x[i][None] for x in each), spec=spec) for i in np.ndindex(calls)]
    stack = jnp.stack if isinstance(theta, jax.Array) else namespace(theta).stack
    return tuple(
        stack([r[0] for r in of]).reshape(calls + of[0].shape[1:])
        for of in zip(*results, strict=True)
    )


def _place(words, firsts, rows) -> Place:
    """Where the rows of calls of one seed are in the noise contract."""
    if len(words) == 0:
        return Place(0)
    place = as_place(words[0], *firsts[0])
    return place if len(words) == 1 else place._replace(rows=rows)


# ------------------------------------------------------------------------------------ the primitive

perturbed_p = Primitive("perturbed")
perturbed_p.multiple_results = True


def _impl(theta, seeds, offsets, *others, spec: Spec):
    theta, *rest = (jnp.asarray(x) for x in (theta, *others))  # of one kind: JAX passes any
    return [jnp.asarray(x) for x in _run(theta, seeds, offsets, *rest, spec=spec)]


@perturbed_p.def_abstract_eval
def _shapes(theta, seeds, offsets, epsilon, *arrays, spec: Spec):
    """Shapes and dtypes of an operation's results."""
    batch = _batch(spec.layer, theta)
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
        results = [(batch if _is_shared(spec.layer, epsilon) else theta.shape, theta.dtype)]
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
        outputs = _run(*map(np.asarray, operands), spec=spec)
        return tuple(np.asarray(x, r.dtype) for x, r in zip(outputs, results, strict=True))

    return call


def _over_devices(*operands, spec: Spec):
    results = _shapes(*map(jax.typeof, operands), spec=spec)
    shapes = [jax.ShapeDtypeStruct(r.shape, r.dtype) for r in results]
    return jax.pure_callback(_callback(spec, shapes), shapes, *operands)


def _compiled(context, *operands, spec: Spec):
    """The operation inside a compiled program: a handler, or a callback."""
    plan = _handlers().plan(spec, _facts(spec, *context.avals_in).exact, *context.avals_in)
    if plan is not None:
        handler, parameters = plan
        return jax.ffi.ffi_lowering(handler)(context, *operands, parameters=parameters)
    if getattr(context.module_context.axis_context, "num_devices", 0) != 1:
        over_devices = mlir.lower_fun(_over_devices, multiple_results=True)
        return over_devices(context, *operands, spec=spec)
    return called_back(context, _callback(spec, context.avals_out), *operands)


@ft.cache
def _handlers():
    """Importing them imports Numba, so not before a program is compiled."""
    from . import _jax_cpu

    return _jax_cpu


def _on_gpu(context, *operands, spec: Spec):
    """CUDA kernels on XLA's stream. Not yet run on a GPU."""
    return mlir.lower_fun(_in_buffers, multiple_results=True)(context, *operands, spec=spec)


def _in_buffers(*operands, spec: Spec):
    from ._jax_gpu import in_buffers

    results = _shapes(*map(jax.typeof, operands), spec=spec)
    plain, forgotten = spec._replace(kept=0), []
    if spec.kept and spec.operation == "value":  # decided again in backward, as it is cheaper there
        forgotten = [jnp.zeros(r.shape, r.dtype) for r in results[1:]]
        results = results[:1]
    elif spec.kept:
        operands = operands[:-1]
    return [*in_buffers(ft.partial(_run, spec=plain), results, *operands), *forgotten]


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
    if operation in _LINEAR:
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
        keeping = spec._replace(kept=_facts(spec, *primals).kept)
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
    sign = _facts(spec, *primals).sign
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
        raise NotImplementedError(
            "second derivatives of max and loss are for perturbation='additive': the slope of "
            "multiplicative noise is not the perturbed optimum"
        )
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
        exact = _facts(spec, *primals).exact
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
    transposed = spec._replace(operation=_LINEAR[spec.operation])
    (result,) = perturbed_p.bind(*common, cotangent, *known, spec=transposed)
    return [None] * 4 + [result if ad.is_undefined_primal(x) else None for x in arrays]


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
    if kind_of(theta) != "jax":
        raise TypeError(
            f"theta is a {kind_of(theta)} array inside a JAX transformation; pass "
            "jax.numpy.asarray(theta)"
        )
    epsilon = _temperatures(layer, theta)
    layer = layer._at(1.0)
    _checked(layer, theta.shape, theta.dtype, _is_shared(layer, epsilon))
    seeds = _words(layer, named.pop("seed"))
    offsets = _offsets(named.pop("row_offset"), named.pop("sample_offset"))
    arrays = [_beside(named.pop(key), theta, key) for key in _ARRAYS if named.get(key) is not None]
    named.pop("direction", None)
    if name == "estimate" and bool(arrays) != (named["of"] in ("vjp", "jvp")):
        raise ValueError('direction is for of="vjp" and of="jvp", which need it')
    if name in ("__call__", "max", "loss"):
        operation = "value" if name == "__call__" else name
        spec = Spec(operation, layer, theta.ndim, tuple(map(bool, named.values())))
    else:
        spec = Spec("method", layer, theta.ndim, (name, tuple(named.items())))
    operands = _varying_alike(theta, seeds, offsets, epsilon, *arrays)
    results = perturbed_p.bind(*operands, spec=spec)
    if name != "estimate":
        return results[0]
    mean, error, number = results
    fixed = (
        isinstance(layer.num_samples, int) and not _facts(spec, theta, None, None, epsilon).exact
    )
    return Estimate(mean, error, layer.num_samples if fixed else number)


def _varying_alike(*operands):
    """The operands, all varying over the axes of ``jax.shard_map`` that any varies over."""
    varies = [jax.typeof(x).manual_axis_type.varying for x in operands]
    axes = frozenset().union(*varies)
    return [
        jax.lax.pcast(x, tuple(axes - own), to="varying") if axes - own else x
        for x, own in zip(operands, varies, strict=True)
    ]


_ARRAYS = ("v", "t", "w", "y_true", "direction")


@ft.cache
def _signature(method: Callable) -> inspect.Signature:
    return inspect.signature(method)


class Facts(NamedTuple):
    """What follows from a layer and the shape of its scores and temperatures."""

    exact: bool
    sign: int
    """-1 where scores are costs."""
    kept: int
    """Words a row of what a value can leave for its derivatives."""


@ft.lru_cache(maxsize=1024)
def _checked(layer: Perturbed, shape: tuple[int, ...], dtype: np.dtype, shared: bool) -> Facts:
    """Raise what a call with such scores would, before it is compiled."""
    scores = _dummy(layer, shape, dtype)
    whole = (layer if shared else layer._at(np.ones(shape)))._whole(scores, Place(0))
    exact, kept = layer._is_exact(whole), 0
    if isinstance(layer.num_samples, int) and not exact:
        sampler = designed(whole, layer.num_samples)
        kept = sampler.kept_words() if isinstance(sampler, Sampler) else 0
    return Facts(exact, int(whole.sign), kept)


def _dummy(layer: Perturbed, shape: tuple[int, ...], dtype: np.dtype):
    """Scores of a shape and dtype that a call would take."""
    compute = compute_dtype(dtype.name, "theta", "theta.astype('float32')")
    return as_scores(np.zeros(shape, compute), "theta", layer.oracle.event_ndim)


def _facts(spec: Spec, theta, seeds, offsets, epsilon, *arrays) -> Facts:
    own = slice(theta.ndim - spec.axes, None)
    shared = _is_shared(spec.layer, epsilon)
    return _checked(spec.layer, theta.shape[own], theta.dtype, shared)


def _is_shared(layer: Perturbed, epsilon) -> bool:
    """Whether a row has one temperature."""
    event = layer.oracle.event_ndim
    return epsilon.shape[-event:] == (1,) * event


def _temperatures(layer: Perturbed, theta):
    """``epsilon`` as an operand: with the axes of theta, (..., 1) or one a coordinate."""
    epsilon, event = layer.epsilon, layer.oracle.event_ndim
    if kind_of(epsilon) not in ("numpy", "jax"):
        raise TypeError(
            f"epsilon is a {kind_of(epsilon)} array but theta is a jax array; pass one kind"
        )
    scores = _dummy(layer, theta.shape, theta.dtype)
    as_temperatures(np.ones(np.shape(epsilon)), scores)  # raises where shapes do not fit
    if not is_traced(epsilon):
        check_temperatures(np.asarray(epsilon))
    epsilon = jnp.asarray(epsilon, scores.rows.dtype)
    whole = epsilon.ndim == theta.ndim
    if whole and epsilon.shape[-event:] != (1,) * event:
        return jnp.broadcast_to(epsilon, theta.shape)
    if not whole:
        epsilon = epsilon.reshape(epsilon.shape + (1,) * event)
    return jnp.broadcast_to(epsilon, theta.shape[: theta.ndim - event] + (1,) * event)


def _beside(x, theta, name: str):
    """A second array, broadcast to theta's shape; integers and booleans as floats."""
    if kind_of(x) != "jax":
        raise TypeError(f"{name} is a {kind_of(x)} array but theta is a jax array; pass one kind")
    if x.dtype.kind in "iub":
        x = x.astype(np.float32)
    try:
        return jnp.broadcast_to(x, theta.shape)
    except ValueError:
        raise ValueError(
            f"{name} must broadcast to theta's shape {theta.shape}, got shape {x.shape}"
            + ("; for class labels pass one-hot rows" if name == "y_true" else "")
        ) from None


def _words(layer: Perturbed, seed):
    """A seed as an operand: two words, or an integer that is traced."""
    if layer.method == "exact":
        return np.zeros(2, np.uint32)
    if not isinstance(seed, jax.Array):
        if type(seed).__module__.partition(".")[0] == "torch":
            raise TypeError("seed is torch's, which a JAX program would read once: pass a key")
        return np.array(as_seed(seed, "jax"), np.uint32)
    if jax.dtypes.issubdtype(seed.dtype, jax.dtypes.prng_key):
        seed = jax.random.key_data(seed)
    if seed.shape not in ((), (2,)) or seed.dtype.kind not in "iu":
        raise TypeError(
            "seed must be an int, two uint32 words or a JAX key of two words, got "
            f"{seed.dtype}{list(seed.shape)}"
        )
    return seed


def _offsets(row_offset, sample_offset):
    """The numbers of the first row and of the first sample as an operand, traced or not."""
    if not is_traced(row_offset, sample_offset):
        return np.array(as_place(None, row_offset, sample_offset)[1:3], np.uint32)
    for name, value in (("row_offset", row_offset), ("sample_offset", sample_offset)):
        if is_traced(value) and (value.ndim > 0 or value.dtype.kind not in "iu"):
            raise TypeError(f"{name} must be an integer, got {value.dtype}{list(value.shape)}")
    traced = next(x for x in (row_offset, sample_offset) if is_traced(x))
    return jnp.stack([jnp.asarray(x, traced.dtype) for x in (row_offset, sample_offset)])
