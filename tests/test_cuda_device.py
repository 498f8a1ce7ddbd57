"""How kernels are handed to CuPy, seen by a stand-in for it: no GPU is needed to get this wrong."""

from __future__ import annotations

import importlib
import sys
import types
from contextlib import nullcontext

import numpy as np
import pytest
from dpo.kernels.cuda import sources


class Stream:
    """Both ways to adopt a stream."""

    @staticmethod
    def from_external(stream):
        return nullcontext(stream.__cuda_stream__())


@pytest.fixture
def cupy(monkeypatch):
    """A module that records what it is asked to compile and launch."""
    fake = types.ModuleType("cupy")
    fake.modules, fake.launches = [], []

    class RawModule:
        def __init__(self, **parameters):
            fake.modules.append(parameters)

        def get_function(self, name):
            return lambda *launch: fake.launches.append((name, *launch))

    fake.RawModule = RawModule
    fake.cuda = types.SimpleNamespace(
        Device=nullcontext, Stream=Stream, runtime=types.SimpleNamespace(getDevice=lambda: 1)
    )
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.delitem(sys.modules, "dpo.kernels.cuda.device", raising=False)
    fake.device = importlib.import_module("dpo.kernels.cuda.device")
    yield fake
    monkeypatch.delitem(sys.modules, "dpo.kernels.cuda.device", raising=False)


def test_a_kernel_is_compiled_once_from_its_whole_text(cupy):
    for _ in range(2):
        cupy.device.current().function("argmax.cu", "one_hot")
    (module,) = cupy.modules
    assert module["code"] == sources.expanded("argmax.cu") and "#include" not in module["code"]
    assert module["name_expressions"] == ("one_hot",) and "--fmad=false" in module["options"]


def test_every_device_has_its_own_module(cupy):
    for index in (0, 1):
        cupy.device.CupyDevice(index).function("argmax.cu", "one_hot")
    assert len(cupy.modules) == 2


def test_none_is_a_null_pointer(cupy):
    cupy.device.current().function("argmax.cu", "one_hot")((2,), (64,), (None, np.int32(3)))
    ((_, grid, block, arguments),) = cupy.launches
    assert (grid, block) == ((2,), (64,))
    assert arguments == (0, 3) and arguments[0].dtype == np.uintp


def test_launches_go_to_the_callers_stream(cupy):
    with cupy.device.launching(1, stream=0xABC) as device:
        assert device.index == 1
