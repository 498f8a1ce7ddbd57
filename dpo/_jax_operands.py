"""What a layer hands to the primitive of ``_jax.py``, and what is known of a call beforehand."""

from __future__ import annotations

import functools as ft
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from ._arrays import (
    as_scores,
    as_temperatures,
    compute_dtype,
    kind_of,
    other_kind,
    refuse_labels,
)
from ._checks import check_temperatures, is_traced
from ._designs import designed
from ._engine import Sampler
from ._jax_operations import Spec
from ._seeds import Place, as_place, as_seed

if TYPE_CHECKING:
    from ._perturbed import Perturbed


def varying_alike(*operands):
    """The operands, all varying over the axes of ``jax.shard_map`` that any varies over."""
    varies = [jax.typeof(x).manual_axis_type.varying for x in operands]
    axes = frozenset().union(*varies)
    return [
        jax.lax.pcast(x, tuple(axes - own), to="varying") if axes - own else x
        for x, own in zip(operands, varies, strict=True)
    ]


class Facts(NamedTuple):
    """What follows from a layer and the shape of its scores and temperatures."""

    exact: bool
    sign: int
    """-1 where scores are costs."""
    kept: int
    """Words a row of what a value can leave for its derivatives."""


@ft.lru_cache(maxsize=1024)
def checked(layer: Perturbed, shape: tuple[int, ...], dtype: np.dtype, shared: bool) -> Facts:
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


def facts(spec: Spec, theta, seeds, offsets, epsilon, *arrays) -> Facts:
    own = slice(theta.ndim - spec.axes, None)
    shared = is_shared(spec.layer, epsilon)
    return checked(spec.layer, theta.shape[own], theta.dtype, shared)


def is_shared(layer: Perturbed, epsilon) -> bool:
    """Whether a row has one temperature."""
    event = layer.oracle.event_ndim
    return epsilon.shape[-event:] == (1,) * event


def as_temperature_operand(layer: Perturbed, theta):
    """``epsilon`` as an operand: with the axes of theta, (..., 1) or one a coordinate."""
    epsilon, event = layer.epsilon, layer.oracle.event_ndim
    if kind_of(epsilon, "epsilon") not in ("numpy", "jax"):
        raise TypeError(other_kind(epsilon, "epsilon", "jax"))
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


def as_operand_beside(x, theta, name: str):
    """A second array, broadcast to theta's shape; integers and booleans as floats."""
    if kind_of(x, name) != "jax":
        raise TypeError(other_kind(x, name, "jax"))
    if name == "y_true" and x.dtype.kind in "iu":
        refuse_labels("jax", x.ndim, theta.shape)
    if x.dtype.kind in "iub":
        x = x.astype(np.float32)
    try:
        return jnp.broadcast_to(x, theta.shape)
    except ValueError:
        raise ValueError(
            f"{name} must broadcast to theta's shape {theta.shape}, got shape {x.shape}"
        ) from None


def as_words(layer: Perturbed, seed):
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


def as_offsets(row_offset, sample_offset):
    """The numbers of the first row and of the first sample as an operand, traced or not."""
    if not is_traced(row_offset, sample_offset):
        return np.array(as_place(None, row_offset, sample_offset)[1:3], np.uint32)
    for name, value in (("row_offset", row_offset), ("sample_offset", sample_offset)):
        if is_traced(value) and (value.ndim > 0 or value.dtype.kind not in "iu"):
            raise TypeError(f"{name} must be an integer, got {value.dtype}{list(value.shape)}")
    traced = next(x for x in (row_offset, sample_offset) if is_traced(x))
    return jnp.stack([jnp.asarray(x, traced.dtype) for x in (row_offset, sample_offset)])
