"""The warm start of CUDA paths: no result depends on it, and it begins where it says.

Forced on and off, and chosen. Relaxation mends whatever lies above the fixed point, so results
alone do not show a wrong tree: trees, and rounds until nothing changes, are looked at themselves.
"""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import simt
from dpo.kernels import reference
from dpo.kernels.codes import JACOBIAN, JVP, MAXIMUM, MOMENTS, VALUE, VJP
from dpo.kernels.cpu import launch as cpu
from dpo.kernels.cuda import launch as cuda
from dpo.kernels.cuda import solvers
from dpo.kernels.reference_solvers import dijkstra, neighbours
from helpers import draws, grid, temperatures

ON, OFF = (cuda.Plan(64, 1, warm_start=warm) for warm in (True, False))
PLANS = pytest.mark.parametrize("plan", [ON, OFF], ids=["warm", "cold"])
NEIGHBOURS = pytest.mark.parametrize("neighbors", [4, 8])


def launch(problem, theta, epsilon, noise, operation=VALUE, device=None, **parameters):
    device = device or simt.Simulator()
    return cuda.launch(problem, theta, epsilon, noise, operation, device=device, **parameters)


def costs_of_every_kind(height, width, dtype):
    """A row each: ordinary, few values, equal, zero, mostly zero, huge, walls, steep."""
    d = height * width
    rng = np.random.default_rng(d)
    x = rng.uniform(0.2, 2, d)
    serpentine = x.reshape(height, width).copy()
    serpentine[1:-1:2] = np.inf  # source and target are in rows without walls
    serpentine[1:-1:4, -1] = serpentine[3:-1:4, 0] = 1
    rows = [
        x, np.round(x), np.ones(d), np.zeros(d), np.where(rng.random(d) < 0.7, 0, x),
        x * (np.finfo(dtype).max / (4 * d)), serpentine.ravel(), 10 ** (8 * x - 8),
    ]  # fmt: skip
    return np.stack(rows).astype(dtype)


def arguments_for(
    height, width, neighbors, dtype, m, epsilon=0.2, source=0, target=-1, design=0, **parameters
):
    costs = costs_of_every_kind(height, width, dtype)
    problem = grid(height, width, neighbors, len(costs), source, target)
    noise = draws("normal", m, height * width, design, **parameters)
    return problem, costs, temperatures(costs, epsilon), noise


# ---------------------------------------------------------------------------------------- results

SIZES = [(1, 1), (1, 40), (40, 1), (12, 12), (17, 18), (3, 60)]
"""A warp's; 17 x 18 cells are a block's."""


@PLANS
@NEIGHBOURS
@pytest.mark.parametrize("height, width", SIZES)
def test_solutions_are_the_reference_s(height, width, neighbors, dtype, plan):
    d = height * width
    given = arguments_for(height, width, neighbors, dtype, 3)
    solutions = np.full((len(given[1]), 3, d), -1, np.int32)
    counts = launch(*given, plan=plan, solutions=solutions, squares=True).counts
    expected = reference.Pass(*given)
    np.testing.assert_array_equal(np.moveaxis(solutions, 1, 0), expected.solutions())
    np.testing.assert_array_equal(counts, expected.counts())


@PLANS
@NEIGHBOURS
@pytest.mark.parametrize("height, width", [(30, 30), (64, 64), (70, 66)])
def test_large_grids(height, width, neighbors, dtype, plan):
    """Of blocks in shared memory, and (64 x 64 in float64, and 70 x 66) in global memory."""
    given = arguments_for(height, width, neighbors, dtype, 1, epsilon=0.05)
    device = simt.Simulator()
    ours = launch(*given, plan=plan, device=device).counts
    np.testing.assert_array_equal(ours, cpu.launch(*given).counts)
    in_shared = height < (64 if dtype == np.float64 else 70)
    assert any(k.startswith("path_trees") for k in device.launches) == (plan is ON and in_shared)


@pytest.fixture
def many_samples(monkeypatch):
    """As if any number of samples kept a GPU busy: a warp then solves whatever it can."""
    monkeypatch.setattr(solvers, "_MANY", 1)


@NEIGHBOURS
def test_large_grids_of_warps(neighbors, many_samples):
    given = arguments_for(32, 32, neighbors, np.float32, 2)
    np.testing.assert_array_equal(launch(*given, plan=ON).counts, cpu.launch(*given).counts)


@pytest.mark.parametrize("source, target", [(0, 0), (77, 77), (143, 5), (60, -1)])
def test_places(dtype, source, target):
    given = arguments_for(12, 12, 8, dtype, 3, source=source, target=target)
    given = given[0]._replace(places=given[0].places[:6]), given[1][:6], given[2][:6], given[3]
    expected = reference.Pass(*given).counts()[:, :1]
    for plan in (ON, OFF):
        np.testing.assert_array_equal(launch(*given, plan=plan).counts, expected)


@pytest.mark.parametrize(
    "parameters",
    [
        dict(epsilon=np.linspace(0.01, 1, 48)),
        dict(multiplicative=True),
        dict(design=1),  # antithetic
    ],
    ids=["temperatures", "multiplicative", "antithetic"],
)
def test_every_operation(dtype, parameters):
    """Bit for bit that of a cold start, whose sums other tests compare with the CPU's."""
    given = arguments_for(6, 8, 8, dtype, 10, **parameters)
    v = np.random.default_rng(1).standard_normal((len(given[1]), 48)).astype(dtype)
    for operation in (VALUE, MAXIMUM, VJP, JVP, JACOBIAN, MOMENTS):
        with np.errstate(invalid="ignore"):
            warm, cold = (
                launch(*given, operation, plan=plan, direction=v, mean=v, squares=True)
                for plan in (ON, OFF)
            )
        np.testing.assert_array_equal(warm.counts, cold.counts)
        np.testing.assert_array_equal(warm.totals, cold.totals)
    np.testing.assert_array_equal(warm.counts[:, 0], reference.Pass(*given).counts()[:, 0])


@PLANS
def test_no_path_of_finite_cost_is_an_error(plan):
    costs = np.ones((2, 9), np.float32)
    costs[1, 3:6] = np.inf
    given = grid(3, 3, 8, 2), costs, temperatures(costs, 0.5), draws("normal", 4)
    with pytest.raises(ValueError, match="without a path of finite cost"):
        launch(*given, plan=plan)


# ------------------------------------------------------------------------------ distances, rounds

INSTRUMENTS = [
    ("__device__ inline void relax(", "__device__ inline int relax("),
    ("bool fell = true;", "bool fell = true; int rounds = 0;"),
    (
        "fell = Team::any(fell);\n    }\n}",
        "fell = Team::any(fell);\n        ++rounds;\n    }\n    return rounds;\n}",
    ),
    (
        "        relax<Team>(grid, source, SHARED ? grids.tree(b) : nullptr);",
        """
        const int rounds = relax<Team>(grid, source, SHARED ? grids.tree(b) : nullptr);
        if (Team::thread() == 0) atomicAdd(&failed[2 + b], rounds);
        if (rows.num_samples == 1) {
            Real* noted = reinterpret_cast<Real*>(failed + 2 + rows.number) + b * rows.d;
            for (int i = Team::thread(); i < rows.d; i += Team::threads())
                noted[i] = grid.distance[grid.inner(i)];
        }
        """,
    ),
]
"""Edits that make the kernel note rounds, and the distances of a row's only sample."""


def edited(folder, edits):
    """The kernels with ``grid_path.cu`` changed."""
    for source in simt.KERNELS.iterdir():
        if source.suffix in (".cu", ".cuh"):
            shutil.copy(source, folder)
    text = (folder / "grid_path.cu").read_text()
    for original, new in edits:
        assert text.count(original) == 1, original
        text = text.replace(original, new)
    (folder / "grid_path.cu").write_text(text)
    return folder


@pytest.fixture(scope="module")
def instrumented(tmp_path_factory):
    return edited(tmp_path_factory.mktemp("instrumented"), INSTRUMENTS)


def noted(folder, given, plan):
    """Rounds of every row, summed over samples, and distances of its only one."""
    theta = given[1]
    end = 2 + len(theta)  # even: what follows may be float64
    failed = np.zeros(end + theta.nbytes // 4, np.int32)
    launch(*given, plan=plan, device=simt.Simulator(folder=folder), failed=failed)
    assert failed[0] == 0
    return failed[2:end], failed[end:].view(theta.dtype).reshape(theta.shape)


def distances(p, problem):
    """Dijkstra's, of samples (rows, d)."""
    height, width, neighbors, bits = problem.options
    least = p.dtype.type(np.int64(bits).view(np.float64))
    grids = np.where(p > least, p, least).reshape(-1, height, width)
    places = problem.places[:, 0]
    return np.stack([dijkstra(x, int(a), neighbors) for x, a in zip(grids, places, strict=True)])


@PLANS
@NEIGHBOURS
@pytest.mark.parametrize("height, width", [*SIZES, (40, 40), (70, 70)])
def test_distances_are_dijkstra_s(height, width, neighbors, dtype, plan, instrumented):
    given = arguments_for(height, width, neighbors, dtype, 1)
    _, ours = noted(instrumented, given, plan)
    np.testing.assert_array_equal(ours, distances(reference.Pass(*given).p()[0], given[0]))


@pytest.mark.simulator
def test_a_start_below_the_least_cost_is_seen(tmp_path, instrumented):
    """Relaxation cannot mend it: distances differ, or the way back is lost."""
    folder = edited(tmp_path, [*INSTRUMENTS, ("grid.distance[branch.from] + ", "")])
    given = arguments_for(12, 12, 8, np.float32, 1)
    expected = distances(reference.Pass(*given).p()[0], given[0])

    def right(kernels):
        try:
            return (noted(kernels, given, ON)[1] == expected).all()
        except simt.SimtError:
            return False

    assert right(instrumented) and not right(folder)


@pytest.mark.parametrize("height", [13, 25])
def test_rounds_are_saved(height, instrumented):
    """With next to no noise all but the one in which nothing changes, unless costs are tied."""
    ordinary, serpentine, m = 0, 6, 2
    for epsilon, most in [(1e-6, 0.0), (0.05, 0.85)]:
        given = arguments_for(height, height, 4, np.float64, m, epsilon)
        warm, cold = (noted(instrumented, given, plan)[0] - m for plan in (ON, OFF))
        assert warm[ordinary] <= most * cold[ordinary]
        assert warm[serpentine] == 0 and cold[serpentine] > height * height / 4 * m


# ------------------------------------------------------------------------------------------ trees


class Keeping(simt.Simulator):
    """Keeps the trees that a launch makes."""

    trees = None

    def function(self, file, kernel):
        run = super().function(file, kernel)
        if not kernel.startswith("path_trees"):
            return run

        def run_and_keep(blocks, threads, arguments):
            run(blocks, threads, arguments)
            self.trees = arguments[1][3]

        return run_and_keep


def tree_of(words):
    """Levels of a row's tree, each an array of (cell, place, from)."""
    branches, levels, begin = words.view(np.uint16).reshape(-1, 4), [], 0
    while (end := branches[len(levels), 3]) > begin:
        levels.append(branches[begin:end, :3].astype(int))
        begin = end
    return levels


def expected_tree(costs, source, neighbors):
    """Levels, each the predecessors of its cells: fewest steps, then row-major order."""
    height, width = costs.shape
    distance, flat = dijkstra(costs, source, neighbors), costs.ravel()
    reached, levels = {source}, []
    while True:
        level = {}
        for v in set(np.flatnonzero(np.isfinite(distance))) - reached:
            for u in neighbours(v, height, width, neighbors):
                if u in reached and distance[u] + flat[v] == distance[v]:
                    level[int(v)] = u
                    break
        if not level:
            return levels
        reached |= set(level)
        levels.append(level)


@NEIGHBOURS
@pytest.mark.parametrize("height, width", [*SIZES, (24, 24)])
def test_trees(height, width, neighbors, dtype):
    given = arguments_for(height, width, neighbors, dtype, 1, source=width // 2)
    device = Keeping()
    launch(*given, plan=ON, device=device)

    def place(cell):
        return (cell // width + 1) * (width + 2) + cell % width + 1

    for words, costs in zip(device.trees, given[1], strict=True):
        ours = tree_of(words)
        expected = expected_tree(costs.reshape(height, width), width // 2, neighbors)
        assert len(ours) == len(expected)
        for level, theirs in zip(ours, expected, strict=True):
            assert {(v, place(v), place(u)) for v, u in theirs.items()} == set(map(tuple, level))
            assert len(level) == len(theirs)


def doubtful(costs, noise, neighbors):
    """Cells that two neighbours lead to at the least cost, or above it by at most the noise."""
    height, width = costs.shape
    distance, flat = dijkstra(costs, 0, neighbors), costs.ravel()
    near = lambda v: neighbours(v, height, width, neighbors)  # noqa: E731
    return sum(
        sum(distance[u] + flat[v] <= distance[v] + noise[v] for u in near(v)) > 1
        for v in np.flatnonzero(np.isfinite(distance))
        if v != 0
    )


@NEIGHBOURS
@pytest.mark.parametrize("multiplicative", [False, True])
def test_rows_in_doubt_start_cold(neighbors, multiplicative, dtype, monkeypatch):
    """Row by row, at limits on either side of every row's count; a temperature a cell."""
    epsilon = np.linspace(0.02, 0.1, 100)
    given = arguments_for(10, 10, neighbors, dtype, 1, epsilon, multiplicative=multiplicative)
    noise = given[2] * given[1] if multiplicative else given[2]
    counts = [
        doubtful(costs.reshape(10, 10), noise_, neighbors)
        for costs, noise_ in zip(given[1], noise.astype(dtype), strict=True)
    ]
    assert len(set(counts)) > 4
    for limit in {x + more for x in counts for more in (-1, 0)}:
        monkeypatch.setattr(solvers, "_cells_in_doubt", lambda *_, limit=limit: limit)
        device = Keeping()
        launch(*given, device=device)
        ours = [len(tree_of(words)) > 0 for words in device.trees]
        assert ours == [count <= limit for count in counts]


class Launching(simt.Simulator):
    """Runs nothing, and keeps the limit that trees are made with."""

    limit = None

    def function(self, file, kernel):
        def keep(blocks, threads, arguments):
            if kernel.startswith("path_trees"):
                self.limit = arguments[2]

        return keep


@pytest.mark.parametrize(
    "height, m, limit",
    [
        (12, 2**16, 36),
        (12, 2**16 - 1, None),
        (8, 2**16, 16),
        (7, 2**16, None),
        (30, 2**16, 225),
        (64, 2**16, None),
        (66, 2**16, None),
    ],
)
def test_where_trees_are_made(height, m, limit):
    given = arguments_for(height, height, 8, np.float32, m)
    given = given[0]._replace(places=given[0].places[:1]), given[1][:1], given[2][:1], given[3]
    device = Launching()
    launch(*given, device=device)
    assert device.limit == limit


def test_costs_with_ties_start_cold_and_others_warm(monkeypatch):
    monkeypatch.setattr(solvers, "_SAMPLES_OF_TREES", 1)
    given = arguments_for(12, 12, 8, np.float32, 64, epsilon=0.05)
    device = Keeping()
    counts = launch(*given, device=device).counts
    warm = [len(tree_of(words)) > 0 for words in device.trees]
    assert warm == [True, False, False, False, False, True, True, False]
    np.testing.assert_array_equal(counts, cpu.launch(*given).counts)
