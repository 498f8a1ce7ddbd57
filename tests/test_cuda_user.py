"""User oracles on a GPU, without one: device code, machine code, and failures.

The kernel around the function runs in the simulator against the reference and the CPU in
``test_cuda_oracles.py`` ("user", "user-ranks"), with the function as compiled for the CPU. Here
Numba-CUDA compiles the functions for GPUs, and nvJitLink joins them with the kernel.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import simt
import user_oracles
from dpo.kernels import codes
from dpo.kernels.cuda import launch, offline, user
from helpers import ON_GPU, draws, require_numba_cuda, temperatures

import dpo
from dpo import solvers

ORACLES = {
    "argmax": user_oracles.argmax.problem((3,)),
    "interval": user_oracles.fitting_interval(6, 2).problem((2, 6)),
    "knapsack": solvers.knapsack(weights=[1, 2], capacity=3).problem((2,)),
    "choice": solvers.budgeted_choice(costs=[[1]], budget=[2]).problem((1, 1, 1)),
    "monotone": solvers.monotone_path.problem((2, 2)),
    "viterbi": solvers.viterbi(allowed=[[1]]).problem((1, 1)),
    "tree": solvers.spanning_tree(ends=[[0, 1]]).problem((1,)),
    "assignment": solvers.assignment.problem((2, 2)),
}
KERNEL = "user<Draw<{}, ADDITIVE, {}, SCORE, false, false>>"
PLAIN = KERNEL.format("float, NORMAL", "INDEPENDENT")


@pytest.fixture
def on(monkeypatch):
    """Compile as on a GPU of that capability: Numba-CUDA asks the current one."""
    require_numba_cuda()
    pytest.importorskip("cuda.bindings.nvjitlink")

    def on(architecture):
        capability = divmod(int(architecture.removeprefix("sm_")), 10)
        device = types.SimpleNamespace(compute_capability=capability)
        monkeypatch.setattr("numba.cuda.dispatcher.get_current_device", lambda: device)
        return capability

    return on


def solver_of(name):
    return ORACLES[name].solver.solver


@pytest.mark.parametrize("name", ORACLES)
def test_functions_become_device_code(on, name):
    """For which Numba fuses no product into a sum, so a GPU decides as the CPU does."""
    ptx = user.device_function(solver_of(name), on("sm_90"))
    assert ".target sm_90" in ptx and re.search(r"\.visible \.func .*dpo_solve", ptx)
    assert "fma." not in ptx


@pytest.mark.parametrize("architecture", offline.ARCHITECTURES)
def test_kernels_link_for_every_architecture(on, architecture):
    capability = on(architecture)
    for kernel in (PLAIN, KERNEL.format("double, GUMBEL", "ANTITHETIC")):
        cubin, name = user.linked(solver_of("interval"), kernel, capability)
        assert cubin[:4] == b"\x7fELF" and name.encode() in cubin


def test_arrays_cannot_be_made_on_a_gpu(on):
    with pytest.raises(TypeError, match=r"oracle ranks cannot.*must be declared \(workspace"):
        user.device_function(user_oracles.ranks.problem((3,)).solver.solver, on("sm_90"))


ON_NUMBAS_SIMULATOR = """
import sys; sys.path.insert(0, "tests")
import numpy as np, user_oracles
from dpo.kernels import codes, reference, user
from helpers import draws, temperatures
from numba import cuda

oracle, theta = user_oracles.fitting_interval(6, 1), np.linspace(-1, 1, 6)[None]
problem = oracle.problem(theta.shape)
expected = reference.Pass(problem, theta, temperatures(theta, 0.5), draws("normal", 40))
bound, p = problem.solver, expected.p()[:, 0]
solve = cuda.jit(device=True)(bound.solver.function)
arguments = bound.argument_views(problem.places[0], np.zeros(bound.work_words, np.int64))

@cuda.jit
def kernel(p, room, total, sizes, length, least, solutions):
    m = cuda.grid(1)
    if m < len(p):
        solve(p[m], solutions[m], room, total[m], sizes, length[m], least)

room, total, sizes, length, least = arguments
solutions = np.zeros(p.shape, np.int32)
each = np.empty((40, 6)), sizes, np.empty((40, 6), np.int64)
kernel[2, 32](p, room, *each, least, solutions)
print((solutions == expected.solutions()[:, 0]).all(), solutions.sum() > 0)
"""


def test_a_thread_a_sample_in_numbas_own_simulator():
    """The function called by a Numba-CUDA kernel, each thread with memory of its own."""
    root = Path(__file__).parents[1]
    out = subprocess.run(
        [sys.executable, "-c", ON_NUMBAS_SIMULATOR],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.stdout == "True True\n", out.stderr[-2000:]


def test_failures_are_named():
    """By row, sample and seed, as on the CPU: the message is found there."""

    @dpo.oracle
    def fails(scores, solution):
        solution[0] = 1
        if np.argmax(scores) == 2:
            raise ZeroDivisionError("third is best")

    @dpo.oracle
    def too_large(scores, solution):
        solution[0] = 1 + (np.argmax(scores) == 2)

    theta = np.zeros((3, 4))
    theta[:, 2] = [-99, 0, 9]
    device, noise = simt.Simulator(), draws("normal", 40)
    if ON_GPU:
        require_numba_cuda()
    for oracle, message in ((fails, "raised ZeroDiv"), (too_large, r"wrote 2 to solution\[0\]")):
        given = oracle.problem(theta.shape), theta, temperatures(theta, 0.5), noise
        with pytest.raises(RuntimeError, match=rf"{message}.* on row 1, sample"):
            launch.launch(*given, codes.VALUE, device=device)
        few = oracle.problem((1, 4)), theta[:1], temperatures(theta[:1], 0.5), noise
        counts = launch.launch(*few, codes.VALUE, device=device).counts
        assert counts[0, 0, 0] == 40
