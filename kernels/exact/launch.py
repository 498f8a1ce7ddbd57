"""Launch: rows of exact expectations over threads, each oracle by its cheapest exact method."""

from __future__ import annotations

import math

import numpy as np

from ..codes import Problem
from ..cpu.layout import compiled_layout
from ..cpu.simd import LANES
from ..cpu.threads import run_tasks
from ..noise import FAMILIES, GUMBEL
from . import argmax, nodes, ranks, softmax, topk
from .codes import JACOBIAN, MOMENTS, PRODUCT, SCALE, SECOND

PAIRS = 256
"""Coordinates up to which ranks go over pairs: about where nodes become cheaper."""
_WIDE = 4096
_TOPK_BYTES = 2**30
_NODE_NS = 1.0  # of a coordinate, roughly: what threads are worth waking for


def launch(
    problem: Problem,
    theta: np.ndarray,
    epsilon: np.ndarray,
    family: int,
    operation: int,
    *,
    v: np.ndarray | None = None,
    w: np.ndarray | None = None,
    tolerance: float | None = None,
) -> np.ndarray:
    """The integrals of ``codes.py``, (rows, slots, size) float64.

    ``theta``, ``v`` and ``w`` are (rows, d), float32 or float64, of one dtype; ``epsilon`` is
    (rows, 1) or (rows, d). MOMENTS has two slots, ``y`` and ``z``; JACOBIAN a size of d^2; the
    others a slot of d. Of the argmax every total is off by at most ``tolerance`` before rounding,
    of top-k and ranks at most d times as much (``nodes.py``).
    """
    rows, d = theta.shape
    tolerance = tolerance or nodes.default_tolerance(theta.dtype)
    none = np.zeros((1, d), theta.dtype)
    v, w = (none if x is None else compiled_layout(x) for x in (v, w))
    theta, epsilon = compiled_layout(theta), compiled_layout(epsilon.astype(theta.dtype))
    order = {SECOND: 2, PRODUCT: 1, SCALE: 1, JACOBIAN: 1}.get(operation, 0)
    shared = epsilon.shape[1] == 1
    if problem.oracle == "argmax" and family == GUMBEL and shared:
        return softmax.integrals(operation, theta, epsilon, v, w)
    if not shared and rows:
        nodes.check_spread(epsilon)
    pairs = problem.oracle == "ranks" and shared and d <= PAIRS
    if operation == JACOBIAN and problem.oracle != "argmax" and not pairs:
        return _by_columns(problem, theta, epsilon, family, tolerance)
    slots, size = 1 + (operation == MOMENTS), d * d if operation == JACOBIAN else d
    mean = FAMILIES[family].mean
    if problem.oracle == "argmax":
        rules = nodes.rules(family, d, tolerance, order)
        parts = _parts(rows, d, rules[-1]) if shared else 1
        out = np.empty((rows * parts, slots, size))
        given = parts, operation, family, theta, epsilon, rules, tolerance / 10, v, w, out
        kernel, cost = argmax.run, d * d if operation == JACOBIAN else 64 * d
    elif problem.oracle == "topk":
        k, parts = problem.options[0], 1
        theta, epsilon, v, w = (x.astype(np.float64) for x in (theta, epsilon, v, w))
        needed = _topk_bytes(d, k, operation)
        if needed > _TOPK_BYTES:
            raise ValueError(
                f"method='exact' would take {needed / 2**30:.1f} GB a thread for the top {k} of "
                f"{d} coordinates; use method='mc'"
            )
        rules = np.stack(
            [nodes.rules(family, d, tolerance, order, min(k, d - k), m) for m in (False, True)]
        )
        out = np.empty((rows, slots, size))
        given = operation, family, mean, k, theta, epsilon, rules, v, w, out
        kernel, cost = topk.run, 100 * d * max(1, min(k, d - k))
    else:
        parts, out = 1, np.empty((rows, slots, size))
        if pairs:
            given = operation, family, mean, theta, epsilon, v, w, out
            kernel, cost = ranks.run_pairs, d * d
        else:
            rule = np.array(nodes.rule(family, 2, 0, tolerance, order))
            given = operation, family, mean, theta, epsilon, rule, v, w, out
            kernel, cost = ranks.run_nodes, 200 * d
    tasks = rows * parts
    run_tasks(lambda begin, end: kernel(begin, end, *given), tasks, tasks * cost * _NODE_NS)
    return out.reshape(rows, parts, slots, size).sum(1)


def cost_ns(problem: Problem, theta: np.ndarray, shared: bool, family: int) -> float:
    """Nanoseconds a coordinate for value and VJP where all coordinates matter, on one core.

    From measurements (``benchmarks/results``); infinite where there is no room.
    """
    d, wide = theta.shape[1], theta.itemsize / 4
    tolerance = nodes.default_tolerance(theta.dtype)
    if problem.oracle == "argmax":
        if family == GUMBEL and shared:
            return 20.0
        step, low, high = nodes.rules(family, d, tolerance)[-1]
        return 1.2 * wide * (LANES + (high - low) / step)
    if problem.oracle == "ranks":
        return 1.2 * wide * d if shared and d <= PAIRS else 400 * wide
    k = min(problem.options[0], d - problem.options[0])
    if _topk_bytes(d, k, PRODUCT) > _TOPK_BYTES:
        return math.inf
    step, low, high = nodes.rules(family, d, tolerance, k=k)[-1]
    return (5 + 1.2 * k) * (LANES + (high - low) / step)


def _parts(rows: int, d: int, rule: np.ndarray) -> int:
    """Into how many tasks a row's blocks are split: few long rows, whatever the threads."""
    step, low, high = rule
    return math.ceil((high - low) / (step * LANES)) if rows < 4 and d >= _WIDE else 1


def _topk_bytes(d: int, k: int, operation: int) -> int:
    """What a thread's dynamic programme may take."""
    parts = 4 if operation == SECOND else 2 if operation in (PRODUCT, SCALE) else 1
    return 2 * math.isqrt(d) * parts * (min(k, d - k) + 2) * LANES * 8


def _by_columns(problem, theta, epsilon, family, tolerance) -> np.ndarray:
    """The Jacobian, from its products with unit vectors."""
    rows, d = theta.shape
    jacobian = np.empty((rows, d, d))
    for i in range(d):
        unit = np.zeros((1, d), theta.dtype)
        unit[0, i] = 1
        columns = launch(problem, theta, epsilon, family, PRODUCT, v=unit, tolerance=tolerance)
        jacobian[:, i] = columns[:, 0]
    return jacobian.reshape(rows, 1, d * d)
