"""Fixtures shared by the suite."""

from __future__ import annotations

import numpy as np
import pytest

import dpo


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
