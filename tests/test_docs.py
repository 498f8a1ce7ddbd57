"""What the documentation shows is what happens: README and docstring examples run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import runpy
from pathlib import Path

import pytest

import dpo

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def python_blocks():
    for page in PAGES:
        for i, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.S)):
            yield pytest.param(block, id=f"{page.name}-{i}")


@pytest.mark.parametrize("block", list(python_blocks()))
def test_examples_run(block):
    if "import torch" in block:
        pytest.importorskip("torch")
    if "import jax" in block:
        pytest.importorskip("jax")
    exec(compile(block, "example", "exec"), {"__name__": "example"})


@pytest.mark.parametrize("name", [m.name for m in pkgutil.iter_modules(dpo.__path__, "dpo.")])
def test_docstring_examples(name):
    for framework in ("torch", "jax"):
        if name.endswith(f"_{framework}"):
            pytest.importorskip(framework)
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.failed == 0


def test_public_names_are_documented():
    public = [name for name in vars(dpo) if not name.startswith("_") and name != "kernels"]
    objects = [getattr(dpo, name) for name in public if callable(getattr(dpo, name))]
    assert len(objects) >= 12
    assert all(o.__doc__ for o in objects)


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_example_scripts_run(script, tmp_path, monkeypatch):
    needed = [name for name in ("torch", "jax") if name in script.name] or ["matplotlib"]
    pytest.importorskip(needed[0])
    monkeypatch.setattr("sys.argv", [str(script), str(tmp_path / "output.svg")])
    runpy.run_path(str(script), run_name="__main__")
    if "picture" in script.name:
        assert (tmp_path / "output.svg").stat().st_size > 10_000
