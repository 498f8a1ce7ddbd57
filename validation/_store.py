"""Finished sections on disk, so that a run that was killed goes on where it stopped.

They belong to one run: the same code, versions, seed, size and oracle. Another run's are ignored,
and a run that ends removes its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from ._results import Section, as_plain, from_plain

_FOLDER = "unfinished"


class Store:
    """Sections of the run that ``identity`` names, under the report's folder."""

    def __init__(self, out: Path, identity: dict[str, str]):
        text = json.dumps(identity, sort_keys=True) + _sources()
        self._folder = out / _FOLDER / hashlib.sha256(text.encode()).hexdigest()[:16]

    def load(self, name: str, backend: str) -> Section | None:
        """The finished section, if there is one."""
        try:
            return from_plain(json.loads(self._path(name, backend).read_text(encoding="utf-8")))
        except (OSError, ValueError):  # absent, or cut off
            return None

    def save(self, section: Section) -> None:
        """Appears whole or not at all."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(section.name, section.backend)
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(as_plain(section), ensure_ascii=False), encoding="utf-8")
        os.replace(unfinished, path)

    def clear(self) -> None:
        """The run has ended: what it stored is in its report, what others did is out of date."""
        shutil.rmtree(self._folder.parent, ignore_errors=True)

    def _path(self, name: str, backend: str) -> Path:
        return self._folder / f"{name}.{backend}.json"


def _sources() -> str:
    """What the library and the suite consist of: a change of either starts anew."""
    import dpo.kernels

    import dpo

    digest = hashlib.sha256()
    for folder in (dpo.__file__, dpo.kernels.__file__, __file__):
        for path in sorted(Path(str(folder)).parent.rglob("*")):
            if path.suffix in (".py", ".cu", ".cuh"):
                digest.update(path.read_bytes())
    return digest.hexdigest()
