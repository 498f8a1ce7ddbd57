"""Fixtures shared by the suite."""

from __future__ import annotations

import numpy as np
import pytest
import simt
from helpers import ON_GPU

import dpo

if ON_GPU:
    from simt.hardware import Hardware

    simt.Simulator = Hardware


@pytest.fixture(params=["normal", "gumbel", "logistic"])
def family(request):
    return request.param


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture
def threads():
    """``dpo.set_num_threads``, undone afterwards."""
    before = dpo.get_num_threads()
    yield dpo.set_num_threads
    dpo.set_num_threads(before)


SLOWEST = (
    "test_reference", "test_compilation", "test_oracles", "test_exact", "test_jax_compiled",
    "test_cuda_compilation", "test_shard_kernels", "test_cuda_paths", "test_cuda_barriers",
    "test_cuda_exact", "test_cuda_rejection", "test_coordinates_sharded", "test_jax",
    "test_cuda_argmax", "test_torch_programs", "test_validate_command", "test_temperature",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """The slowest files first, lest one process waits for the other in the end.

    On a GPU, all but what is about the simulator itself, or makes arrays in an oracle.
    """
    places = {name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
    if ON_GPU:
        for item in items:
            if item.get_closest_marker("simulator") or "user-ranks" in item.name:
                item.add_marker(pytest.mark.skip(reason="not for a GPU"))
