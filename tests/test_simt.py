"""The simulator of a GPU (``tests/simt``) sees the defects that it is there to see."""

from __future__ import annotations

import numpy as np
import pytest
import simt

SIZE = 64


def launch(kernel, seed=0, blocks=1, x=None, y=None):
    """A planted kernel on 64 threads; returns what it wrote."""
    simulator = simt.Simulator(seed, folder=simt.HERE)
    x = np.arange(SIZE, dtype=np.int32) if x is None else x
    y = np.full(SIZE, -1, np.int32) if y is None else y
    simulator.function("planted.cu", kernel)((blocks,), (SIZE,), (x, y))
    return y


@pytest.mark.parametrize("seed", range(20))
def test_a_correct_kernel_passes_in_any_order(seed):
    assert (launch("reverse", seed) == np.arange(SIZE)[::-1]).all()


DEFECTS = {
    "missing_barrier": "race|nobody has written",
    "warp_barrier_for_block_barrier": "race|nobody has written",
    "race": "race: thread .* what thread .* touched, with no barrier",
    "missing_barrier_in_a_loop": "race: thread .* with no barrier between",
    "write_out_of_bounds": "writes 4 bytes .* out of the bounds of every buffer",
    "read_out_of_bounds": "reads 4 bytes .* out of the bounds of every buffer",
    "unwritten_shared_memory": "thread 5 reads shared memory that nobody has written",
    "divergent_barrier": "waits at the block barrier of line .*; 32 of 64 threads do, 32 have left",
    "two_barriers": "divergent barrier: thread 0 is at line",
    "inactive_lane": "names lane 7, which is not there|only .* are there",
    "lane_outside_the_mask": "reads from lane 20 outside the mask ffff",
    "divergent_warp": "divergent warp",
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kernel", DEFECTS)
def test_defects_are_seen(kernel, seed):
    with pytest.raises(simt.SimtError, match=DEFECTS[kernel]):
        launch(kernel, seed)


def test_a_race_between_blocks_is_seen():
    with pytest.raises(simt.SimtError, match="touches too"):
        launch("race_between_blocks", blocks=2)


def test_the_next_launch_is_not_affected_by_a_failed_one():
    with pytest.raises(simt.SimtError):
        launch("divergent_barrier")
    assert (launch("reverse") == np.arange(SIZE)[::-1]).all()


@pytest.mark.parametrize(
    "x, y",
    [
        (np.zeros(SIZE, np.int64), None),
        (np.zeros(SIZE, np.float32), None),
        (np.zeros(2 * SIZE, np.int32)[::2], None),
        (0, None),
        (np.int32(0), None),
    ],
)
def test_arguments_must_be_of_the_parameters_types(x, y):
    with pytest.raises(simt.SimtError):
        launch("reverse", x=x, y=y)


def test_wrong_number_of_arguments():
    with pytest.raises(simt.SimtError, match="1 arguments"):
        kernel = simt.Simulator(folder=simt.HERE).function("planted.cu", "reverse")
        kernel((1,), (SIZE,), (np.zeros(SIZE, np.int32),))


def test_atomics_on_floats_do_not_compile(tmp_path):
    """Their order is not fixed, so no kernel may use them."""
    source = tmp_path / "atomic.cu"
    source.write_text("__global__ void add(float* y) { atomicAdd(y, 1.0f); }\n")
    with pytest.raises(simt.SimtError, match="atomics on floats have no fixed order"):
        simt.Simulator(folder=tmp_path).function("atomic.cu", "add")
