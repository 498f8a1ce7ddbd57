"""The CUDA sources as one text each: what NVRTC compiles, and what its cubins are cached by.

CuPy's disk cache does not see what a source includes, so an edited header would find stale machine
code. Here every ``#include "..."`` is replaced by the file itself, once.
"""

from __future__ import annotations

import functools as ft
import re
from pathlib import Path

FOLDER = Path(__file__).parent
OPTIONS = ("-std=c++17", "--fmad=false")
"""What the sources rely on: contracting ``a * b + c`` would change the bits of portable noise."""

_INCLUDE = re.compile(r'^#include "(\w+\.cuh)"$', re.MULTILINE)
_ONCE = re.compile(r"^#pragma once\n", re.MULTILINE)


@ft.cache
def expanded(file: str, folder: Path = FOLDER) -> str:
    """The text of ``file`` with all that it includes, directly or not, from ``folder`` or ours."""
    seen: set[str] = set()

    def text(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        path = folder / name if (folder / name).exists() else FOLDER / name
        source = _ONCE.sub("", path.read_text(encoding="utf-8"))
        return _INCLUDE.sub(lambda include: text(include[1]), source)

    return text(file)
