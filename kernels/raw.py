"""The low-level interface: one launch on raw arrays of any framework, and what it accumulated.

    from dpo import kernels

    sums = kernels.argmax(theta, epsilon=0.5, seed=(0, 0), num_samples=1000)
    sums.counts[:, 0] / 1000        # the perturbed argmax, (rows, d)

``theta`` is (rows, d), float32 or float64: NumPy's, CuPy's, or anything's with ``__dlpack__``, on
the CPU or a GPU, whose memory is read in place. Results are NumPy's or CuPy's, by where it lies.
Nothing is checked beyond what memory safety asks for, nothing is divided by the number of samples,
and there are no gradients: that is what ``dpo.Perturbed`` adds.

Operations, with ``s`` the noise's score, ``M`` samples and ``y_m`` the solutions (sums over ``m``):

    "value"     counts[:, 0] = sum y                 "jvp"       totals[:, 0, :d] = sum y <s, t>
    "max"       totals[:, 0, 0] = sum <y, p>         "jacobian"  totals[:, 0] = sum y s^T, (d + 1) d
    "vjp"       totals[:, 0] = sum <v, y - mean> s   "moments"   totals = sum y, sum y z

``p`` is what a sample sees, ``theta + eps z``. ``squares=True`` adds the sums of squares that
standard errors are made of; the docstring of ``cpu/fused.py`` defines every slot.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from .codes import INDEPENDENT, JACOBIAN, JVP, MAXIMUM, MOMENTS, VALUE, VJP, Draws, Problem

_OPERATIONS = {
    "value": VALUE,
    "max": MAXIMUM,
    "vjp": VJP,
    "jvp": JVP,
    "jacobian": JACOBIAN,
    "moments": MOMENTS,
}
_FAMILIES = ("normal", "gumbel", "logistic")  # in the order of their codes
_DL_CPU = 1


def argmax(theta, **parameters):
    """One-hot argmaxima of ``num_samples`` perturbed copies of every row; see ``launch``."""
    return launch(Problem("argmax", total=1.0), theta, **parameters)


def topk(theta, k: int, **parameters):
    """Ones at the ``k`` largest of every perturbed row; see ``launch``."""
    d = theta.shape[1]
    if not 1 <= k <= d:
        raise ValueError(f"k must be in 1..{d}, got {k}")
    return launch(Problem("topk", (k,), total=float(k)), theta, **parameters)


def ranks(theta, **parameters):
    """Ranks, ascending, 1 .. d, of every perturbed row; see ``launch``."""
    d = theta.shape[1]
    return launch(Problem("ranks", total=d * (d + 1) / 2), theta, **parameters)


def grid_path(
    costs,
    shape: tuple[int, int],
    *,
    neighbors: int = 8,
    source: int = 0,
    target: int = -1,
    min_cost: float = 0.0,
    **parameters,
):
    """Cheapest paths through perturbed grids of ``shape``, given as rows; see ``launch``.

    ``source`` and ``target`` are cells of the flattened grid. Perturbed costs are clipped from
    below at ``min_cost``.
    """
    rows, d = costs.shape
    if shape[0] * shape[1] != d or neighbors not in (4, 8) or not min_cost >= 0:
        raise ValueError(
            f"shape must be that of {d} cells, neighbors 4 or 8 and min_cost at least 0, got "
            f"{shape}, {neighbors} and {min_cost}"
        )
    cells = [range(d)[cell] for cell in (source, target)]
    options = (*shape, neighbors, int(np.float64(min_cost + 0.0).view(np.int64)))
    places = np.tile(np.array(cells, np.int64), (rows, 1))
    problem = Problem("grid_path", options, places, minimises=True)
    return launch(problem, costs, **parameters)


def launch(
    problem: Problem,
    theta,
    *,
    epsilon: Any = 1.0,
    seed: Sequence[int],
    num_samples: int,
    operation: str = "value",
    noise: str = "normal",
    direction: Any = None,
    mean: Any = None,
    squares: bool = False,
    row_ids: Any = None,
    sample_offset: int = 0,
    coordinate_offset: int = 0,
    design: int = INDEPENDENT,
):
    """One launch of the kernels of ``problem`` on the device of ``theta``; returns its ``Sums``.

    Parameters
    ----------
    epsilon
        A number, or (rows, 1) or (rows, d).
    seed
        The two words of the key, each below 2^32.
    operation
        What is accumulated, see the module.
    noise
        "normal", "gumbel" or "logistic".
    direction
        (rows, d): the ``v`` of a VJP, the ``t`` of a JVP.
    mean
        (rows, d): what solutions are centred by in a VJP; zero by default.
    row_ids, sample_offset
        What rows and the first sample are called in the noise; 0, 1, ... and 0 by default.
    coordinate_offset
        What the first coordinate is called: a multiple of four.
    design
        ``codes.INDEPENDENT`` or ``codes.ANTITHETIC``.
    """
    rows = _view(theta)
    on_host = type(rows) is np.ndarray
    if rows.ndim != 2 or rows.dtype not in (np.float32, np.float64) or rows.shape[1] == 0:
        raise ValueError(
            f"theta must be (rows, d), float32 or float64, got {rows.dtype}{list(rows.shape)}"
        )
    if operation not in _OPERATIONS or noise not in _FAMILIES:
        raise ValueError(
            f"operation must be one of {list(_OPERATIONS)} and noise of {_FAMILIES}, got "
            f"{operation!r} and {noise!r}"
        )
    if (direction is not None) != (operation in ("vjp", "jvp")):
        raise ValueError(f"direction is for 'vjp' and 'jvp', which need it; got {operation!r}")
    module: Any = np if on_host else sys.modules["cupy"]

    def beside(array, shape=rows.shape):
        given = array if isinstance(array, (int, float)) else _view(array)
        return module.ascontiguousarray(
            module.broadcast_to(module.asarray(given, rows.dtype), shape)
        )

    is_whole = getattr(epsilon, "ndim", 0) == 2 and epsilon.shape[1] > 1
    draws = Draws(
        _FAMILIES.index(noise),
        (int(seed[0]), int(seed[1])),
        num_samples,
        design,
        row_ids=row_ids,
        sample_offset=sample_offset,
        coordinate_offset=coordinate_offset,
    )
    vectors = {} if direction is None else {"direction": beside(direction)}
    if operation == "vjp":
        vectors["mean"] = beside(0.0 if mean is None else mean)
    kernels = _host() if on_host else _device()
    return kernels.launch(
        problem,
        rows,
        beside(epsilon, rows.shape if is_whole else (len(rows), 1)),
        draws,
        _OPERATIONS[operation],
        squares=squares,
        **vectors,
    )


def _view(array: Any) -> Any:
    """An array as NumPy's or CuPy's, in place."""
    cupy = sys.modules.get("cupy")
    if isinstance(array, np.ndarray) or (cupy is not None and isinstance(array, cupy.ndarray)):
        return array
    if not hasattr(array, "__dlpack__"):
        return np.asarray(array)
    if int(array.__dlpack_device__()[0]) == _DL_CPU:
        return np.from_dlpack(array)
    import cupy

    return cupy.from_dlpack(array)


def _host():
    """Importing the CPU kernels imports Numba, so not before the first call."""
    from .cpu import launch

    return launch


def _device():
    from .cuda import launch

    return launch
