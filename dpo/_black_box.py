"""Any function of perturbed scores: ``dpo.perturbed(fun)``."""

from __future__ import annotations

import functools as ft
import operator
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np

from . import _trees as trees
from ._arrays import as_companion, as_scores, kind_of
from ._black_box_call import Call, estimate, perturbed_scores, to_user, watched
from ._checks import Adaptive, as_flag, as_integer, check_estimated, class_hint, is_traced
from ._designs import AnySampler, Grouped, adapt, designed, least_contribution, most_samples
from ._device import as_host, launching_on
from ._engine import MeanAndError
from ._estimate import Estimate
from ._losses import check_needs_no_gradient, fenchel_young
from ._noise import Noise, Normal
from ._oracles import Oracle
from ._perturbed import Perturbed
from ._seeds import Place
from ._solved import SolvedSampler
from ._solver import PerInstance, Solver
from .kernels.codes import Problem


def _public(method):
    """A method on scores of any kind, on the stream of the framework that they come from."""

    @ft.wraps(method)
    def call(self, theta, *args, **parameters):
        kind = kind_of(theta)
        if is_traced(theta, self.epsilon, *_leaves((args, parameters))):
            from . import _black_box_jax

            return _black_box_jax.call(method.__name__, self, theta, *args, **parameters)
        if kind == "torch":
            from . import _black_box_torch

            return _black_box_torch.eagerly(method, self, theta, *args, **parameters)
        with launching_on(theta, kind):
            return method(self, theta, *args, **parameters)

    return call


def _leaves(tree: Any) -> Iterator[Any]:
    """All that the arguments of a call hold."""
    for leaf in trees.leaves(tree):
        yield leaf.values if isinstance(leaf, PerInstance) else leaf


@dataclass(frozen=True, eq=False, kw_only=True)
class PerturbedFunction:
    """``y_eps(theta) = E[fun(theta + eps Z)]`` and its derivatives, for any ``fun``.

    What ``dpo.perturbed`` returns, which describes the parameters. All methods take the function's
    further arguments after their own; ``seed`` is as in ``dpo.Perturbed``, and so is the noise: the
    same seed gives a function that takes the argmax the samples of ``dpo.Perturbed(dpo.Argmax())``
    (for Gumbel noise but for rounding: there the fused argmax compares exponentials).
    """

    fun: Callable
    event_ndim: int = 1
    batched: bool = True
    noise: Noise | str = Normal()
    epsilon: Any = 0.5
    num_samples: int | Adaptive = 1000
    variance_reduction: str = "loo"
    perturbation: str = "additive"
    maximizer: bool = False
    minimizes: bool = False
    workers: int | Executor | None = None
    progress: Any = None
    memory: int = 2**26
    callback: bool = False
    result_shape: Any = None

    _layer: Perturbed = field(init=False, repr=False)
    """The settings that a layer has, checked."""

    def __post_init__(self):
        is_oracle = isinstance(self.fun, type) and issubclass(self.fun, Oracle)
        if is_oracle or not callable(self.fun):
            raise TypeError(
                f"fun must be a function of perturbed scores, got {self.fun!r}"
                + class_hint(self.fun)
            )
        layer = Perturbed(
            noise=self.noise,
            epsilon=self.epsilon,
            num_samples=self.num_samples,
            variance_reduction=self.variance_reduction,
            perturbation=self.perturbation,
        )
        checked: dict[str, Any] = {
            "noise": layer.noise,
            "epsilon": layer.epsilon,
            "num_samples": layer.num_samples,
            "event_ndim": as_integer("event_ndim", self.event_ndim),
            "memory": as_integer("memory", self.memory),
            "_layer": layer,
        }
        if self.workers is not None and not isinstance(self.workers, Executor):
            checked["workers"] = as_integer("workers", self.workers, other=" or an Executor")
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        for name in ("batched", "maximizer", "minimizes", "callback"):
            as_flag(name, getattr(self, name))
        for name in ("__name__", "__doc__"):  # a decorated function keeps its own
            if hasattr(self.fun, name):
                object.__setattr__(self, name, getattr(self.fun, name))
        if self.maximizer and self.minimizes:
            raise ValueError("a function that minimizes is no maximizer: pass one of the two")
        if not (self.progress is None or self.progress is True or callable(self.progress)):
            raise TypeError(
                "progress must be a function of (done, total), or True for a bar of tqdm, got "
                f"{self.progress!r}"
            )

    # What makes two layers equal makes two perturbed functions equal.
    _key = Perturbed._key
    __eq__ = Perturbed.__eq__
    __hash__ = Perturbed.__hash__

    @property
    def is_solver(self) -> bool:
        """Whether the function solves ``max <y, theta>`` (or min): ``max`` and ``loss`` exist."""
        return self.maximizer or self.minimizes

    # ------------------------------------------------------------------------------ public calls

    @_public
    def __call__(self, theta, *args, seed=None, **kwargs):
        """``ybar = (1 / M) sum_m fun(theta + eps z_m)``: unbiased for ``E[fun(theta + eps Z)]``.

        The function's results, averaged: a tree of arrays, (batch) and what the function returns of
        one instance, in theta's dtype.
        """
        call = self._call(theta, args, kwargs, seed)
        if call.scores.kind == "torch":
            from . import _black_box_torch

            sampler = self._sampler(call, "value")[0]
            return _black_box_torch.value(call._replace(sampler=sampler))
        return call.results(self._estimate(call, "value", errors=False)[0])

    @_public
    def max(self, theta, *args, seed=None, **kwargs):
        """``Fbar = (1 / M) sum_m <y_m, theta + eps z_m>``, (batch), of a maximizer.

        Unbiased for ``F_eps``; its gradient is ``f(theta)``, from the same samples. Where scores
        are costs this is minus the mean cost of the solutions.
        """
        call = self._call(theta, args, kwargs, seed, "max")
        if call.scores.kind == "torch":
            from . import _black_box_torch

            sampler = self._sampler(call, "max")[0]
            return _black_box_torch.maximum(call._replace(sampler=sampler))
        return call.result(self._estimate(call, "max", errors=False)[0], call.scores.batch)

    @_public
    def loss(self, theta, y_true, *args, seed=None, normalize=True, **kwargs):
        """The Fenchel-Young loss ``F_eps(theta) - <theta, y> + eps Omega(y)``, (batch).

        Of a maximizer; the gradient is ``f(theta) - y_true``, with the opposite sign where scores
        are costs. ``eps Omega(y)`` is taken to be that of a solution, ``-<eps y, E Z>``: zero but
        for Gumbel noise. ``normalize=False`` leaves it out.
        """
        call = self._call(theta, args, kwargs, seed, "loss")
        check_needs_no_gradient(y_true)
        targets = as_host(as_companion(y_true, "y_true", call.scores))
        offset, slope = self._offset(call, targets, normalize)
        if call.scores.kind == "torch":
            from . import _black_box_torch

            call = call._replace(sampler=self._sampler(call, "max")[0])
            return _black_box_torch.fenchel_young(call, y_true, targets, offset, slope)
        maximum = self._estimate(call, "max", errors=False)[0]
        value = fenchel_young(call.whole.theta, maximum, targets, call.whole.sign, offset)
        return call.result(value, call.scores.batch)

    @_public
    def vjp(self, theta, v, *args, seed=None, **kwargs):
        """``v^T D y_eps(theta)``, of theta's shape; ``v`` is like what ``f(theta)`` returns."""
        call = self._call(theta, args, kwargs, seed).along(v)
        mean, _ = self._estimate(call, "vjp", v, errors=False)
        return call.result(mean, call.scores.shape)

    @_public
    def pullback(self, theta, *args, seed=None, **kwargs):
        """``f(theta)`` and the function ``v -> v^T D y_eps(theta)``, on the same samples.

        See ``dpo.Perturbed.pullback``. Solutions that fit into ``memory`` are not solved for again.
        """
        call = self._call(theta, args, kwargs, seed)
        call = call._replace(whole=call.whole.on_copies())
        call = call._replace(sampler=self._sampler(call, "value")[0])
        kept = call.sampler.forward(for_gradient=True)

        def pulled(self, theta, v):
            product = call.sampler.vjp(call.direction(v), kept)[0]
            return call.along(v).result(product, call.scores.shape)

        def pull(v):
            if is_traced(*_leaves(v)):
                raise NotImplementedError(
                    "the function that pullback returns is for concrete arrays; inside JAX "
                    "transformations differentiate the perturbed function"
                )
            if call.scores.kind != "torch":
                return pulled(self, theta, v)
            from . import _black_box_torch

            return _black_box_torch.eagerly(pulled, self, theta, v)

        return call.results(kept.mean), pull

    @_public
    def jvp(self, theta, t, *args, seed=None, **kwargs):
        """``D y_eps(theta) t``, like what ``f(theta)`` returns; ``t`` is of theta's shape."""
        call = self._call(theta, args, kwargs, seed).along(t)
        return call.results(self._estimate(call, "jvp", t, errors=False)[0])

    @_public
    def jacobian(self, theta, *args, seed=None, **kwargs):
        """``D y_eps(theta)``: of every result, (batch, its shape, shape of an instance)."""
        call = self._call(theta, args, kwargs, seed)
        mean, _ = self._estimate(call, "jacobian", errors=False)
        return call.results(mean, rest=call.event)

    @_public
    def vjp_epsilon(self, theta, v, *args, seed=None, **kwargs):
        """``v^T d y_eps / d epsilon``, (batch); for a temperature a coordinate, theta's shape."""
        call = self._call(theta, args, kwargs, seed).along(v)
        call = call._replace(sampler=self._sampler(call, "vjp", v)[0])
        kept = call.sampler.forward(for_gradient=True)
        result = call.sampler.epsilon_vjp(call.direction(v), None, kept)
        shape = call.scores.batch if result.shape[1] == 1 else call.scores.shape
        return call.result(result, shape)

    @_public
    def estimate(self, theta, *args, of="value", direction=None, seed=None, **kwargs) -> Estimate:
        """An estimate with its standard error; see ``dpo.Perturbed.estimate``.

        ``of`` is ``"value"``, ``"max"`` (of a maximizer), ``"vjp"``, ``"jvp"`` or ``"jacobian"``.
        """
        check_estimated(of, direction is not None)
        call = self._call(theta, args, kwargs, seed, of).along(direction)
        sampler, known = self._sampler(call, of, direction)
        both = known or estimate(call, sampler, of, direction, None, True)
        count = sampler.num_samples
        if of in ("max", "vjp"):
            shape = call.scores.batch if of == "max" else call.scores.shape
            mean, error = (call.result(x, shape) for x in both)
        else:
            rest = call.event if of == "jacobian" else ()
            mean, error = (call.results(x, rest=rest) for x in both)
        return Estimate(
            mean, error, count if isinstance(count, int) else count.reshape(call.scores.batch)
        )

    @_public
    def samples(self, theta, *args, seed=None, **kwargs):
        """The function's results of every sample, (num_samples, batch, ...) each."""
        if isinstance(self.num_samples, Adaptive):
            raise ValueError("samples needs a fixed num_samples, not dpo.Adaptive")
        call = self._call(theta, args, kwargs, seed)
        y = np.moveaxis(self._sampler(call, "value")[0].solutions(), 1, 0)
        flat = y.reshape(-1, y.shape[-1])
        return call.results(flat, lead=(self.num_samples,))

    @_public
    def perturbed_scores(self, theta, *, seed, row=None, sample=None, num_samples=None):
        """What the function is called on: ``theta + eps z_m`` of all samples, (num_samples, ...).

        ``row`` (all leading axes flattened) and ``sample`` pick one of each; an error names them.
        ``num_samples`` is that of the call, where it was adaptive.
        """
        call = self._call(theta, (), {}, seed)
        whole, count = call.whole, num_samples or self.num_samples
        shape = call.scores.shape
        if row is not None:
            whole = SolvedSampler(*whole.of_rows(np.array([operator.index(row)])))
            shape = call.event
        if isinstance(count, Adaptive):
            raise ValueError("perturbed_scores needs num_samples where it is dpo.Adaptive")
        sampler = designed(whole, count)
        p = perturbed_scores(sampler)
        if sample is None:
            return call.result(p, (count, *shape))
        return call.result(p[sample], shape)

    # ------------------------------------------------------------------------------- preparation

    def require_solver(self, of: str) -> None:
        """Raise where the function is not said to be a solver."""
        if not self.is_solver:
            raise ValueError(
                f"{of} is for solvers of max <y, theta>: pass maximizer=True to dpo.perturbed if "
                "the function returns such a y (minimizes=True where scores are costs)"
            )

    def _call(self, theta, args, kwargs, seed, of: str = "value") -> Call:
        """The call; its ``sampler`` is made when it is known what it is to estimate."""
        if of in ("max", "loss"):
            self.require_solver(of)
        scores = as_scores(theta, "theta", self.event_ndim)
        whole = self._layer._whole(scores, Place(seed))
        solver = Solver(
            watched(self.fun, scores.kind),
            args,
            kwargs,
            batched=self.batched,
            batch=scores.batch,
            event=scores.shape[len(scores.batch) :],
            to_user=to_user(theta, scores.kind, self.callback),
            solves=self.is_solver,
            workers=self.workers,
            progress=self.progress,
            memory=self.memory,
        )
        problem = Problem(
            oracle="function",
            places=np.arange(len(scores.rows))[:, None],
            minimises=self.minimizes,
            solver=solver,
        )
        whole = whole._replace(
            problem=problem, theta=as_host(whole.theta), epsilon=as_host(whole.epsilon)
        )
        sampler = SolvedSampler(*whole)
        return Call(theta, self.epsilon, scores, sampler, sampler)

    def _sampler(
        self, call: Call, of: str, direction: Any = None
    ) -> tuple[AnySampler | Grouped, MeanAndError | None]:
        """The samples that ``of`` sees, and its estimate where that chose how many there are."""
        whole = call.whole
        if isinstance(self.num_samples, int):
            return designed(whole, self.num_samples), None
        floor = np.zeros(len(whole.theta))  # what a function may add is anybody's guess
        if self.is_solver:
            operand = call.direction(direction) if of == "vjp" and len(floor) else None
            floor = least_contribution(whole, of if operand is not None else "value", operand)
        return adapt(
            lambda index, m: designed(whole.of_rows(index), m),
            len(whole.theta),
            self.num_samples.tolerance,
            most_samples(self.num_samples.max_samples, whole.draws.design),
            lambda sampler, index: estimate(call, sampler, of, direction, index, True),
            floor=floor,
        )

    def _estimate(self, call: Call, of: str, direction=None, errors=True) -> MeanAndError:
        sampler, known = self._sampler(call, of, direction)
        return known or estimate(call, sampler, of, direction, None, errors)

    def _offset(self, call: Call, targets: np.ndarray, normalize: bool):
        """``eps Omega`` of solutions, (rows,), and its derivative in epsilon."""
        from .kernels.noise import law_of

        epsilon = call.whole.epsilon.astype(np.float64)
        additive = normalize and self.perturbation == "additive"
        mean = law_of(call.whole.draws.family).mean if additive else 0.0
        slope = -mean * targets.astype(np.float64)
        offset = (slope * epsilon).sum(1)
        return offset, slope if epsilon.shape[1] > 1 else slope.sum(1, keepdims=True)


@overload
def perturbed(fun: Oracle, **settings: Any) -> Perturbed: ...
@overload
def perturbed(fun: Callable, **settings: Any) -> PerturbedFunction: ...
@overload
def perturbed(fun: None = None, **settings: Any) -> Callable[[Callable], PerturbedFunction]: ...
def perturbed(fun=None, **settings):
    """Perturb any function of scores: ``f(theta)`` is then ``E[fun(theta + eps Z)]``.

    Differentiable however rough ``fun`` is, since the derivatives are those of the noise:

        D_theta E[fun(theta + eps Z)] = (1 / eps) E[(fun(theta + eps Z) - E fun) s(Z)^T]

    A decorator as well: ``@dpo.perturbed(num_samples=100)``. Further arguments of ``f``, positional
    or by keyword, are handed to ``fun``; ``dpo.PerInstance(x)`` marks one that has an entry an
    instance. ``fun`` may return an array, or nested dicts, lists and tuples of arrays.

    Parameters
    ----------
    fun
        A function of an array of perturbed scores, in float32 or float64, of theta's framework: in
        torch it gets tensors, in JAX it is traced. A parameter ``warm_start`` receives its result
        for the sample before (None on the first), where that helps it to solve. (Of an oracle that
        has fused kernels the result is ``dpo.Perturbed``, with its parameters.)
    event_ndim
        How many trailing axes of theta are one instance; all before are batch.
    batched
        True: ``fun`` takes scores of shape (samples, *theta's shape) and returns arrays with the
        same leading axes. False: it takes the scores of one instance.
    noise, epsilon, num_samples, variance_reduction, perturbation
        As in ``dpo.Perturbed``. (Under ``dpo.Adaptive`` a batched function gets the rows that go
        on, the batch flattened.)
    maximizer
        Whether ``fun`` returns a ``y`` of theta's shape that maximises ``<y, scores>``: ``f.max``
        and ``f.loss`` then exist.
    minimizes
        The same for costs: ``fun`` minimises ``<y, costs>``, and sees ``theta - eps Z``.
    workers
        Threads that call ``fun``, or an executor of ``concurrent.futures`` (a
        ``ProcessPoolExecutor``, or joblib's ``loky``) for a function of one instance.
    progress
        A function of (problems solved, problems in all), or True for a bar of tqdm.
    memory
        Bytes that a call may take, about: for a window of samples, and as much again for keeping
        solutions until the gradient. Those that do not fit are solved for again.
    callback
        In JAX: call ``fun`` on NumPy arrays instead of tracing it.
    result_shape
        With ``callback`` inside a JAX transformation: what ``fun`` returns of one instance, as a
        tree of shapes' carriers such as ``jax.ShapeDtypeStruct``; not needed for solvers.

    Raises
    ------
    SolverError
        Where ``fun`` raises: says on which row and sample, and how to get these scores again.
    TypeError, ValueError
        At construction and at a call, naming the argument and what it may be.

    Examples
    --------
    >>> import dpo, numpy
    >>> relu = dpo.perturbed(lambda x: numpy.maximum(x, 0), epsilon=1.0, num_samples=100_000)
    >>> relu([0.0, 3.0], seed=0).round(2)   # 1 / sqrt(2 pi) = 0.40, and 3.00
    array([0.4, 3. ])
    >>> relu.vjp([0.0, 3.0], [1.0, 1.0], seed=0).round(1)
    array([0.5, 1. ])
    """
    if fun is None:
        return ft.partial(perturbed, **settings)
    if isinstance(fun, Oracle):
        return Perturbed(fun, **settings)
    return PerturbedFunction(fun=fun, **settings)
