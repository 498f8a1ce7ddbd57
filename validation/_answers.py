"""The exact answer for any oracle, noise, temperature and kind of perturbation.

**Multiplicative perturbation** is additive in the logarithm. Let ``l_i = a_i (log |theta_i| -
eps_i^2 / 2)``, ``a_i`` the sign of ``theta_i``: the largest of ``theta_i exp(eps Z_i - eps^2 / 2)``
is the largest of ``l_i + eps Z_i`` for normal noise, wherever all scores have one sign. Hence

    y(theta) = y_additive(l)        D y = D y_additive(l) diag(a_i / theta_i)
    F(theta) = sum_i theta_i E[exp(eps Z_i - eps^2 / 2) y_i]
             = sum_i theta_i y_additive(l + a_i eps_i^2 e_i)_i

since weighting by the log-normal factor is shifting ``Z_i`` by ``eps_i``. Costs are alike where
each path has one cell of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import dpo

from ._exact import Exact, exact_answers
from ._exact_oracles import ranks_answers, topk_answers, variables
from ._exact_paths import paths_answers


def answers(
    oracle: dpo.Oracle,
    theta: np.ndarray,
    epsilon: float | np.ndarray,
    noise: str,
    perturbation: str = "additive",
    refine: int = 1,
) -> Exact:
    """The answers for one instance; grids are flattened in them."""
    if perturbation == "multiplicative":
        return _multiplicative(oracle, theta, epsilon)
    if isinstance(oracle, dpo.ShortestPath):
        return paths_answers(theta, np.broadcast_to(epsilon, theta.shape), noise, oracle, refine)
    if isinstance(oracle, dpo.Argmax) and np.ndim(epsilon) == 0 and refine == 1:
        return exact_answers(theta, float(epsilon), noise)
    x = variables(theta, epsilon, noise, refine)
    if isinstance(oracle, dpo.Ranks):
        return ranks_answers(x)
    return topk_answers(x, oracle.k if isinstance(oracle, dpo.TopK) else 1)


def _multiplicative(oracle: dpo.Oracle, theta: np.ndarray, epsilon: float | np.ndarray) -> Exact:
    flat = theta.ravel()
    sign = np.sign(flat)
    epsilon = np.broadcast_to(epsilon, theta.shape)

    def additive(location: np.ndarray) -> Exact:
        return answers(oracle, location.reshape(theta.shape), epsilon, "normal")

    location = sign * (np.log(np.abs(flat)) - epsilon.ravel() ** 2 / 2)
    plain = additive(location)
    shift = sign * epsilon.ravel() ** 2
    tilted = [additive(location + row).value[i] for i, row in enumerate(np.diag(shift))]
    maximum = flat @ np.array(tilted)
    if isinstance(oracle, dpo.ShortestPath):
        maximum = -maximum
    return plain._replace(max=float(maximum), jacobian=plain.jacobian * (sign / flat))


def derivative(function: Callable[[float], float | np.ndarray], at: float, step: float = 0.02):
    """``function'(at)``: central differences, extrapolated twice (Richardson), error O(h^6)."""

    def central(h: float):
        return (function(at + h) - function(at - h)) / (2 * h)

    table = [central(step * at / 2**k) for k in range(3)]
    for order in (4, 16):
        pairs = zip(table[1:], table[:-1], strict=True)
        table = [(order * fine - coarse) / (order - 1) for fine, coarse in pairs]
    return table[0]


def epsilon_derivative(
    oracle: dpo.Oracle,
    theta: np.ndarray,
    epsilon: float | np.ndarray,
    noise: str,
    perturbation: str = "additive",
) -> np.ndarray:
    """``d y_eps / d eps``, (d,); (d, d) for a temperature a coordinate, which is the last axis."""

    def value(temperatures: float | np.ndarray) -> np.ndarray:
        return answers(oracle, theta, temperatures, noise, perturbation).value

    if np.ndim(epsilon) == 0:
        return derivative(value, float(epsilon))
    own = np.asarray(epsilon, np.float64)
    moves = np.abs(answers(oracle, theta, own, noise, perturbation).jacobian).sum(0) > 0
    columns = []
    for index, place in enumerate(np.ndindex(own.shape)):
        if not moves[index]:  # no path of interest enters the cell
            columns.append(np.zeros(theta.size))
            continue

        def along(e: float, place: tuple[int, ...] = place) -> np.ndarray:
            moved = own.copy()
            moved[place] = e
            return value(moved)

        columns.append(derivative(along, float(own[place])))
    return np.stack(columns, -1)
