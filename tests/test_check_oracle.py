"""``check_oracle``: built-in oracles pass, broken solvers fail, and each fault is named."""

from __future__ import annotations

import heapq
import itertools
import re

import numpy as np
import pytest

import dpo

D = 6
CHECKS = [
    "output", "deterministic", "history", "memory", "batch", "scores", "maximises", "negative",
    "size", "scale", "ties", "dtype",
]  # fmt: skip


def one_hot(index, d=D):
    return np.eye(d)[index]


def argmax(theta):
    return one_hot(theta.argmax(-1), theta.shape[-1])


def top2(theta):
    order = np.argsort(-theta, axis=-1, kind="stable")
    y = np.zeros(theta.shape, np.int64)
    np.put_along_axis(y, order[..., :2], 1, -1)
    return y


def ranks(theta):
    return np.argsort(np.argsort(theta, axis=-1), axis=-1) + 1.0


def failures(oracle, **parameters):
    if not isinstance(oracle, dpo.Oracle):
        parameters.setdefault("d", D)
    return {check.name: check.message for check in dpo.check_oracle(oracle, **parameters).failures}


# --------------------------------------------------------------------------------- what passes


@pytest.mark.parametrize(
    "oracle, shape",
    [
        (dpo.Argmax(), (2,)),
        (dpo.Argmax(), None),
        (dpo.Argmax(), (33,)),
        *((dpo.TopK(k), (9,)) for k in range(1, 9)),
        (dpo.TopK(7), None),
        (dpo.TopK(30), (64,)),
        (dpo.Ranks(), (2,)),
        (dpo.Ranks(), None),
        (dpo.Ranks(), (90,)),
        *(
            (dpo.ShortestPath(neighbors, min_cost=least), shape)
            for neighbors in (4, 8)
            for least in (0.0, 0.5)
            for shape in (None, (2, 5), (7, 4))
        ),
        (dpo.ShortestPath(8, source=(1, 2), target=(-1, 0)), None),
        (dpo.ShortestPath(4, source=(5, 9), target=(2, 2)), None),
    ],
)
def test_built_in_oracles_pass(oracle, shape):
    report = dpo.check_oracle(oracle, shape=shape)
    report.raise_for_failures()
    clips = isinstance(oracle, dpo.ShortestPath)
    expected = {"negative": "note"} if clips else {}
    if clips and oracle.min_cost > 0:
        expected["scale"] = "note"
    assert {c.name: c.verdict for c in report.checks.values() if c.verdict != "ok"} == expected
    held = {g.name for g in report.guarantees if g.holds}
    assert len(held) == (6 if "scale" in expected else 7)


def test_it_is_the_compiled_solver_that_is_checked(monkeypatch):
    """Without noise: the solutions are those of the scores themselves, ties included."""
    from dpo import _trial

    theta = np.random.default_rng(0).integers(-2, 3, (50, 7)).astype(np.float32)
    solved = _trial._solve(dpo.TopK(3), theta)
    order = np.argsort(-theta, axis=-1, kind="stable")[:, :3]
    assert (np.flatnonzero(solved).reshape(50, 3) % 7 == np.sort(order)).all()

    monkeypatch.setattr(_trial, "_solve", lambda oracle, theta: argmax(-theta))
    assert "maximises" in failures(dpo.Argmax())


@pytest.mark.parametrize(
    "solver, parameters",
    [
        (argmax, {}),
        (top2, dict(total=2)),
        (ranks, {}),
        (lambda costs: argmax(-costs), dict(minimizes=True)),
        (lambda theta: one_hot(theta.argmax()), dict(batched=False)),
        (lambda theta: (theta > 0).astype(np.float32), {}),  # of the cube: sums vary with signs
        (lambda theta: theta / np.linalg.norm(theta, axis=-1, keepdims=True), {}),  # of the ball
        (lambda theta: np.ones_like(theta), dict(feasible=np.ones((1, D)))),  # of one point
    ],
)
def test_right_functions_pass(solver, parameters):
    assert failures(solver, **parameters) == {}


def test_objects_say_what_they_are():
    class BlackBox:
        fun = staticmethod(lambda costs: one_hot(costs.argmin()))
        batched, minimizes = False, True

    assert failures(BlackBox()) == {}
    assert "maximises" in failures(BlackBox(), minimizes=False)
    assert dpo.check_oracle(dpo.Perturbed(dpo.TopK(2))).ok


def test_arrays_of_another_framework():
    torch = pytest.importorskip("torch")

    def solver(theta):
        assert isinstance(theta, torch.Tensor)
        return torch.nn.functional.one_hot(theta.argmax(-1), D)

    assert failures(solver, asarray=torch.as_tensor) == {}


@pytest.mark.parametrize(
    "solver, rule",
    [
        (argmax, "the lowest index is preferred"),
        (lambda x: argmax(x[..., ::-1])[..., ::-1], "the highest index is preferred"),
        (lambda x: argmax(np.roll(x, 2, -1))[..., [2, 3, 4, 5, 0, 1]], "a fixed rule of its own"),
    ],
)
def test_tie_rule_is_told(solver, rule):
    assert rule in dpo.check_oracle(solver, d=D).checks["ties"].message


# --------------------------------------------------------------------------------- what is broken


class Random:
    """Solvers that toss coins."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def always(self, theta):
        return argmax(theta + self.rng.standard_normal(theta.shape))

    def at_ties(self, theta):
        return argmax(theta + 1e-9 * self.rng.random(theta.shape))


class Sticky:
    """Keeps the last solution of a row unless another is clearly better."""

    last = 0

    def __call__(self, theta):
        if theta.max() > theta[self.last] + 0.5:
            self.last = theta.argmax()
        return one_hot(self.last)


class Buffer:
    """Returns the same array at every call."""

    def __init__(self):
        self.y = np.zeros(D)

    def __call__(self, theta):
        self.y[:] = argmax(theta)
        return self.y


def sorts_in_place(theta):
    y = top2(theta)
    theta.sort(-1)
    return y


def sometimes_nan(theta):
    return np.where(theta.max(-1, keepdims=True) > 3, np.nan, argmax(theta))


def refuses_negative(theta):
    if (theta < 0).any():
        raise ValueError("scores must not be negative")
    return argmax(theta)


def greedy(theta):
    """A knapsack by density: no maximiser, though often right."""
    weights = np.array([3, 3, 4, 1, 2, 5])
    y = np.zeros_like(theta)
    for row, scores in zip(y, theta, strict=True):
        room = 6
        for i in np.argsort(-scores / weights):
            if weights[i] <= room and scores[i] > 0:
                row[i], room = 1, room - weights[i]
    return y


BROKEN = {
    "minimises": (lambda x: argmax(-x), {}, {"maximises": "minimises .* pass minimizes=True"}),
    "maximises": (argmax, dict(minimizes=True), {"maximises": "leave out minimizes=True"}),
    "random": (Random().always, {}, {"deterministic": "repeated calls differ"}),
    "random ties": (Random().at_ties, {}, {"ties": "breaks ties differently from call to call"}),
    "k + 1": (top2, dict(total=1), {"size": r"must sum to 1, .* sums to 2"}),
    "k + 1 at ties": (
        lambda x: x >= np.sort(x, -1)[..., -2:-1],
        {},
        {"size": "must sum to 2", "maximises": "no linear maximiser"},
    ),
    "ignores": (lambda x: one_hot(np.zeros(len(x), int)), {}, {"scores": "ignores its scores"}),
    "ignores, known": (
        lambda x: one_hot(np.zeros(len(x), int)),
        dict(feasible=np.eye(D)),
        {"maximises": "no linear maximiser"},
    ),
    "wrong on negative": (
        lambda x: argmax(np.abs(x)),
        {},
        {"negative": "wrong on negative scores: .* lower=0.0"},
    ),
    "refuses negative": (
        refuses_negative,
        {},
        {"negative": "raised ValueError: scores must not be negative", "size": "", "scale": ""},
    ),
    "mixes rows": (
        lambda x: argmax(x - 0.5 * np.roll(x, 1, 0)),
        {},
        {"batch": "mixes rows"},
    ),
    "whole batch": (lambda x: (x == x.max()).astype(float), {}, {"batch": "mixes rows"}),
    "mutates": (sorts_in_place, {}, {"memory": "changes the scores it is given"}),
    "reuses": (Buffer(), dict(batched=False), {"memory": "overwrites a solution"}),
    "NaN": (sometimes_nan, {}, {"output": "returned NaN"}),
    "history": (Sticky(), dict(batched=False), {"history": "depends on earlier calls"}),
    "raises": (lambda x: 1 / 0, {}, {"output": "raised ZeroDivisionError"}),
    "index": (lambda x: x.argmax(-1), {}, {"output": r"shape \(64,\) .* batched=False"}),
    "tuple": (lambda x: (argmax(x), 0.0), {}, {"output": "raised ValueError|returned"}),
    "text": (lambda x: argmax(x).astype(str), {}, {"output": "solutions must be numbers"}),
    "heuristic": (greedy, {}, {"maximises": "no linear maximiser"}),
    "softmax": (
        lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
        {},
        {"maximises": "no linear maximiser", "scale": "another solution"},
    ),
    "threshold": (
        lambda x: np.where(x.max(-1, keepdims=True) > 0.01, argmax(x), argmax(-x)),
        {},
        {"negative": "wrong on negative", "scale": "another solution"},
    ),
    "float64 only": (
        lambda x: argmax(x if x.dtype == np.float64 else -x),
        {},
        {"dtype": "float32 scores"},
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("fault", BROKEN)
def test_broken_solvers_are_named(fault):
    solver, parameters, expected = BROKEN[fault]
    report = dpo.check_oracle(solver, **{"d": D, **parameters})
    assert {check.name for check in report.failures} == set(expected)
    for check in report.failures:
        assert re.search(expected[check.name], check.message), check.message
    with pytest.raises(ValueError, match="is not what the theory needs"):
        report.raise_for_failures()


def grid_dijkstra(costs):
    """Right for costs that are not negative; a negative one is settled too early."""
    height, width = costs.shape
    distance, before = {(0, 0): costs[0, 0]}, {}
    heap, done = [(costs[0, 0], (0, 0))], set()
    while heap:
        _, v = heapq.heappop(heap)
        if v in done:
            continue
        done.add(v)
        for i, j in itertools.product((-1, 0, 1), repeat=2):
            u = v[0] + i, v[1] + j
            if 0 <= u[0] < height and 0 <= u[1] < width and u not in done:
                through = distance[v] + costs[u]
                if through < distance.get(u, np.inf):
                    distance[u], before[u] = through, v
                    heapq.heappush(heap, (through, u))
    y, v = np.zeros(costs.shape), (height - 1, width - 1)
    y[v] = 1
    while v != (0, 0):
        v = before[v]
        y[v] = 1
    return y


def test_a_shortest_path_is_wrong_on_negative_costs_unless_it_clips():
    options = dict(shape=(4, 5), batched=False, minimizes=True)
    report = dpo.check_oracle(grid_dijkstra, **options)
    assert [c.name for c in report.failures] == ["negative"]
    lost = {g.name for g in report.guarantees if g.holds is False}
    assert lost == {"maximum", "loss", "symmetric"}

    def clipped(costs):
        return grid_dijkstra(np.maximum(costs, 0))

    assert not dpo.check_oracle(clipped, **options).ok
    report = dpo.check_oracle(clipped, lower=0.0, **options)
    assert report.ok and report.checks["negative"].verdict == "note"


# --------------------------------------------------------------------------------- the report


def test_what_rests_on_a_fault_is_not_judged():
    report = dpo.check_oracle(Random().always, d=D)
    verdicts = {name: check.verdict for name, check in report.checks.items()}
    assert list(verdicts) == CHECKS
    assert verdicts["output"] == "ok" and verdicts["deterministic"] == "FAIL"
    assert all(verdicts[name] == "-" for name in CHECKS[2:])
    holds = {g.name: g.holds for g in report.guarantees}
    assert holds["reproducible"] is False and holds["value"] is None


def test_guarantees_follow_from_checks():
    report = dpo.check_oracle(lambda x: np.sign(x) * argmax(np.abs(x)), d=D)
    assert all(g.holds for g in report.guarantees)  # vertices of the l1 ball
    report = dpo.check_oracle(lambda x: argmax(np.abs(x - 0.9 * x.max(-1, keepdims=True))), d=D)
    holds = {g.name: g.holds for g in report.guarantees}
    assert holds == dict(
        value=True, gradient=True, reproducible=True, maximum=False, loss=False, symmetric=False,
        temperature=True,
    )  # fmt: skip


def test_readable():
    text = str(dpo.check_oracle(dpo.TopK(2), d=5, seed=3))
    lines = text.splitlines()
    assert lines[0] == "TopK(k=2), scores of shape (5,), 64 probes, seed 3"
    assert "  ok    size          all solutions sum to 2" in lines
    assert "  holds maximum       the gradient of layer.max is layer(theta)" in lines
    assert max(map(len, lines)) <= 100
    assert text == repr(dpo.check_oracle(dpo.TopK(2), d=5, seed=3))


@pytest.mark.parametrize(
    "parameters, error, message",
    [
        (dict(oracle=argmax), ValueError, "pass d=10, or shape="),
        (dict(oracle=argmax, d=3, shape=(3,)), ValueError, "d or shape, not both"),
        (dict(oracle=argmax, d=2.5), TypeError, "d must be a positive integer, got 2.5"),
        (dict(oracle=argmax, shape=(3, 0)), ValueError, "shape must be a positive integer, got 0"),
        (
            dict(oracle=argmax, d=3, num_probes=2),
            ValueError,
            "num_probes must be an integer, at least 8, got 2",
        ),
        (dict(oracle=argmax, d=3, feasible=[1, 0, 0]), ValueError, r"feasible must have shape"),
        (dict(oracle=dpo.Argmax), TypeError, "must be a dpo oracle or a function of scores"),
        (dict(oracle="argmax"), TypeError, "must be a dpo oracle or a function of scores"),
        (dict(oracle=dpo.TopK(4), d=3), ValueError, r"k must be in 1\.\.3"),
        (dict(oracle=dpo.ShortestPath(), d=3), ValueError, r"has 2 axes, got \(3,\)"),
        (dict(oracle=dpo.Argmax(), d=3, total=2), ValueError, "total"),
    ],
)
def test_bad_arguments(parameters, error, message):
    with pytest.raises(error, match=message):
        dpo.check_oracle(**parameters)
