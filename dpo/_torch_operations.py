"""What the operators of ``_torch_operators.py`` do, on real tensors, and the shapes of its results.

``place`` is where the rows are in the noise. Of several axes in front that ``vmap`` has added, all
instances see the same seed.
"""

from __future__ import annotations

import functools as ft
import math

import numpy as np
import torch
from torch import Tensor

from ._arrays import as_companion, spread
from ._engine import Sampler, kept_words
from ._exact import Expectation
from ._losses import fenchel_young
from ._noise import Noise
from ._oracles import is_concrete
from ._perturbed import DESIGNS, Call, Perturbed
from ._seeds import Place
from ._torch import as_epsilon, from_rows, to_array
from ._torch_layers import batch_of, named_layer, temperatures_of
from .kernels.codes import Draws


def value(layer: Perturbed, theta, place: Place, kept: int):
    """The value, and what it leaves for its derivatives: ``kept`` words a row."""
    call, _ = layer._prepare(theta, place, "value")
    if kept:
        assert isinstance(call.sampler, Sampler)
        mean, words = call.sampler.packed_forward(kept)
        left = torch.from_numpy(words.view(np.int32))
    else:
        mean, left = call.sampler.forward().mean, theta.new_empty(0, dtype=torch.int32)
    return call.result(mean, call.scores.shape), left.reshape(*call.scores.batch, kept)


def _kept(call: Call, words: Tensor | None):
    """What a value left, if anything."""
    if words is None or words.shape[-1] == 0:
        return None
    assert isinstance(call.sampler, Sampler)
    return call.sampler.unpacked(words.contiguous().numpy().view(np.uint32))


def product(layer: Perturbed, theta, place: Place, t, kept, of: str):
    call, _ = layer._prepare(theta, place, of)
    product, _ = call.sampler.jvp(as_companion(t, "a tangent", call.scores))
    return call.result(product, call.scores.shape)


def adjoint(layer: Perturbed, theta, place: Place, v, kept, of: str):
    call, _ = layer._prepare(theta, place, of)
    product, _ = call.sampler.vjp(as_companion(v, "a tangent", call.scores), _kept(call, kept))
    return call.result(product, call.scores.shape)


def second(layer: Perturbed, theta, place: Place, v, w, of: str):
    call, _ = layer._prepare(theta, place, of)
    if not isinstance(call.sampler, Expectation):
        raise NotImplementedError(
            "the perturbed optimum cannot be differentiated twice by sampling; use method='exact'"
        )
    directions = (as_companion(x, "a tangent", call.scores) for x in (v, w))
    return call.result(call.sampler.second_order_product(*directions), call.scores.shape)


def maximum(layer: Perturbed, theta, place: Place, y_true, normalize: bool):
    """``F`` or the loss, its slope in theta, and that of its offset in every temperature."""
    call, _ = layer._prepare(theta, place, "max")
    scores = call.scores
    value, _, mean = call.sampler.maximum()
    slope = call.sampler.slope_of_maximum(mean)
    offset_slope = np.zeros((1, 1))
    if y_true is not None:
        targets, offset, known = layer._targets(call, y_true, normalize)
        value = fenchel_young(scores.rows, value, targets, call.whole.sign, offset)
        slope = slope - call.whole.sign * targets
        offset_slope = offset_slope if known is None else known
    results = call.result(value, scores.batch), call.result(slope, scores.shape)
    return *results, from_rows(call, np.broadcast_to(offset_slope, call.whole.epsilon.shape))


def value_in_epsilon(layer: Perturbed, theta, place: Place, v, product, kept):
    call, _ = layer._prepare(theta, place, "value")
    v, product = (as_companion(x, "v", call.scores) for x in (v, product))
    return as_epsilon(call, call.sampler.epsilon_vjp(v, product, _kept(call, kept)))


def value_along_epsilon(layer: Perturbed, theta, place: Place, t, of: str):
    call, _ = layer._prepare(theta, place, of)
    direction = spread(to_array(t, call.scores.rows), call.scores)
    return call.result(call.sampler.epsilon_jvp(direction), call.scores.shape)


def maximum_along_epsilon(layer: Perturbed, theta, place: Place, t, offset_slope):
    call, _ = layer._prepare(theta, place, "max")
    slope = _slope_in_epsilon(call, offset_slope)
    direction = spread(to_array(t, call.scores.rows), call.scores)
    return call.result((slope * direction).sum(1), call.scores.batch)


def _slope_in_epsilon(call: Call, offset_slope):
    """``d F / d eps`` in every temperature, with that of the loss's offset."""
    maximum, _, mean = call.sampler.maximum()
    slope = call.sampler.epsilon_slope_of_maximum(maximum, mean)
    return slope + to_array(offset_slope, slope).reshape(slope.shape)


def maximum_in_epsilon(layer: Perturbed, theta, place: Place, v, offset_slope):
    call, _ = layer._prepare(theta, place, "max")
    slope = _slope_in_epsilon(call, offset_slope)
    return as_epsilon(call, to_array(v, slope).reshape(-1, 1) * slope)


def explicit(layer: Perturbed, theta, place: Place, v, w, method: str, of: str):
    """Result, standard error and number of samples; the last two are of ``estimate`` alone."""
    if method == "estimate":
        result = layer.estimate(theta, of=of, direction=v, seed=place)
        number = torch.as_tensor(result.num_samples).expand(batch_of(layer, theta))
        return result.mean, result.standard_error, number.contiguous()
    directions = [x for x in (v, w) if x is not None]
    result = getattr(layer, method)(theta, *directions, seed=place)
    return result, result.new_empty(0), torch.empty(0, dtype=torch.int64)


def like_theta(layer, theta, epsilon, *rest):
    return theta.new_empty(theta.shape)


def value_shapes(layer, theta, epsilon, kept: int):
    words = theta.new_empty((*batch_of(layer, theta), kept), dtype=torch.int32)
    return theta.new_empty(theta.shape), words


def words_to_keep(name: str, theta, epsilon, axes: int, keep: bool) -> int:
    """Words a row that a value of the layer of that name keeps: of ``axes``, which ``vmap`` adds
    to, the same for all."""
    if not keep or theta.device.type != "cpu":
        return 0
    layer, whole = named_layer(name), tuple(theta.shape)
    own, event = whole[theta.dim() - axes :], layer.oracle.event_ndim
    each = temperatures_of(layer, theta, epsilon) == whole != batch_of(layer, theta)
    words = _words_known if is_concrete(own) else _words
    return words(name, own, math.prod(own[axes - event :]) if each else 1, theta.dtype)


def _words(name: str, shape: tuple, columns: int, dtype: torch.dtype) -> int:
    """Likewise, of scores of a shape, with so many temperatures a row."""
    layer = named_layer(name)
    if layer.method != "mc" or layer.variance_reduction == "qmc":
        return 0
    if not isinstance(layer.num_samples, int):
        return 0
    assert isinstance(layer.noise, Noise)
    draws = Draws(
        layer.noise.family,
        (0, 0),
        layer.num_samples,
        design=DESIGNS[layer.variance_reduction],
        multiplicative=layer.perturbation == "multiplicative",
    )
    axes = len(shape) - layer.oracle.event_ndim
    rows, d = math.prod(shape[:axes]), math.prod(shape[axes:])
    computed = np.dtype(np.float64 if dtype == torch.float64 else np.float32)
    given = layer.oracle.problem(shape), np.empty((0, columns)), draws
    return kept_words(*given, layer.variance_reduction != "none", rows, d, computed)


_words_known = ft.lru_cache(maxsize=256)(_words)
"""``_words`` takes as long as a tiny call."""


def like_epsilon(layer, theta, epsilon, *rest):
    return epsilon.new_empty(epsilon.shape)


def like_batch(layer, theta, epsilon, *rest):
    return theta.new_empty(batch_of(layer, theta))


def maximum_shapes(layer, theta, epsilon, *rest):
    by_epsilon = theta.new_empty(temperatures_of(layer, theta, epsilon), dtype=torch.float64)
    return theta.new_empty(batch_of(layer, theta)), like_theta(layer, theta, epsilon), by_epsilon


def explicit_shapes(layer, theta, epsilon, v, w, method: str, of: str):
    batch = batch_of(layer, theta)
    shapes = {
        "max": batch,
        "jacobian": (*theta.shape, *theta.shape[len(batch) :]),
        "vjp_epsilon": temperatures_of(layer, theta, epsilon),
    }
    shape = shapes.get(of if method == "estimate" else method, tuple(theta.shape))
    estimate = method == "estimate"
    return (
        theta.new_empty(shape),
        theta.new_empty(shape if estimate else 0),
        torch.empty(batch if estimate else 0, dtype=torch.int64),
    )
