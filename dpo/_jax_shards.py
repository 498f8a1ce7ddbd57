"""Coordinates shared out over an axis of a JAX mesh: see ``_shards.py``.

Inside ``jax.shard_map``. What a shard computes are callbacks, which run NumPy, or CuPy on a GPU,
and never JAX; what travels are collectives of the program. Derivatives are a custom VJP, which
makes them again.
"""

from __future__ import annotations

import functools as ft
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from ._arrays import INSTEAD_OF_NAN, Scores, compute_dtype, kind_of
from ._checks import is_traced
from ._device import as_host
from ._host_jax import Host, host_p
from ._jax_operands import as_offsets, as_temperature_operand, as_words, varying_alike
from ._noise import Gumbel
from ._oracles import Argmax, TopK
from ._seeds import as_place, as_seed
from ._shards import MOST_COORDINATES, Shard, check_layer, kernels_for

if TYPE_CHECKING:
    from ._perturbed import Perturbed


class Spec(NamedTuple):
    """What a trace fixes."""

    layer: Perturbed
    axis: Any
    shape: tuple[int, ...]
    """Of the shard."""
    dtype: np.dtype
    """That kernels compute in."""
    k: int
    learned: bool
    """Whether there may be a derivative in the temperature."""

    @property
    def is_race(self) -> bool:
        """As ``Shard.is_race``."""
        return isinstance(self.layer.oracle, Argmax) and isinstance(self.layer.noise, Gumbel)

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def decided(self) -> tuple[int, int, int]:
        """The shape of what samples decide."""
        return self.rows, self.layer.num_samples, self.k  # type: ignore[return-value]


def coordinates_sharded(layer: Perturbed, theta, *, seed, of: str, row_offset, axis):
    """See ``distributed.py``."""
    check_layer(layer)
    if axis is None:
        raise ValueError("group must name the mesh axis that coordinates are shared out over")
    try:
        size = jax.lax.axis_size(axis)
    except NameError:
        raise ValueError(
            f"there is no mesh axis {axis!r} here: call coordinates_sharded inside jax.shard_map"
        ) from None
    d = theta.shape[-1] if theta.ndim else 0
    if size > 1 and d % 4:
        raise ValueError(
            "theta must have a multiple of 4 coordinates on every device, since four share a block "
            f"of random words; got {d}: pad the last axis with -inf"
        )
    if _varies(jax.lax.axis_index(axis), axis) and not _varies(theta, axis):
        raise ValueError(
            f"theta is the same on all devices of mesh axis {axis!r}: share out its last axis, "
            f"in_specs=PartitionSpec(..., {axis!r})"
        )
    k = getattr(layer.oracle, "k", 1)
    if not k <= size * d <= MOST_COORDINATES:
        raise ValueError(
            f"theta may have k = {k} to {MOST_COORDINATES} coordinates in all, got {size * d}"
        )
    compute = compute_dtype(theta.dtype.name, "theta", "theta.astype('float32')")
    learned = is_traced(layer.epsilon)
    spec = Spec(layer._at(1.0), axis, theta.shape, np.dtype(compute), k, learned)
    place = as_words(layer, seed), as_offsets(row_offset, 0)
    given = varying_alike(theta.astype(compute), _temperatures(layer, theta, axis), *place)
    result = (_value if of == "value" else _maximum)(spec, *given)
    return result.astype(theta.dtype)


def _temperatures(layer: Perturbed, theta, axis):
    """``epsilon`` as an operand, (..., 1)."""
    shape = np.shape(layer.epsilon)
    if len(shape) == theta.ndim and shape[-1] != 1:
        raise ValueError(
            "with coordinates shared out epsilon must be a number, or have an entry a row"
        )
    epsilon = as_temperature_operand(
        layer, jax.ShapeDtypeStruct((*theta.shape[:-1], 1), theta.dtype)
    )
    if _varies(epsilon, axis):
        raise ValueError(f"epsilon must be the same on all devices of mesh axis {axis!r}")
    return epsilon


def _varies(x, axis) -> bool:
    """Whether ``x`` is known to differ along a mesh axis; never with ``check_vma=False``."""
    return axis in jax.typeof(x).manual_axis_type.varying


# ------------------------------------------------------------------------------------- on a device


def _shard(spec: Spec, theta, epsilon, words, offsets, first) -> Shard:
    words, offsets = as_host(words), as_host(offsets)
    place = as_place(as_seed(words if words.ndim else int(words), "jax"), *map(int, offsets))
    rows, batch = theta.reshape(spec.rows, -1), spec.shape[:-1]
    # The program has looked for NaN, and puts results into its own buffers.
    scores = Scores(rows, spec.shape, batch, kind_of(theta), lambda out: out)
    return Shard.of(spec.layer._at(epsilon), scores, place, int(first))


def _best(spec: Spec, bad, largest, *operands):
    if bad:
        raise ValueError(f"theta contains NaN, in one of its shards; {INSTEAD_OF_NAN}")
    values, numbers = _shard(spec, *operands).best(largest)
    return values, numbers.astype(np.uint32)


def _merge(spec: Spec, values, numbers):
    """The k best of lists that are gathered, (shards, rows, M, k)."""
    values, numbers = (
        np.moveaxis(x, 0, -2).reshape(*spec.decided[:2], -1) for x in (values, numbers)
    )
    return kernels_for(values).merged(values, numbers.astype(np.int64), spec.k)


def _mean(spec: Spec, winners, *operands):
    return (_shard(spec, *operands).mean(_signed(winners)).reshape(spec.shape),)


def _projections(spec: Spec, v, winners, *operands):
    v = v.reshape(spec.rows, -1)
    return (_shard(spec, *operands).projections(v, _signed(winners)),)


def _vjp(spec: Spec, projections, *operands):
    product = _shard(spec, *operands).vjp(projections)
    return (product.astype(spec.dtype).reshape(spec.shape),)


def _finite_scores(spec: Spec, *operands):
    return (_shard(spec, *operands).finite_scores().astype(spec.dtype),)


def _epsilon_vjp(spec: Spec, product, totals, *operands):
    rows = product.reshape(spec.rows, -1)
    slope = _shard(spec, *operands).epsilon_vjp(rows, totals)
    return (slope.astype(spec.dtype),)


def _epsilon_slope(spec: Spec, winners, *operands):
    slope = _shard(spec, *operands).epsilon_slope_of_maximum(_signed(winners))
    return (slope.astype(spec.dtype),)


def _perturbed(spec: Spec, winners, *operands):
    return (_shard(spec, *operands).perturbed_scores(_signed(winners)),)


def _maximum_of(spec: Spec, values, *operands):
    value = _shard(spec, *operands).maximum(values)
    return (value.astype(spec.dtype).reshape(spec.shape[:-1]),)


def _signed(winners) -> np.ndarray:
    return winners.astype(np.int64)


def _called(fun, spec: Spec, results, *operands):
    """A function of this device's arrays; ``results`` are shapes and dtypes.

    Results of a callback count as equal on all devices, unless one says that they vary.
    """
    shapes = tuple((shape, np.dtype(dtype)) for shape, dtype in results)
    host = Host(ft.partial(fun, spec), shapes, takes_cupy=True)
    varying = [jax.typeof(x).manual_axis_type.varying for x in operands]
    axes = tuple(frozenset().union(*varying))
    returned = host_p.bind(*operands, host=host, lead=())
    return [jax.lax.pcast(x, axes, to="varying") if axes else x for x in returned]


# ------------------------------------------------------------------------------------ the program


def _operands(spec: Spec, theta, epsilon, words, offsets):
    first = jax.lax.axis_index(spec.axis).astype(np.uint32) * np.uint32(spec.shape[-1])
    return theta, epsilon, words, offsets, first


def _decide(spec: Spec, *operands):
    """Values and winners of all shards, (rows, M, k), from the operands of ``_shard``.

    Two reductions for the argmax, not one of packed words: JAX need not have integers of 64 bits.
    """
    theta, axis = operands[0].reshape(spec.rows, -1), spec.axis
    bad = jax.lax.pmax(jnp.isnan(theta).any().astype(np.int32), axis)
    finite = jnp.where(jnp.isfinite(theta), theta, -np.inf)
    largest = jax.lax.pmax(finite.max(1), axis)
    results = (spec.decided, spec.dtype), (spec.decided, np.uint32)
    values, numbers = _called(_best, spec, results, bad, largest, *operands)
    if isinstance(spec.layer.oracle, TopK):
        every = (jax.lax.all_gather(x, axis) for x in (values, numbers))
        return _called(_merge, spec, results, *every)
    best = jax.lax.pmax(values, axis)
    beaten = jnp.where(values == best, numbers, np.uint32(2**32 - 1))
    return best, jax.lax.pmin(beaten, axis)


@ft.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _value(spec: Spec, theta, epsilon, words, offsets):
    return _value_forward(spec, theta, epsilon, words, offsets)[0]


def _value_forward(spec: Spec, *given):
    operands = _operands(spec, *given)
    _, winners = _decide(spec, *operands)
    (mean,) = _called(_mean, spec, [(spec.shape, spec.dtype)], winners, *operands)
    return mean, (*given, winners)


def _value_backward(spec: Spec, residuals, v):
    *given, winners = residuals
    operands = _operands(spec, *given)
    each = spec.decided[:2], spec.dtype
    (own,) = _called(_projections, spec, [each], v, winners, *operands)
    projections = jax.lax.psum(own, spec.axis)
    (product,) = _called(_vjp, spec, [(spec.shape, spec.dtype)], projections, *operands)
    if not spec.learned:
        return product, None, None, None
    (finite,) = _called(_finite_scores, spec, [((spec.rows, 2), spec.dtype)], *operands)
    totals, of_rows = jax.lax.psum(finite, spec.axis), ((spec.rows,), spec.dtype)
    (part,) = _called(_epsilon_vjp, spec, [of_rows], product, totals, *operands)
    return product, part.reshape(operands[1].shape), None, None  # JAX adds parts up


_value.defvjp(_value_forward, _value_backward)


@ft.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _maximum(spec: Spec, theta, epsilon, words, offsets):
    return _maximum_forward(spec, theta, epsilon, words, offsets)[0]


def _maximum_forward(spec: Spec, *given):
    operands = _operands(spec, *given)
    values, winners = _decide(spec, *operands)
    if spec.is_race:
        each = spec.decided[:2], spec.dtype
        (own,) = _called(_perturbed, spec, [each], winners, *operands)
        values = jax.lax.psum(own, spec.axis)
    (value,) = _called(_maximum_of, spec, [(spec.shape[:-1], spec.dtype)], values, *operands)
    value = jax.lax.pmax(value, spec.axis)  # equal in all: this says so
    return value, (*given, winners)


def _maximum_backward(spec: Spec, residuals, v):
    *given, winners = residuals
    operands = _operands(spec, *given)
    (mean,) = _called(_mean, spec, [(spec.shape, spec.dtype)], winners, *operands)
    if not _varies(operands[-1], spec.axis):  # check_vma=False: every device's copy has its own v
        v = jax.lax.psum(v, spec.axis)
    by_theta = v[..., None] * mean
    if not spec.learned:
        return by_theta, None, None, None
    (slope,) = _called(_epsilon_slope, spec, [((spec.rows,), spec.dtype)], winners, *operands)
    return by_theta, (v.reshape(-1) * slope).reshape(operands[1].shape), None, None


_maximum.defvjp(_maximum_forward, _maximum_backward)
