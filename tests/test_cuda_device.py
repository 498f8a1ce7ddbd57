"""How kernels are handed to CuPy, seen by a stand-in for it: no GPU is needed to get this wrong."""

from __future__ import annotations

import ctypes
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
            return types.SimpleNamespace(kernel=types.SimpleNamespace(ptr=name))

    def launch(handle, *given):
        """``cuLaunchKernel``: the sizes, no shared memory, the stream, and where parameters are."""
        if fake.failures:
            raise fake.failures.pop()
        *sizes, shared, stream, separate, address = given
        assert shared == separate == 0
        at, content, of_size, size, end = (ctypes.c_void_p * 5).from_address(address)
        assert (at, of_size, end) == (1, 2, None)
        parameters = ctypes.string_at(content, ctypes.c_size_t.from_address(size).value)
        fake.launches.append((handle, tuple(sizes), stream, parameters))

    @contextmanager
    def on_device(index):
        fake.entered.append(index)
        yield
        fake.entered.append("left")

    fake.RawModule = RawModule
    fake.ndarray, fake.asarray = Array, np.array
    fake.cuda = types.SimpleNamespace(
        Device=on_device,
        Stream=Stream,
        driver=types.SimpleNamespace(launchKernel=launch),
        get_current_stream=lambda: types.SimpleNamespace(ptr=0x57),
        runtime=types.SimpleNamespace(getDevice=lambda: 1),
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


def test_a_launch_has_its_sizes_stream_and_parameters(cupy):
    function = cupy.device.current().function("argmax.cu", "one_hot")
    function((2,), (64,), (None, np.int32(3)))
    function((4,), (32,), (Array(), np.int32(5)))
    first, second = cupy.launches
    null, of_array = bytes(8), (0xABC).to_bytes(8, "little")
    assert first == ("one_hot", (2, 1, 1, 64, 1, 1), 0x57, null + b"\x03\0\0\0")
    assert second == ("one_hot", (4, 1, 1, 32, 1, 1), 0x57, of_array + b"\x05\0\0\0")


def test_threads_have_parameters_of_their_own(cupy):
    """A launch lets other threads run while the driver reads them."""
    function = cupy.device.current().function("argmax.cu", "one_hot")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda k: function((k,), (32,), (None, np.int32(k))), range(1, 101)))
    assert {sizes[0] for _, sizes, *_ in cupy.launches} == set(range(1, 101))
    assert all(x[3][8:] == x[1][0].to_bytes(4, "little") for x in cupy.launches)


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


def test_parameters_are_laid_out_as_in_c(cupy):
    """A struct is aligned, and is as long as if another one followed."""
    record = Record((Array(), None, np.int32(7)))
    given = np.int32(1), record, np.int32(2), np.float64(0.5)
    cupy.device.current().function("argmax.cu", "one_hot")((2,), (64,), given)
    ((*_, parameters),) = cupy.launches
    struct = np.dtype([("a", "u8"), ("b", "u8"), ("c", "i4")], align=True)
    layout = np.dtype([("x", "i4"), ("record", struct), ("y", "i4"), ("z", "f8")], align=True)
    assert layout.itemsize == len(parameters) == 48
    x, of_record, y, z = np.frombuffer(parameters, layout)[0].tolist()
    assert (x, of_record, y, z) == (1, (0xABC, 0, 7), 2, 0.5)


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


@pytest.fixture
def pinned(cupy):
    """Memory of the host as CuPy hands it out, not cleared; what arrays were made of it."""

    class Memory(bytearray):
        ptr = 0x1234

    made = []
    cupy.cuda.alloc_pinned_memory = lambda size: Memory(b"\xff" * size)
    cupy.cuda.UnownedMemory = lambda pointer, size, owner, device: made.append(owner) or owner
    cupy.cuda.MemoryPointer = lambda memory, offset: memory
    cupy.ndarray = lambda shape, dtype, memory: np.frombuffer(memory, dtype)
    cupy.cuda.get_current_stream = lambda: types.SimpleNamespace(synchronize=lambda: None)
    return made


def test_every_thread_has_a_flag_of_its_own(cupy, pinned):
    ours = cupy.device.CupyDevice(0).flag()
    assert ours is cupy.device.CupyDevice(0).flag()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(cupy.device.CupyDevice(0).flag).result() is not ours


def test_a_flag_is_lowered_when_it_has_been_seen(cupy, pinned):
    flag = cupy.device.CupyDevice(0).flag()
    assert not flag.raised()
    flag.array[0] = 1
    assert flag.raised() and not flag.raised()
