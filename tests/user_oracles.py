"""Oracles as users write them, for several test files: by name, so that they can be pickled."""

from __future__ import annotations

import numpy as np

import dpo


@dpo.oracle
def argmax(scores, solution):
    best = 0
    for i in range(1, scores.size):
        if scores[i] > scores[best]:
            best = i
    solution[best] = 1


@dpo.oracle(minimizes=True)
def argmin(costs, solution):
    solution[np.argmin(costs)] = 1


@dpo.oracle
def refuses_the_third(scores, solution):
    best = np.argmax(scores)
    if best == 2:
        raise ZeroDivisionError("third is best")
    solution[best] = 1


@dpo.oracle(binary=False)
def ranks(scores, solution):
    """As ``dpo.Ranks``, by the formula; with an array made inside."""
    d = scores.size
    found = np.ones(d, np.int64)
    for i in range(d):
        for j in range(d):
            if scores[i] > scores[j] or (scores[i] == scores[j] and j > i):
                found[i] += 1
    for i in range(d):
        solution[i] = found[i]


@dpo.oracle(
    parameters={"room": 0, "sizes": 1, "least": 0},
    workspace=lambda shape, room, sizes, least: {
        "total": np.empty(shape[0]),
        "length": np.empty(shape, np.int64),
    },
)
def interval(scores, solution, room, total, sizes, length, least):
    """The interval worth most whose sizes fit, at least ``least`` long if anything fits."""
    d = scores.size
    first, end, best = 0, 0, -np.inf
    for i in range(d):
        total[i], length[i], used = 0.0, 0, 0.0
        for j in range(i, d):
            used += sizes[j]
            if used > room:
                break
            total[i] += scores[j]
            length[i] += 1
            if length[i] >= least and total[i] > best:
                first, end, best = i, j + 1, total[i]
    for i in range(first, end):
        solution[i] = 1


def fitting_interval(d, rows):
    """``interval`` with a number for all rows, an array and a number a row."""
    rng = np.random.default_rng(7)
    sizes, least = rng.uniform(0.5, 2, (rows, d)), rng.integers(1, 3, rows)
    return interval(room=3.5, sizes=sizes, least=least)
