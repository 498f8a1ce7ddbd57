"""JAX transformations around the engine. Imported only once a JAX tracer has been seen.

One primitive, ``perturbed``, whose operands are the scores, the seed and arrays beside them:

    operation     results                      derivative along t
    value         y = layer(theta)             product of t
    max, loss     F, or F and its slope s      <s, t> (less <y_true, t>), and product of t
    product       J t                          second of t, where exact; else an error
    adjoint       v^T J                        likewise
    second        D^2 y [v, w]                 an error
    method        anything explicit            an error

The transpose of ``product`` is ``adjoint``, on the samples that the value saw: forward and reverse
mode are the same numbers. Outside ``jit`` the primitive calls the layer on concrete arrays; inside,
through a callback on the CPU, which runs NumPy and never JAX.

``vmap`` maps: each instance is what the call of it alone gives, with the noise of its own rows
(numbered from 0) and of its seed. Under one seed instances therefore share their noise; map over
keys, or pass the whole batch, for independent noise. Instances of one seed are one launch.
"""

from __future__ import annotations

import dataclasses
import functools as ft
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ._arrays import as_companion, as_scores, compute_dtype, kind_of
from ._checks import is_traced
from ._designs import designed
from ._estimate import Estimate
from ._losses import fenchel_young
from ._seeds import Place, as_seed

if TYPE_CHECKING:
    from ._perturbed import Perturbed


class Spec(NamedTuple):
    """What a trace fixes; hashable, so that an equal call is not compiled again."""

    operation: str
    layer: Perturbed
    axes: int
    """Of the scores, as the user's function sees them: axes before those are ``vmap``'s."""
    options: tuple = ()
    """The method's name and its keyword arguments, or what an operation needs to know."""


# ---------------------------------------------------------------------- operations, on real arrays


def _sampled(layer, theta, seed, of: str):
    """The call on the samples that ``of`` sees, whatever they are used for."""
    return layer._prepare(theta, seed if isinstance(seed, Place) else Place(seed), of)[0]


def _linear(spec: Spec, layer, theta, seed, *directions):
    call = _sampled(layer, theta, seed, *spec.options)
    arrays = [as_companion(x, "a tangent", call.scores) for x in directions]
    apply = {"product": "jvp", "adjoint": "vjp", "second": "second_order_product"}
    result = getattr(call.sampler, apply[spec.operation])(*arrays)
    return (call.result(result if spec.operation == "second" else result[0], call.scores.shape),)


def _slope(spec: Spec, layer, theta, seed, *y_true):
    """``max`` or ``loss``, and the slope of ``max``, from one pass over the samples."""
    call = _sampled(layer, theta, seed, "max")
    value, _, mean = call.sampler.maximum()
    slope = call.result(call.sampler.slope_of_maximum(mean), call.scores.shape)
    if y_true:
        targets, offset, _ = layer._targets(call, *y_true, *spec.options)
        value = fenchel_young(call.scores.rows, value, targets, call.whole.sign, offset)
    return call.result(value, call.scores.batch), slope


def _method(spec: Spec, layer, theta, seed, *directions):
    name, parameters = spec.options
    if name == "estimate":
        direction = directions[0] if directions else None
        result = layer.estimate(theta, seed=seed, direction=direction, **dict(parameters))
        number = np.broadcast_to(np.asarray(result.num_samples, np.uint32), _batch(layer, theta))
        return result.mean, result.standard_error, number
    return (getattr(layer, name)(theta, *directions, seed=seed, **dict(parameters)),)


_OPERATIONS: dict[str, Callable[..., tuple]] = {
    "value": lambda spec, layer, theta, seed: (layer(theta, seed=seed),),
    "max": lambda spec, layer, theta, seed: (layer.max(theta, seed=seed),),
    "loss": lambda spec, layer, theta, seed, y: (
        layer.loss(theta, y, seed=seed, normalize=spec.options[0]),
    ),
    "max_and_slope": _slope,
    "loss_and_slope": _slope,
    "product": _linear,
    "adjoint": _linear,
    "second": _linear,
    "method": _method,
}


def _batch(layer, theta) -> tuple[int, ...]:
    return theta.shape[: theta.ndim - layer.oracle.event_ndim]


def _run(theta, seeds, *arrays, spec: Spec):
    """An operation on real arrays, JAX's or NumPy's, whose leading axes are independent calls."""
    mapped = theta.ndim - spec.axes
    layer = _mapped(spec.layer, spec.axes, mapped)
    operation = ft.partial(_OPERATIONS[spec.operation], spec, layer)
    seeds = np.asarray(seeds)
    if mapped == 0:
        return operation(theta, seeds, *arrays)
    calls = theta.shape[:mapped]
    words = seeds.reshape(int(np.prod(calls)), *seeds.shape[mapped:])
    if len(words) == 0 or (words == words[0]).all():
        rows = int(np.prod(_batch(layer, theta)[mapped:]))
        numbers = np.tile(np.arange(rows), len(words))
        shared = Place(words[0] if len(words) else 0, rows=numbers)
        return operation(theta, shared, *arrays)
    results = [
        _run(theta[i][None], words[k][None], *(x[i][None] for x in arrays), spec=spec)
        for k, i in enumerate(np.ndindex(calls))
    ]
    stack = np.stack if isinstance(theta, np.ndarray) else jnp.stack
    return tuple(
        stack([r[0] for r in of]).reshape(calls + of[0].shape[1:])
        for of in zip(*results, strict=True)
    )


def _mapped(layer: Perturbed, axes: int, mapped: int) -> Perturbed:
    """The layer whose temperatures broadcast against mapped scores as they do against one's."""
    if mapped == 0 or np.ndim(layer.epsilon) != axes:
        return layer
    epsilon = layer.epsilon.reshape((1,) * mapped + layer.epsilon.shape)
    return dataclasses.replace(layer, epsilon=epsilon)


# ------------------------------------------------------------------------------------ the primitive

perturbed_p = Primitive("perturbed")
perturbed_p.multiple_results = True


def _impl(theta, seeds, *arrays, spec: Spec):
    results = _run(theta, seeds, *arrays, spec=spec)
    return [jnp.asarray(x) for x in results]


@perturbed_p.def_abstract_eval
def _shapes(theta, seeds, *arrays, spec: Spec):
    """Shapes and dtypes of an operation's results."""
    batch = _batch(spec.layer, theta)
    name = spec.options[0] if spec.operation == "method" else spec.operation
    shapes = {
        "max": [batch],
        "loss": [batch],
        "max_and_slope": [batch, theta.shape],
        "loss_and_slope": [batch, theta.shape],
        "jacobian": [theta.shape + theta.shape[len(batch) :]],
    }
    if name == "estimate":
        (of,) = (value for key, value in spec.options[1] if key == "of")
        (mean,) = shapes.get(of, [theta.shape])
        results = [(mean, theta.dtype)] * 2 + [(batch, np.dtype(np.uint32))]
    elif name == "vjp_epsilon":
        shared = _facts(spec, theta).one_temperature
        results = [(batch if shared else theta.shape, theta.dtype)]
    else:
        results = [(shape, theta.dtype) for shape in shapes.get(name, [theta.shape])]
    return [jax.core.ShapedArray(*result) for result in results]


def _callback(spec: Spec, results):
    def call(*operands):
        outputs = _run(*map(np.asarray, operands), spec=spec)
        return tuple(np.asarray(x, r.dtype) for x, r in zip(outputs, results, strict=True))

    return call


def _over_devices(*operands, spec: Spec):
    shapes = [jax.ShapeDtypeStruct(r.shape, r.dtype) for r in _shapes(*operands, spec=spec)]
    return jax.pure_callback(_callback(spec, shapes), shapes, *operands)


def _compiled(context, *operands, spec: Spec):
    """The operation inside a compiled program.

    This is ``jax.pure_callback`` without its copies of the operands to JAX arrays: where XLA has
    one thread, those wait for the very thread that waits for the callback.
    """
    if getattr(context.module_context.axis_context, "num_devices", 0) != 1:
        over_devices = mlir.lower_fun(_over_devices, multiple_results=True)
        return over_devices(context, *operands, spec=spec)
    results, _, _ = mlir.emit_python_callback(
        context,
        _callback(spec, context.avals_out),
        None,
        list(operands),
        context.avals_in,
        context.avals_out,
        has_side_effect=False,
        returns_token=False,
    )
    return results


def _elsewhere(context, *operands, spec: Spec):
    raise NotImplementedError(
        "under jax.jit, dpo is for the CPU: compile with jax.jit(f, backend='cpu') or, on a GPU, "
        "call the layer outside jit"
    )


def _map(operands, axes, *, spec: Spec):
    """Every operand gets the mapped axis, in front."""
    size = next(x.shape[a] for x, a in zip(operands, axes, strict=True) if a is not None)
    fronted = [
        jnp.broadcast_to(x, (size, *x.shape)) if a is None else jnp.moveaxis(x, a, 0)
        for x, a in zip(operands, axes, strict=True)
    ]
    results = perturbed_p.bind(*fronted, spec=spec)
    return results, [0] * len(results)


def _jvp(primals, tangents, *, spec: Spec):
    theta, seeds, *arrays = primals
    along, _, *array_tangents = tangents
    operation = spec.operation
    if operation in ("product", "adjoint", "second"):
        return _jvp_of_linear(theta, seeds, arrays, along, array_tangents, spec)
    moves = not isinstance(along, ad.Zero)
    if operation == "method" and (moves or not all(isinstance(t, ad.Zero) for t in array_tangents)):
        raise NotImplementedError(
            f"layer.{spec.options[0]} is not differentiable; differentiate layer(theta), "
            "layer.max(theta) or layer.loss(theta, y_true), or use jax.lax.stop_gradient(theta)"
        )
    if operation.startswith("loss") and not isinstance(array_tangents[0], ad.Zero):
        raise TypeError(
            "y_true requires a gradient, but the loss is differentiable in theta only; "
            "pass jax.lax.stop_gradient(y_true)"
        )
    if not moves:
        results = perturbed_p.bind(*primals, spec=spec)
        return results, [_zero(x) for x in results]
    if operation == "value":
        results = perturbed_p.bind(*primals, spec=spec)
        return results, _product(theta, seeds, along, spec, "value")
    return _jvp_of_maximum(primals, along, spec)


def _zero(x) -> ad.Zero:
    """No tangent of ``x``."""
    dtype = x.dtype if jnp.issubdtype(x.dtype, np.inexact) else jax.dtypes.float0
    return ad.Zero(jax.core.ShapedArray(x.shape, dtype))


def _product(theta, seeds, along, spec: Spec, of: str):
    """``J t`` of the value, on the samples that ``of`` sees."""
    return perturbed_p.bind(
        theta, seeds, along, spec=spec._replace(operation="product", options=(of,))
    )


def _jvp_of_maximum(primals, along, spec: Spec):
    """Of ``max`` and ``loss``, with or without their slope: it is the perturbed optimum."""
    theta, seeds, *targets = primals
    layer, plain = spec.layer, spec.operation.removesuffix("_and_slope")
    sign = _facts(spec, theta).sign
    value, slope = perturbed_p.bind(*primals, spec=spec._replace(operation=plain + "_and_slope"))
    residual = slope - sign * targets[0].astype(theta.dtype) if targets else slope
    event = tuple(range(-layer.oracle.event_ndim, 0))
    change = (residual * along).sum(event)
    if spec.operation == plain:
        return [value], [change]
    if layer.perturbation == "multiplicative":
        raise NotImplementedError(
            "second derivatives of max and loss are for perturbation='additive': the slope of "
            "multiplicative noise is not the perturbed optimum"
        )
    (product,) = _product(theta, seeds, along, spec, "max")
    return [value, slope], [change, sign * product]


def _jvp_of_linear(theta, seeds, arrays, along, tangents, spec: Spec):
    """Linear in every array; in theta the next derivative, where there is one."""
    results = perturbed_p.bind(theta, seeds, *arrays, spec=spec)
    total = None
    for k, tangent in enumerate(tangents):
        if not isinstance(tangent, ad.Zero):
            moved = [*arrays[:k], tangent, *arrays[k + 1 :]]
            (change,) = perturbed_p.bind(theta, seeds, *moved, spec=spec)
            total = change if total is None else total + change
    if not isinstance(along, ad.Zero):
        exact = _facts(spec, theta).exact
        if not exact or spec.operation == "second":
            raise NotImplementedError(
                "the perturbed optimum cannot be differentiated "
                + ("three times" if exact else "twice by sampling; use method='exact'")
            )
        second = spec._replace(operation="second")
        (change,) = perturbed_p.bind(theta, seeds, *arrays, along, spec=second)
        total = change if total is None else total + change
    return results, [_zero(results[0]) if total is None else total]


def _transpose(cotangents, theta, seeds, *arrays, spec: Spec):
    """``J`` against ``J^T``; ``<u, D^2 y [v, w]>`` is symmetric, being a third derivative."""
    (cotangent,) = cotangents
    known = [x for x in arrays if not ad.is_undefined_primal(x)]
    if isinstance(cotangent, ad.Zero):
        return [None] * (2 + len(arrays))
    swapped = {"product": "adjoint", "adjoint": "product", "second": "second"}[spec.operation]
    (result,) = perturbed_p.bind(
        theta, seeds, cotangent, *known, spec=spec._replace(operation=swapped)
    )
    return [None, None, *(result if ad.is_undefined_primal(x) else None for x in arrays)]


perturbed_p.def_impl(_impl)
mlir.register_lowering(perturbed_p, _elsewhere)
mlir.register_lowering(perturbed_p, _compiled, platform="cpu")
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
    for offset in ("row_offset", "sample_offset"):
        if named.pop(offset) != 0:
            raise NotImplementedError(f"{offset} is not available inside JAX transformations")
    if name == "samples":
        raise NotImplementedError(
            "samples is not available inside JAX transformations; call it on concrete arrays"
        )
    if kind_of(theta) != "jax":
        raise TypeError(
            f"theta is a {kind_of(theta)} array inside a JAX transformation; pass "
            "jax.numpy.asarray(theta)"
        )
    layer = _in_numpy(layer)
    _checked(layer, theta.shape, theta.dtype)
    seeds = _words(layer, named.pop("seed"))
    arrays = [_beside(named.pop(key), theta, key) for key in _ARRAYS if named.get(key) is not None]
    named.pop("direction", None)
    if name == "estimate" and bool(arrays) != (named["of"] in ("vjp", "jvp")):
        raise ValueError('direction is for of="vjp" and of="jvp", which need it')
    if name in ("__call__", "max", "loss"):
        operation = "value" if name == "__call__" else name
        spec = Spec(operation, layer, theta.ndim, tuple(map(bool, named.values())))
    else:
        spec = Spec("method", layer, theta.ndim, (name, tuple(named.items())))
    results = perturbed_p.bind(theta, seeds, *arrays, spec=spec)
    if name != "estimate":
        return results[0]
    mean, error, number = results
    fixed = isinstance(layer.num_samples, int) and not _facts(spec, theta).exact
    return Estimate(mean, error, layer.num_samples if fixed else number)


_ARRAYS = ("v", "t", "w", "y_true", "direction")


@ft.cache
def _signature(method: Callable) -> inspect.Signature:
    return inspect.signature(method)


@ft.lru_cache(maxsize=256)
def _in_numpy(layer: Perturbed) -> Perturbed:
    """The layer with its temperatures in NumPy: a callback must not call JAX."""
    epsilon = layer.epsilon
    if isinstance(epsilon, float):
        return layer
    if is_traced(epsilon):
        raise NotImplementedError(
            "epsilon is traced by JAX (jit, grad or vmap): it must be a number or a concrete array "
            "when the function is traced; its gradient is layer.vjp_epsilon, on concrete arrays"
        )
    if kind_of(epsilon) not in ("numpy", "jax"):
        raise TypeError(
            f"epsilon is a {kind_of(epsilon)} array but theta is a jax array; pass one kind"
        )
    return dataclasses.replace(layer, epsilon=np.asarray(epsilon))


class Facts(NamedTuple):
    """What follows from a layer and the shape of its scores."""

    one_temperature: bool
    """A row; else one a coordinate."""
    exact: bool
    sign: int
    """-1 where scores are costs."""


@ft.lru_cache(maxsize=1024)
def _checked(layer: Perturbed, shape: tuple[int, ...], dtype: np.dtype) -> Facts:
    """Raise what a call with such scores would, before it is compiled."""
    compute = compute_dtype(dtype.name, "theta", "theta.astype('float32')")
    scores = as_scores(np.zeros(shape, compute), "theta", layer.oracle.event_ndim)
    whole = layer._whole(scores, Place(0))
    exact = layer._is_exact(whole)
    if isinstance(layer.num_samples, int) and not exact:
        designed(whole, layer.num_samples)
    return Facts(whole.epsilon.shape[1] == 1, exact, int(whole.sign))


def _facts(spec: Spec, theta) -> Facts:
    return _checked(spec.layer, theta.shape[theta.ndim - spec.axes :], theta.dtype)


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
