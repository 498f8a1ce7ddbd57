"""How kernels are handed to CuPy, seen by a stand-in for it: no GPU is needed to get this wrong."""

from __future__ import annotations

import functools as ft
import importlib
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
from dpo.kernels.cuda import sources
from dpo.kernels.cuda.calls import Record

from dpo import _device


class Array:
    """On the device."""

    data = types.SimpleNamespace(ptr=0xABC)


class Stream:
    """Both ways to adopt a stream."""

    @staticmethod
    def from_external(stream):
        return nullcontext(stream.__cuda_stream__())


@pytest.fixture
def cupy(monkeypatch):
    """A module that records what it is asked to compile and launch."""
    fake = types.ModuleType("cupy")
    fake.modules, fake.launches, fake.failures, fake.entered = [], [], [], []

    class RawModule:
        def __init__(self, **parameters):
            fake.modules.append(parameters)

        def get_function(self, name):
            return ft.partial(launch, name)

    def launch(name, grid, block, arguments):
        if fake.failures:
            raise fake.failures.pop()
        arrays = (x for x in arguments if isinstance(x, np.ndarray))
        assert all(x.size == 1 for x in arrays), "CuPy passes single items by value, no arrays"
        fake.launches.append((name, grid, block, arguments))

    @contextmanager
    def on_device(index):
        fake.entered.append(index)
        yield
        fake.entered.append("left")

    fake.RawModule = RawModule
    fake.ndarray, fake.asarray = Array, np.array
    fake.cuda = types.SimpleNamespace(
        Device=on_device, Stream=Stream, runtime=types.SimpleNamespace(getDevice=lambda: 1)
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
        assert device.index == 1 and cupy.entered == [1]
    assert cupy.entered == [1, "left"]


@pytest.mark.parametrize("capturing", [True, False])
def test_a_capture_is_of_the_current_stream(cupy, capturing):
    stream = types.SimpleNamespace(is_capturing=lambda: capturing)
    cupy.cuda.get_current_stream = lambda: stream
    assert cupy.device.current().capturing is capturing


@pytest.mark.parametrize("kind", ["jax", "dlpack"])
def test_launches_go_to_the_gpu_of_the_scores(cupy, kind):
    """Whichever GPU is current."""

    class OnSecondGpu:
        def __dlpack_device__(self):
            return 2, 1

    with _device.launching_on(OnSecondGpu(), kind):
        assert cupy.entered == [1]


def test_a_struct_is_bytes_laid_out_as_in_c(cupy):
    record = Record((Array(), None, np.int32(7), np.float64(0.5)))
    cupy.device.current().function("argmax.cu", "one_hot")((2,), (64,), (record,))
    ((*_, (struct,)),) = cupy.launches
    assert type(struct) is np.ndarray and struct.shape == () and struct.nbytes == 32
    layout = np.dtype([("a", "u8"), ("b", "u8"), ("c", "i4"), ("d", "f8")], align=True)
    assert np.frombuffer(struct.tobytes(), layout)[0].tolist() == (0xABC, 0, 7, 0.5)


def test_constants_are_copied_once_a_device(cupy):
    rules = np.arange(6.0).reshape(2, 3)
    first, again = (cupy.device.CupyDevice(0).constant(rules) for _ in range(2))
    other = cupy.device.CupyDevice(1).constant(rules)
    np.testing.assert_array_equal(first, rules)
    assert first is again and other is not first


def test_a_launch_that_fails_does_not_fail_the_next(cupy):
    """Nothing is kept of it."""
    function = cupy.device.current().function("argmax.cu", "one_hot")
    cupy.failures.append(RuntimeError("CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"))
    with pytest.raises(RuntimeError, match="OUT_OF_RESOURCES"):
        function((1,), (64,), ())
    function((1,), (64,), ())
    assert len(cupy.launches) == 1


def test_an_array_of_one_number_is_complete_before_it_is_shared(cupy):
    """Whichever stream reads it next."""
    waited = []
    cupy.full = np.full
    stream = types.SimpleNamespace(synchronize=lambda: waited.append(True))
    cupy.cuda.get_current_stream = lambda: stream
    first, again = (cupy.device.CupyDevice(0).filled((3, 1), 0.5, np.float32) for _ in range(2))
    assert first is again and waited == [True]
    np.testing.assert_array_equal(first, np.full((3, 1), 0.5, np.float32))


def test_every_thread_has_a_flag_of_its_own(cupy):
    cupy.zeros = np.zeros
    ours = cupy.device.CupyDevice(0).flag()
    assert ours is cupy.device.CupyDevice(0).flag()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(cupy.device.CupyDevice(0).flag).result() is not ours
