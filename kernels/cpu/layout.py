"""Arrays as compiled kernels take them: C-contiguous, of one Numba type."""

from __future__ import annotations

import numpy as np


class _Writable:
    """Presents a read-only array's memory as writable, without a copy.

    Numba compiles read-only arrays as another type; the kernels never write to their inputs.
    """

    def __init__(self, array: np.ndarray):
        self.array = array
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface


def compiled_layout(array: np.ndarray) -> np.ndarray:
    """The array itself where it can be used as it is."""
    array = np.ascontiguousarray(array)
    return array if array.flags.writeable else np.asarray(_Writable(array))
