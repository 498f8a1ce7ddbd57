"""Layers as ``torch.nn`` modules: noise that resumes from a checkpoint, a temperature to learn.

    from dpo.torch import PerturbedTopK

    choose = PerturbedTopK(k=5, epsilon=0.5, learn_epsilon=True, seed=0)
    y = choose(scores)

Every call draws fresh noise, from the module's seed and a count of its calls. Both are in
``state_dict``, so that a run resumed from a checkpoint goes on with the noise it would have had.
"""

from __future__ import annotations

import os
import threading

import torch
from torch import Tensor, nn

from ._checks import as_epsilon, as_flag, check_temperatures
from ._oracles import Argmax, Oracle, Ranks, ShortestPath, TopK
from ._perturbed import Perturbed as _Layer
from ._seeds import WORD, as_seed
from ._torch import is_transformed, transformed


class Perturbed(nn.Module):
    """A perturbed optimizer ``y_eps(theta) = E[y*(theta + eps Z)]`` as a module.

    ``forward(theta)`` is the perturbed optimum, ``max(theta)`` is ``F_eps`` and
    ``loss(theta, y_true)`` the Fenchel-Young loss, shaped and differentiable as those of
    ``dpo.Perturbed``, whose parameters these are. Under ``torch.compile(fullgraph=True)`` one graph
    serves every call.

    Parameters
    ----------
    oracle
        The solver, a ``dpo.Oracle``.
    epsilon
        The temperature: a number or a tensor, see ``dpo.Perturbed``. ``module.epsilon = 0.1``
        anneals it.
    learn_epsilon
        Make the temperature a parameter. Its logarithm is what is learned, so it stays positive.
    seed
        Of the noise: an int, two words or a ``torch.Generator``; by default drawn from torch's
        global generator, so that two modules never share noise by accident. Processes that shard a
        batch are given the same seed, and ``row_offset`` at every call.
    **parameters
        Further ones of ``dpo.Perturbed``: ``noise``, ``num_samples``, ``method``, ...
    """

    def __init__(
        self, oracle: Oracle, *, epsilon=0.5, learn_epsilon=False, seed=None, **parameters
    ):
        super().__init__()
        layer = _Layer(oracle, epsilon=epsilon, **parameters)
        self._is_learned = as_flag("learn_epsilon", learn_epsilon)
        if learn_epsilon and isinstance(epsilon, nn.Parameter):
            raise ValueError(
                "learn_epsilon=True makes a parameter of its own, of epsilon's logarithm: pass "
                "epsilon.detach(), or leave learn_epsilon out to train the parameter as it is"
            )
        if learn_epsilon:
            start = torch.as_tensor(epsilon, dtype=torch.get_default_dtype()).detach()
            check_temperatures(start.cpu().numpy())
            self.log_epsilon = nn.Parameter(start.log())
        elif isinstance(epsilon, nn.Parameter):
            self._epsilon = epsilon
        elif isinstance(epsilon, Tensor):
            self.register_buffer("_epsilon", epsilon)
        # A tensor belongs to the module alone, which moves it; every call puts it in its place.
        self._layer = layer._at(1.0) if learn_epsilon or isinstance(epsilon, Tensor) else layer
        self._noise = torch.tensor([*as_seed(seed, "torch"), 0])

    @property
    def layer(self) -> _Layer:
        """The ``dpo.Perturbed`` of the next call, at its temperature: for ``layer.estimate(theta)``
        and all else that a module has not. Noise is that of the ``seed`` given there."""
        return self._layer._at(self.epsilon)

    @property
    def epsilon(self) -> Tensor | float:
        """The temperature of the next call; set it to another number to anneal it."""
        if self._is_learned:
            return self.log_epsilon.exp()
        return getattr(self, "_epsilon", self._layer.epsilon)

    @epsilon.setter
    def epsilon(self, epsilon: Tensor | float) -> None:
        epsilon = as_epsilon(epsilon)
        if self._is_learned or hasattr(self, "_epsilon"):
            held = self.log_epsilon if self._is_learned else self._epsilon
            value = torch.as_tensor(epsilon, dtype=held.dtype, device=held.device).detach()
            check_temperatures(value.cpu().numpy())
            with torch.no_grad():
                held.copy_(value.log() if self._is_learned else value)
        elif isinstance(epsilon, Tensor):
            raise TypeError(
                "epsilon was a number, which a tensor cannot replace: make the module with a tensor"
            )
        else:
            self._layer = self._layer._at(epsilon)

    def forward(self, theta: Tensor, *, row_offset: int = 0) -> Tensor:
        """The perturbed optimum, of theta's shape."""
        return self._call("__call__", theta, row_offset=row_offset)

    def max(self, theta: Tensor, *, row_offset: int = 0) -> Tensor:
        """``F_eps(theta)``, of the batch's shape."""
        return self._call("max", theta, row_offset=row_offset)

    def loss(
        self, theta: Tensor, y_true: Tensor, *, normalize: bool = True, row_offset: int = 0
    ) -> Tensor:
        """The Fenchel-Young loss of each instance."""
        return self._call("loss", theta, y_true, normalize=normalize, row_offset=row_offset)

    def _call(self, name: str, theta: Tensor, *directions, **parameters):
        if torch.compiler.is_compiling():
            parameters["seed"] = self._next_words()
        else:  # the module's noise is no part of what torch.func transforms
            with _one_at_a_time, torch._C._DisableFuncTorch():
                parameters["seed"] = self._next_words()
        epsilon = self.epsilon
        if isinstance(epsilon, Tensor):
            epsilon = epsilon.to(theta.device)
        if is_transformed():
            parameters["epsilon"] = epsilon
            return transformed(name, self._layer, theta, *directions, **parameters)
        layer = self._layer._at(epsilon)
        return getattr(layer, name)(theta, *directions, **parameters)

    def _next_words(self) -> Tensor:
        """The seed of a call, which is counted."""
        low, high, calls = self._noise.unbind()
        self._noise = self._noise + _ONE_MORE
        return torch.stack([low, (high + calls) % WORD])

    def get_extra_state(self) -> Tensor:
        """The seed and the number of calls; on the CPU, wherever the module is."""
        return self._noise

    def set_extra_state(self, state: Tensor) -> None:
        self._noise = state.clone()

    def extra_repr(self) -> str:
        epsilon = self.epsilon.detach() if isinstance(self.epsilon, Tensor) else self.epsilon
        names = ("oracle", "noise", "num_samples", "method", "variance_reduction")
        shown = {name: getattr(self._layer, name) for name in names}
        shown |= {"epsilon": epsilon, "learn_epsilon": self._is_learned}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())


_ONE_MORE = torch.tensor([0, 0, 1])
_one_at_a_time = threading.Lock()
"""Of threads that call a module: no two get the same noise."""


def _after_fork() -> None:
    """Another thread may have held the lock."""
    global _one_at_a_time
    _one_at_a_time = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class PerturbedArgmax(Perturbed):
    """``Perturbed(dpo.Argmax(), ...)``: a differentiable one-hot of the largest score."""

    def __init__(self, **parameters):
        super().__init__(Argmax(), **parameters)


class PerturbedTopK(Perturbed):
    """``Perturbed(dpo.TopK(k), ...)``: which scores are among the ``k`` largest."""

    def __init__(self, k: int, **parameters):
        super().__init__(TopK(k), **parameters)


class PerturbedRanks(Perturbed):
    """``Perturbed(dpo.Ranks(), ...)``: ascending ranks, 1 .. d."""

    def __init__(self, **parameters):
        super().__init__(Ranks(), **parameters)


class PerturbedShortestPath(Perturbed):
    """``Perturbed(dpo.ShortestPath(...), ...)``: cells on the cheapest path through a grid."""

    def __init__(self, *, neighbors=8, source=(0, 0), target=(-1, -1), min_cost=0.0, **parameters):
        super().__init__(ShortestPath(neighbors, source, target, min_cost), **parameters)


class FenchelYoungLoss(nn.Module):
    """The mean Fenchel-Young loss of a batch: ``FenchelYoungLoss(oracle)(scores, y_true)``.

    Its gradient is ``(y_eps(scores) - y_true) / batch``. ``reduction`` is ``"mean"``, ``"sum"`` or
    ``"none"``; other parameters are those of ``Perturbed``.
    """

    def __init__(self, oracle: Oracle | None = None, *, reduction: str = "mean", **parameters):
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
        self.reduction = reduction
        self.optimizer = Perturbed(oracle or Argmax(), **parameters)

    def forward(self, theta: Tensor, y_true: Tensor, *, row_offset: int = 0) -> Tensor:
        loss = self.optimizer.loss(theta, y_true, row_offset=row_offset)
        return loss if self.reduction == "none" else getattr(loss, self.reduction)()
