"""A GPU in the simulator's place: ``DPO_TEST_GPU=1`` runs the simulator's own tests on one.

Arguments are NumPy arrays, as the simulator's are: each is copied to the device before a launch and
back after it. So every test that compares a kernel with the CPU holds, unchanged, of machine code.
What only a simulator sees (races, reads of what was never written) is compute-sanitizer's to find.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dpo.kernels.cuda import sources
from dpo.kernels.cuda.calls import Record

from . import KERNELS, Arrays, OnHost


class Hardware(OnHost):
    """CuPy's current GPU, with ``Simulator``'s arguments; the order of threads is its own."""

    def __init__(self, seed: int = 0, sanitize: bool = False, folder: Path = KERNELS):
        if sanitize:
            pytest.skip("compilers' sanitizers are for the simulator")
        from dpo.kernels.cuda.device import current

        self.xp = Arrays()
        self.folder = folder
        self.device = current()
        self.launches: list[str] = []

    def function(self, file: str, kernel: str):
        text = sources.expanded(file, self.folder)
        return self._launcher(kernel, self.device.compiled(text, kernel))

    def linked(self, kernel: str, solver: Any):
        return self._launcher(kernel, self.device.linked(kernel, solver))

    def _launcher(self, kernel: str, compiled: Any):
        def launch(grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any]) -> None:
            self.launches.append(kernel)
            copies = _Copies()
            compiled(tuple(grid), tuple(block), [copies.of(a) for a in arguments])
            copies.bring_back()

        return launch


class _Copies:
    """Of the arrays of one launch; two arguments that are one array stay one."""

    def __init__(self):
        self._found: dict[tuple[int, int], tuple[np.ndarray, Any]] = {}

    def of(self, argument: Any) -> Any:
        if isinstance(argument, Record):
            return Record(map(self.of, argument))
        if not isinstance(argument, np.ndarray):
            return argument
        import cupy

        key = argument.ctypes.data, argument.nbytes
        if key not in self._found:
            self._found[key] = argument, cupy.asarray(argument)
        return self._found[key][1]

    def bring_back(self) -> None:
        for host, device in self._found.values():
            if host.flags.writeable:
                host[...] = device.get()
