"""The layer: a perturbed optimizer with its hyper-parameters."""

from __future__ import annotations

import copy
import functools as ft
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from ._arrays import (
    Scores,
    as_companion,
    as_scores,
    as_temperatures,
    kind_of,
)
from ._checks import (
    Adaptive,
    as_choice,
    as_epsilon,
    as_flag,
    as_num_samples,
    as_tolerance,
    check_estimated,
    is_traced,
)
from ._designs import (
    AnySampler,
    Grouped,
    adapt,
    designed,
    least_contribution,
    most_samples,
    randomisations,
)
from ._device import as_host, beside, is_host, launching_on, take
from ._engine import Sampler
from ._estimate import Estimate
from ._exact import Expectation, pays, refusal
from ._losses import check_loss_scores, check_targets, fenchel_young
from ._noise import Gumbel, Noise, Normal, as_noise
from ._oracles import Argmax, Oracle, as_oracle
from ._seeds import Place, as_place, as_seed
from .kernels.codes import ANTITHETIC, INDEPENDENT, SOBOL, Draws

DESIGNS = {"loo": INDEPENDENT, "none": INDEPENDENT, "antithetic": ANTITHETIC, "qmc": SOBOL}


def _public(method):
    """A method on scores of any kind, told ``seed``, ``row_offset`` and ``sample_offset`` in one.

    Traced by JAX, by ``torch.compile`` or by a ``torch.func`` transform, it becomes an operation of
    that program.
    """

    @ft.wraps(method)
    def call(self, theta, *args, **parameters):
        if is_traced(theta, self.epsilon, *args, *parameters.values()):
            from . import _jax

            return _jax.call(method.__name__, self, theta, *args, **parameters)
        kind = kind_of(theta)
        if kind == "torch":
            from . import _torch

            if _torch.is_transformed():
                return _torch.transformed(method.__name__, self, theta, *args, **parameters)
        parameters["seed"] = as_place(
            parameters.get("seed"),
            parameters.pop("row_offset", 0),
            parameters.pop("sample_offset", 0),
        )
        if kind == "numpy":
            return method(self, theta, *args, **parameters)
        with launching_on(theta, kind):
            return method(self, theta, *args, **parameters)

    return call


class Call(NamedTuple):
    """One call of a layer: its scores, and the samples it will see."""

    theta: Any
    """As the user passed it."""
    epsilon: Any
    """Likewise."""
    scores: Scores
    whole: Sampler
    """The problem, all rows, and one sample of each: ``sampler`` is made of it."""
    sampler: AnySampler | Grouped | Expectation

    def result(self, values: np.ndarray, shape: tuple[int, ...]) -> Any:
        """An array of the caller's kind, with no derivative of its own."""
        return self.scores.restore(values.reshape(shape))

    def constant(self, values: np.ndarray, shape: tuple[int, ...], *directions: Any) -> Any:
        """As ``result``; in torch, ``backward`` then says that it has no derivative."""
        result = self.result(values, shape)
        if self.scores.kind != "torch":
            return result
        return _torch().constant(self, result, *directions)


@dataclass(frozen=True, eq=False)
class Perturbed:
    """A perturbed optimizer ``y_eps(theta) = E[y*(theta + eps Z)]`` and its derivatives.

    An instance is the last axis (the last two for grids), everything before it is batch. Arrays may
    be NumPy, CuPy, torch, JAX or have ``__dlpack__``, on the CPU or, with CuPy installed, on a CUDA
    GPU; results are of the same kind and dtype. torch results are differentiable, in ``theta`` and
    ``epsilon``, under ``torch.compile`` and ``torch.func`` too. JAX's ``jit``, ``grad``, ``jvp``,
    ``vmap`` and ``shard_map`` apply to calls, ``max`` and ``loss``, likewise. ``vmap`` gives each
    instance what it gives alone, so map over seeds for independent noise.

    Every method takes ``seed``: an int, two uint32 words, a ``torch.Generator`` or a JAX key. The
    same seed gives the same noise in every method, so ``layer.vjp`` is the derivative that
    ``backward()`` computes. ``None`` draws a fresh seed from the framework's global generator;
    JAX has none, so there it is an error. ``row_offset`` and ``sample_offset`` are what the first
    row and the first sample are called in the noise: under one seed, rows 64 .. 127 of a batch,
    called alone with ``row_offset=64``, see the noise that they see in the whole batch.

    Parameters
    ----------
    oracle
        The solver ``y*``: ``dpo.Argmax()`` (the default), ``TopK(k)``, ``Ranks()``,
        ``ShortestPath()``, one of ``dpo.solvers``, or your own (``@dpo.oracle``).
    noise
        ``"normal"``, ``"gumbel"``, ``"logistic"``, ``"laplace"``, or a ``dpo.Noise``: one of your
        own is ``dpo.NoiseFamily(quantile, score)``.
    epsilon
        The temperature, in the units of ``theta``; positive. A number, an array that broadcasts
        against the batch (an instance each), or one with as many axes as ``theta`` that broadcasts
        against it (a coordinate each). A torch parameter is learned.
    num_samples
        Samples ``M`` a row, errors fall as ``M^(-1/2)``, memory does not grow; or
        ``dpo.Adaptive(tolerance)``, as many as each row needs.
    method
        ``"mc"``, Monte-Carlo. ``"exact"``: the expectation itself, for ``Argmax``, ``TopK`` and
        ``Ranks`` with additive noise, by quadrature or in closed form, to an error near rounding;
        samples and seeds then play no part. ``"auto"``: exact where that exists and costs less than
        ``num_samples`` samples, which depends on shapes alone.
    variance_reduction
        ``"loo"``: derivatives centred by the other samples' mean (default; unbiased, and its
        variance stays bounded as ``eps -> 0``; plain where there is one sample). ``"none"``: the
        plain estimators. ``"antithetic"``: samples in pairs of mirrored noise, centred by the other
        pairs; ``M`` is 1 or even. It helps values and maxima; derivatives are mostly better off
        with ``"loo"`` (see the report).
        ``"qmc"``: independent randomisations (16 or 8) of a Sobol' sequence, each centred by the
        others; ``M`` is a multiple of 8 or at most 16, of at most 2^20 points each and 21,201
        coordinates. It pays for smooth problems of few coordinates that matter; in hundreds of
        equally important ones expect no more than from "loo".
    precision
        ``"portable"``: the same bits on every machine. ``"fast"``, for float32 on a GPU: noise by
        special-function units, repeatable there but a stream of its own.
    tolerance
        Of the quadrature, ``method="exact"``: by how much the total of a row's value may be off (d
        times that for top-k and ranks). By default 2e-14 in float64 and 2e-7 in float32, at which
        rounding begins; larger is faster.
    perturbation
        ``"additive"``, or ``"multiplicative"``: samples then see ``theta exp(eps Z - eps^2 / 2)``
        with normal noise, which keeps signs (costs stay positive) and, on average, ``theta``. A
        score that is exactly 0 is then not perturbed, and values have no derivative in it.

    Raises
    ------
    TypeError, ValueError
        At construction, naming the argument, its value and what it may be.

    Examples
    --------
    >>> import dpo
    >>> layer = dpo.Perturbed(dpo.Argmax(), noise="gumbel", epsilon=0.5, num_samples=100_000)
    >>> layer([-0.6, 1.9, -0.2, 1.1, -1.0], seed=0).round(2)   # softmax(theta / 0.5)
    array([0.01, 0.81, 0.01, 0.17, 0.  ])
    """

    # None stands for Argmax(): torch.compile cannot trace a default that is an object.
    oracle: Oracle = None  # type: ignore[assignment]
    noise: Noise | str = "normal"
    epsilon: Any = 0.5
    num_samples: int | Adaptive = 1000
    method: str = "mc"
    variance_reduction: str = "loo"
    precision: str = "portable"
    perturbation: str = "additive"
    tolerance: float | None = None

    def __post_init__(self):
        checked: dict[str, Any] = {
            "oracle": Argmax() if self.oracle is None else as_oracle(self.oracle),
            "noise": as_noise(self.noise),
            "epsilon": as_epsilon(self.epsilon),
            "num_samples": as_num_samples(self.num_samples),
            "method": as_choice("method", self.method, ("mc", "exact", "auto")),
            "variance_reduction": as_choice(
                "variance_reduction", self.variance_reduction, tuple(DESIGNS)
            ),
            "precision": as_choice("precision", self.precision, ("portable", "fast")),
            "perturbation": as_choice(
                "perturbation", self.perturbation, ("additive", "multiplicative")
            ),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.perturbation == "multiplicative" and not isinstance(self.noise, Normal):
            raise ValueError(
                f"multiplicative perturbation is log-normal: noise must be 'normal', got "
                f"{self.noise!r}"
            )
        if isinstance(self.num_samples, int):
            self._check_count(self.num_samples)
        if self.method == "exact":
            message = refusal(self.oracle, self.noise, self.perturbation)
            if message:
                raise ValueError(message)
        if self.tolerance is not None:
            object.__setattr__(self, "tolerance", as_tolerance(self.tolerance))
            if self.method == "mc":
                raise ValueError(
                    "tolerance is that of method='exact'; for Monte-Carlo use "
                    f"num_samples=dpo.Adaptive({self.tolerance!r})"
                )

    def _at(self, epsilon) -> Perturbed:
        """The layer at another temperature, which every call checks."""
        layer = copy.copy(self)
        object.__setattr__(layer, "epsilon", epsilon)
        return layer

    def _check_count(self, m: int) -> None:
        if self.variance_reduction == "antithetic" and m > 1 and m % 2:
            raise ValueError(
                f"num_samples must be even (or 1) for antithetic pairs, got {m}, try {m + 1}"
            )
        if self.variance_reduction == "qmc":
            randomisations(m)

    def _check_sample_offset(self, offset: int) -> None:
        if isinstance(self.num_samples, Adaptive) or self.variance_reduction == "qmc":
            raise ValueError(
                "sample_offset is for a fixed num_samples of independent samples or pairs: not for "
                "dpo.Adaptive or variance_reduction='qmc', whose samples belong together"
            )
        if offset + self.num_samples > 2**32:
            raise ValueError(f"sample_offset + num_samples must be at most 2**32, got {offset}")
        if self.variance_reduction == "antithetic" and offset % 2:
            raise ValueError(f"sample_offset must be even for antithetic pairs, got {offset}")

    def _key(self) -> tuple:
        """What two equal layers share; an array of temperatures is itself and nothing else."""
        return tuple(_as_key(getattr(self, f.name)) for f in fields(self))

    def __eq__(self, other):
        return self._key() == other._key() if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    # ------------------------------------------------------------------------------ public calls

    @_public
    def __call__(self, theta, *, seed=None, row_offset=0, sample_offset=0):
        """The perturbed optimum ``ybar = (1 / M) sum_m y*(theta + eps z_m)``, of theta's shape.

        Unbiased for ``y_eps(theta)``. For the argmax a row is a distribution over its coordinates,
        and equals ``(theta + eps * Z).argmax(-1)``, one-hot, averaged over ``Z`` of shape
        (M, ..., d).
        """
        call, known = self._prepare(theta, seed, "value")
        if call.scores.kind == "torch":
            return _torch().perturbed_value(call)
        mean = call.sampler.forward().mean if known is None else known[0]
        return call.result(mean, call.scores.shape)

    @_public
    def max(self, theta, *, seed=None, row_offset=0, sample_offset=0):
        """``Fbar = (1 / M) sum_m <y_m, theta + eps z_m>``, ``(...)``: unbiased for ``F_eps``.

        Its gradient is ``layer(theta)``, from the same samples. Where scores are costs, theta is
        ``-costs``: this is *minus* the mean cost of the perturbed optima, with gradient
        ``-layer(costs)``. (Where a perturbed cost was clipped at ``min_cost``, its value before
        clipping counts.)
        """
        call, known = self._prepare(theta, seed, "max")
        if call.scores.kind == "torch":
            return _torch().perturbed_max(call)
        value = call.sampler.maximum()[0] if known is None else known[0]
        return call.result(value, call.scores.batch)

    @_public
    def vjp(self, theta, v, *, seed=None, row_offset=0, sample_offset=0):
        """The vector-Jacobian product ``v^T D y_eps(theta)``, of theta's shape; forms no ``J``."""
        call, known = self._prepare(theta, seed, "vjp", v)
        mean, _ = known or _estimate(call.sampler, "vjp", self._direction(call, "vjp", v), False)
        return call.constant(mean, call.scores.shape, v)

    @_public
    def pullback(self, theta, *, seed=None, row_offset=0, sample_offset=0):
        """The perturbed optimum and the function ``v -> v^T D y_eps(theta)`` on its samples.

        ``y, pull = layer.pullback(theta, seed=0)`` gives ``layer(theta, seed=0)`` and
        ``lambda v: layer.vjp(theta, v, seed=0)``, to the bit (with ``dpo.Adaptive``, the VJP on the
        samples that the value needs), for less than the two calls: what the samples decided is kept
        where autograd would keep it. It is what NumPy has in place of ``backward()``, and what a
        framework without a binding wants for a gradient of its own. Arrays may change in place
        afterwards: ``pull`` has seen what they were. Neither result has a derivative of its own;
        inside ``jit``, ``vmap``, ``torch.compile`` and the like differentiate the layer.
        """
        call, _ = self._prepare(theta, seed, "value", copies=True)
        kept, kind = call.sampler.forward(for_gradient=True), call.scores.kind

        def pull(v):
            if is_traced(v) or (kind == "torch" and _torch().is_transformed()):
                raise NotImplementedError(
                    "the function that layer.pullback returns is for concrete arrays; inside "
                    "transformations call layer.vjp(theta, v), or differentiate layer(theta)"
                )
            with launching_on(v, kind if kind == "numpy" else kind_of(v, "v")):
                product = call.sampler.vjp(as_companion(v, "v", call.scores), kept)[0]
                return call.constant(product, call.scores.shape, v)

        return call.constant(kept.mean, call.scores.shape), pull

    @_public
    def jvp(self, theta, t, *, seed=None, row_offset=0, sample_offset=0):
        """The Jacobian-vector product ``D y_eps(theta) t``, of theta's shape."""
        call, known = self._prepare(theta, seed, "jvp", t)
        mean, _ = known or _estimate(call.sampler, "jvp", self._direction(call, "jvp", t), False)
        return call.constant(mean, call.scores.shape, t)

    @_public
    def jacobian(self, theta, *, seed=None, row_offset=0, sample_offset=0):
        """The Jacobian ``J[..., i, k] = d y_eps(theta)_i / d theta_k``, ``(..., d, d)``.

        For grids, ``(..., H, W, H, W)``. Its expectation is symmetric (the Hessian of ``F_eps``)
        for additive noise; the estimate is only nearly so.
        """
        call, known = self._prepare(theta, seed, "jacobian")
        mean, _ = known or _estimate(call.sampler, "jacobian", None, False)
        return call.constant(mean, _square(call.scores))

    @_public
    def second_order_product(self, theta, v, w, *, seed=None, row_offset=0, sample_offset=0):
        """``D^2 y_eps(theta)[v, w]``, of theta's shape: how ``layer.vjp(theta, v)`` changes along
        ``w``; symmetric in ``v`` and ``w``. For ``method="exact"`` only."""
        call, _ = self._prepare(theta, seed, "value")
        if not isinstance(call.sampler, Expectation):
            raise ValueError("second_order_product needs method='exact'")
        directions = (as_companion(x, name, call.scores) for x, name in ((v, "v"), (w, "w")))
        product = call.sampler.second_order_product(*directions)
        return call.constant(product, call.scores.shape, v, w)

    @_public
    def vjp_epsilon(self, theta, v, *, seed=None, row_offset=0, sample_offset=0):
        """``v^T d y_eps / d epsilon``, in the shape of the batch or, for a temperature a
        coordinate, of theta: what torch's ``backward()`` hands to a learned ``epsilon``."""
        call, _ = self._prepare(theta, seed, "vjp", v)
        direction = as_companion(v, "v", call.scores)
        result = call.sampler.epsilon_vjp(direction, None, None)
        shape = call.scores.batch if result.shape[1] == 1 else call.scores.shape
        return call.constant(result, shape, v)

    @_public
    def estimate(
        self, theta, *, of="value", direction=None, seed=None, row_offset=0, sample_offset=0
    ) -> Estimate:
        """An estimate with its standard error, from one pass over the same samples.

        ``of`` is ``"value"`` (the perturbed optimum), ``"max"``, ``"vjp"``, ``"jvp"`` or
        ``"jacobian"``; ``direction`` is the ``v`` of the VJP or the ``t`` of the JVP. The standard
        error of a loss is that of the maximum: its other terms are constants. That of a coordinate
        that never varied is 0: more samples are needed to see it; of one sample it is NaN. Errors
        come from the samples, from the pairs (antithetic), or from the randomisations (qmc). With
        ``method="exact"`` the error is the quadrature's own: by how much the total of the row
        misses what it must be, and rounding; ``num_samples`` is then 0.
        """
        check_estimated(of, direction is not None)
        call, known = self._prepare(theta, seed, of, direction)
        mean, error = known or _estimate(call.sampler, of, self._direction(call, of, direction))
        scores = call.scores
        shape = {"max": scores.batch, "jacobian": _square(scores)}.get(of, scores.shape)
        num_samples = call.sampler.num_samples
        return Estimate(
            mean=call.constant(mean, shape, direction),
            standard_error=call.constant(error, shape, direction),
            num_samples=(
                num_samples if isinstance(num_samples, int) else num_samples.reshape(scores.batch)
            ),
        )

    @_public
    def samples(self, theta, *, seed=None, row_offset=0, sample_offset=0):
        """The individual solutions ``y*(theta + eps z_m)``, ``(num_samples, ...)`` and theta's."""
        if self.method == "exact":
            raise ValueError("samples needs method='mc': exact expectations draw none")
        if isinstance(self.num_samples, Adaptive):
            raise ValueError("samples needs a fixed num_samples, not dpo.Adaptive")
        call, _ = self._prepare(theta, seed, "samples")
        assert not isinstance(call.sampler, Expectation)
        solutions = np.moveaxis(call.sampler.solutions(), 1, 0)
        return call.constant(solutions, (self.num_samples, *call.scores.shape))

    @_public
    def loss(self, theta, y_true, *, seed=None, normalize=True, row_offset=0, sample_offset=0):
        """The Fenchel-Young loss ``F_eps(theta) - <theta, y> + eps Omega(y)``, ``(...)``.

        Convex in ``theta``, with gradient ``layer(theta) - y_true``, value and gradient from the
        same samples; where scores are costs the gradient in them is ``y_true - layer(costs)``.
        ``y_true`` is a solution, or any mean of solutions. ``eps Omega(y)`` does not depend on
        ``theta``; ``normalize=False`` leaves it out.

        * Gumbel noise and the argmax: ``eps (sum_i y_i log y_i - gamma)``, so the loss is the
          logistic loss at temperature ``eps``.
        * ``method="exact"``: the true value for every target, so the loss is non-negative, and zero
          where ``layer(theta) = y_true``. A target that is no solution costs a small convex
          problem, a few milliseconds a row.
        * Otherwise that of a solution, ``-eps <y, E Z>``: right for targets that are solutions of
          the argmax, top-k and ranks, a constant too much for means of solutions. It is left out
          for paths and for a temperature a coordinate.

        Being a Monte-Carlo estimate, a loss near zero may come out slightly negative. It never
        falls as ``epsilon`` grows, where targets are solutions: a temperature that is learned by
        it alone goes to zero; learn it by a loss of ``layer(theta)``.
        """
        call, _ = self._prepare(theta, seed, "max")
        targets, constant, slope = self._targets(call, y_true, as_flag("normalize", normalize))
        if call.scores.kind == "torch":
            return _torch().fenchel_young(call, y_true, targets, constant, slope)
        maximum = call.sampler.maximum()[0]
        value = fenchel_young(call.scores.rows, maximum, targets, call.whole.sign, constant)
        return call.result(value, call.scores.batch)

    def _targets(self, call: Call, y_true, normalize: bool):
        """Targets as rows, ``eps Omega`` of them, and its derivative in epsilon or None."""
        check_loss_scores(self.oracle, call.scores.rows)
        targets = as_companion(y_true, "y_true", call.scores)
        check_targets(y_true, as_host(targets), self.oracle, call.scores.shape)
        constant, slope = np.zeros(1), None
        if normalize:
            constant, slope = self._offset(call, as_host(targets))
        return targets, beside(constant, targets), slope

    def _offset(self, call: Call, targets: np.ndarray):
        """``eps Omega(y)``, (rows,), and its derivative in epsilon."""
        whole = call.whole
        closed = isinstance(self.noise, Gumbel) and isinstance(self.oracle, Argmax)
        if closed and whole.epsilon.shape[1] == 1:
            return _dual().entropy_offset(targets, as_host(whole.epsilon).astype(np.float64))
        if isinstance(call.sampler, Expectation):
            return _dual().exact_offset(whole, targets)
        return _dual().vertex_offset(whole)

    # ------------------------------------------------------------------------------- preparation

    def _prepare(
        self, theta, place: Place, of: str, direction=None, copies: bool = False
    ) -> tuple[Call, Any]:
        """The call, and the estimate of ``of`` where choosing the samples has made it already.

        ``copies``: it is of copies of the user's arrays.
        """
        scores = as_scores(theta, "theta", self.oracle.event_ndim)
        whole = self._whole(scores, place)
        if copies:
            whole = whole.on_copies()
            scores = scores._replace(rows=whole.theta)
        if of != "samples" and self._is_exact(whole):
            exact = Expectation(whole, self.tolerance)
            return Call(theta, self.epsilon, scores, whole, exact), None
        if isinstance(self.num_samples, int):
            sampler = designed(whole, self.num_samples)
            return Call(theta, self.epsilon, scores, whole, sampler), None
        return self._adapt(Call(theta, self.epsilon, scores, whole, whole), of, direction)

    def _whole(self, scores: Scores, place: Place) -> Sampler:
        """The problem, all rows, and one sample of each."""
        if self.precision == "fast" and is_host(scores.rows):
            raise ValueError("precision='fast' is for arrays on a GPU; on the CPU use 'portable'")
        if place.sample_offset:
            self._check_sample_offset(place.sample_offset)
        assert isinstance(self.noise, Noise)
        return Sampler(
            problem=self.oracle.problem(scores.shape),
            theta=scores.rows,
            epsilon=as_temperatures(self.epsilon, scores),
            draws=Draws(
                family=self.noise.family,
                seed=(0, 0) if self.method == "exact" else as_seed(place.seed, scores.kind),
                num_samples=1,
                design=DESIGNS[self.variance_reduction],
                multiplicative=self.perturbation == "multiplicative",
                row_ids=place.row_ids(len(scores.rows)),
                sample_offset=place.sample_offset,
            ),
            centred=self.variance_reduction != "none",
            precision=self.precision,
        )

    def _is_exact(self, whole: Sampler) -> bool:
        if self.method != "auto":
            return self.method == "exact"
        if refusal(self.oracle, self.noise, self.perturbation):
            return False
        return isinstance(self.num_samples, Adaptive) or pays(whole, self.num_samples)

    def _adapt(self, call: Call, of: str, direction):
        adaptive, whole = self.num_samples, call.whole
        assert isinstance(adaptive, Adaptive)
        operand = self._direction(call, of, direction)
        grouped, known = adapt(
            lambda index, m: designed(whole.of_rows(index), m),
            len(whole.theta),
            adaptive.tolerance,
            most_samples(adaptive.max_samples, whole.draws.design),
            lambda sampler, index: _estimate(
                sampler, of, None if operand is None else take(operand, index)
            ),
            floor=as_host(least_contribution(whole, of, operand)),
        )
        return call._replace(sampler=grouped), known

    @staticmethod
    def _direction(call: Call, of: str, direction) -> np.ndarray | None:
        if of not in ("vjp", "jvp"):
            return None
        return as_companion(direction, "v" if of == "vjp" else "t", call.scores)


@ft.cache
def _torch():
    from . import _torch

    return _torch


@ft.cache
def _dual():
    """Imported on first use: it imports SciPy."""
    from . import _dual

    return _dual


def _estimate(sampler, of: str, direction: np.ndarray | None, errors: bool = True):
    """Mean and standard error of ``of``; derivatives skip the error unless asked for."""
    if of == "value":
        return sampler.value()
    if of == "max":
        return sampler.maximum()[:2]
    if of == "jacobian":
        return sampler.jacobian(errors=errors)
    return getattr(sampler, of)(direction, errors=errors)


def _as_key(value: Any) -> Any:
    """The value; of what has no equality that is one truth, or no hash, which object it is."""
    if hasattr(value, "__array__"):
        return (id(value),)
    try:
        hash(value)
    except TypeError:  # a dict of result shapes, say
        return (id(value),)
    return value


def _square(scores: Scores) -> tuple[int, ...]:
    return scores.shape + scores.shape[len(scores.batch) :]
