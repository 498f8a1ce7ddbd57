"""Where and why a user's solver failed: the first row, its first sample, what Python says.

Found by halving: the rows, then that row's samples, are solved again until one is left. The noise
is a function of row and sample, so the answer does not depend on threads.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..codes import SOBOL, Draws, Problem
from ..user import Interrupted, SolverError, out_of_range, solution_of

Solve = Callable[[Problem, np.ndarray, np.ndarray, Draws], None]


def first(
    problem: Problem, theta: np.ndarray, epsilon: np.ndarray, draws: Draws, solve: Solve
) -> Exception:
    """The exception to raise; its cause is the solver's own, where it has one."""
    row_ids = np.arange(len(theta)) if draws.row_ids is None else np.asarray(draws.row_ids)

    def rows(begin: int, end: int):
        here = slice(begin, end)
        places = None if problem.places is None else problem.places[here]
        some = draws._replace(row_ids=row_ids[here])
        return problem._replace(places=places), theta[here], epsilon[here], some

    b = _first_failing(len(theta), lambda begin, end: solve(*rows(begin, end)))
    one = rows(b, b + 1)

    def samples(begin: int, end: int) -> Draws:
        return one[-1]._replace(num_samples=end - begin, sample_offset=draws.sample_offset + begin)

    m = _first_failing(draws.num_samples, lambda begin, end: solve(*one[:-1], samples(begin, end)))
    return _explained(*one[:-1], samples(m, m + 1))


def _first_failing(count: int, solve: Callable[[int, int], None]) -> int:
    """The first of ``count`` that fails, given that one does."""
    begin, end = 0, count
    while end - begin > 1:
        middle = (begin + end) // 2
        try:
            solve(begin, middle)
        except Interrupted:
            end = middle
        else:
            begin = middle
    return begin


def _explained(problem: Problem, theta: np.ndarray, epsilon: np.ndarray, draws: Draws) -> Exception:
    """Solve one sample in plain Python, which says what is wrong."""
    from .. import reference

    bound = problem.solver
    assert bound is not None
    scores = reference.Pass(problem, theta, epsilon, draws).p()[0, 0]
    assert draws.row_ids is not None
    row = "randomisation" if draws.design == SOBOL else "row"  # of which a row has several
    place = (
        f"on {row} {draws.row_ids[0]}, sample {draws.sample_offset} "
        f"(seed {draws.seed[0] + 2**32 * draws.seed[1]}), "
        f"whose perturbed scores are {np.array2string(scores, threshold=20)}"
    )
    name, error = bound.solver.name, None
    try:
        message = out_of_range(
            bound, solution_of(bound, scores, None if problem.places is None else problem.places[0])
        )
    except Exception as raised:
        error, message = raised, f"raised {type(raised).__name__}: {raised}"
    if message is None:
        message = "failed where plain Python does not, so the two differ in their arithmetic,"
    seed = draws.seed[0] + 2**32 * draws.seed[1]
    text = f"oracle {name} {message} {place}"
    result = SolverError(text, int(draws.row_ids[0]), draws.sample_offset, seed)
    result.__cause__ = error
    return result
