"""What is installed, which devices there are, what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata as metadata
import importlib.util
import os
import platform
import shutil

from ._version import __version__

_PACKAGES = {
    "numpy": "",
    "scipy": "",
    "numba": "",
    "torch": "pip install 'perturbed-optimizers[torch]'",
    "jax": "pip install 'perturbed-optimizers[jax]'",
    "cupy": "pip install 'perturbed-optimizers[cuda13]', for arrays on a GPU (cuda12 for CUDA 12)",
    "matplotlib": "pip install 'perturbed-optimizers[validation]', for the report's plots",
    "scikit-learn": "pip install 'perturbed-optimizers[validation]', for the digits experiment",
    "dask": "pip install 'perturbed-optimizers[dask]', for dpo validate --dask",
}
"""What each is for, and how to get it; empty where the library does not start without."""
_PROGRAMS = {
    "RNG_test": "PractRand, for the report's external test of the generator",
    "dieharder": "apt-get install dieharder, for the report's external test of the generator",
}
_MODULES = {"scikit-learn": "sklearn"}
_DISTRIBUTIONS = {"cupy": ("cupy", "cupy-cuda13x", "cupy-cuda12x")}


def describe() -> str:
    """Some lines of text."""
    from . import get_num_threads

    lines = [
        f"dpo {__version__}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}",
        f"cpu: {os.cpu_count()} cores, {get_num_threads()} threads used",
        f"cuda: {_cuda()}",
        "",
        *(_line(name, _version(name), get) for name, get in _PACKAGES.items()),
        *(_line(name, shutil.which(name) or "", get) for name, get in _PROGRAMS.items()),
    ]
    return "\n".join(lines)


def _line(name: str, found: str, get: str) -> str:
    return f"{name:<14}{found or f'missing: {get}'}"


def _version(name: str) -> str:
    """Empty if it is not installed; nothing is imported."""
    if not importlib.util.find_spec(_MODULES.get(name, name)):
        return ""
    for distribution in _DISTRIBUTIONS.get(name, (name,)):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "installed"


def _cuda() -> str:
    if not importlib.util.find_spec("cupy"):
        return "no CuPy, so arrays on a GPU cannot be used"
    import cupy

    try:
        runtime = cupy.cuda.runtime
        names = [
            runtime.getDeviceProperties(device)["name"].decode()
            for device in range(runtime.getDeviceCount())
        ]
    except Exception as error:  # whatever a broken driver raises is the answer
        return f"does not start: {error}"
    return ", ".join(names) or "no device"
