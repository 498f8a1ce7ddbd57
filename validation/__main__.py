"""``python -m dpo.validation [--out report] [--full] [--seed 0]``

Writes ``index.html`` and ``results.json`` into the folder ``--out``. Exit status: 0 if every
property holds, 1 if one fails, 2 if a package is missing or the options make no sense.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib
import importlib.util
import json
import os
import platform
import sys
import time
from pathlib import Path

import dpo

from ._compilation import compile_kernels
from ._results import Check, Section, as_json
from ._settings import Settings
from ._statistics import MOST_SCORES

_SECTIONS = (
    "quadrature",
    "exact",
    "generator",
    "unbiasedness",
    "oracles",
    "temperatures",
    "loss",
    "convergence",
    "variance",
    "reductions",
    "adaptive",
    "negative_control",
    "negative_oracles",
    "negative_exact",
    "digits",
)
_NEEDED = {"matplotlib": "matplotlib", "sklearn": "scikit-learn"}


class _Progress:
    """One line a section: its words are rewritten on a terminal, a dot each elsewhere."""

    def __init__(self, title: str):
        self._terminal = sys.stdout.isatty()
        self._title = f"{title:<18}"
        self._start = time.perf_counter()
        print(self._title, end="", flush=True)

    @property
    def seconds(self) -> float:
        """Since this line began."""
        return time.perf_counter() - self._start

    def tick(self, words: str) -> None:
        """A piece of work begins."""
        if self._terminal:
            print(f"\r\x1b[K{self._title} {self.seconds:5.1f} s  {words}", end="", flush=True)
        else:
            print(".", end="", flush=True)

    def done(self, words: str) -> None:
        """The section is finished; the next line is another's."""
        start = f"\r\x1b[K{self._title}" if self._terminal else ""
        print(f"{start} {self.seconds:5.1f} s  {words}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run every section, write the report, return the exit status."""
    options = _options(arguments)
    missing = [pip for name, pip in _NEEDED.items() if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"dpo.validation needs {' and '.join(missing)}: "
            "pip install 'perturbed-optimizers[validation]'",
            file=sys.stderr,
        )
        return 2
    from . import report

    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)  # before the work: a bad folder is known at once
    start = time.perf_counter()
    _compile(options)
    sections = [_run(name, options) for name in _SECTIONS]
    sections.append(_accounting(sections))
    environment = _environment(options, time.perf_counter() - start)
    results = json.dumps(as_json(sections, environment), indent=1, ensure_ascii=False)
    (out / "results.json").write_text(results + "\n", encoding="utf-8")
    (out / "index.html").write_text(report.render(sections, environment), encoding="utf-8")
    good, line = report.verdict(sections)
    print(f"{line}\n{out / 'index.html'}, {environment['duration']}")
    return 0 if good else 1


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m dpo.validation", description=__doc__.split("\n\n")[1]
    )
    parser.add_argument("--out", default="report", help="folder of the report (default: report)")
    parser.add_argument("--full", action="store_true", help="more samples, seeds and sizes")
    parser.add_argument("--seed", type=int, default=0, help="fixes every draw (default: 0)")
    options = parser.parse_args(arguments)
    if options.seed < 0:
        parser.error(f"--seed must not be negative, got {options.seed}")
    return options


def _compile(options: argparse.Namespace) -> None:
    """Compile what the sections use, so that their times are their own; cached on disk."""
    progress = _Progress("compile kernels")
    progress.tick("about a minute once, then cached")
    compile_kernels(options.full, progress.tick)
    progress.done("ready")


def _run(name: str, options: argparse.Namespace) -> Section:
    module = importlib.import_module(f".{name}", __package__)
    progress = _Progress(name.replace("_", " "))
    section = module.run(Settings(options.seed, options.full, progress.tick))
    failed = [check.name for check in section.checks if not check.passed]
    outcome = f"FAILS: {'; '.join(failed)}" if failed else "all hold"
    progress.done(f"{len(section.checks)} properties, {outcome}")
    return dataclasses.replace(section, seconds=progress.seconds)


def _accounting(sections: list[Section]) -> Section:
    """The one threshold is only right if no more z-scores were looked at than it allows for."""
    count = sum(check.scores for section in sections for check in section.checks)
    check = Check(
        "Number of z-scores",
        "no more z-scores were looked at than the family-wise threshold allows for",
        count,
        MOST_SCORES,
    )
    intro = f"{count:,} z-scores in all; the threshold is Bonferroni's for {MOST_SCORES:,}."
    return Section("Accounting", intro, (check,))


def _environment(options: argparse.Namespace, seconds: float) -> dict[str, str]:
    packages = ("numpy", "scipy", "numba", "matplotlib", "sklearn")
    versions = {name: importlib.import_module(name).__version__ for name in packages}
    return {
        "dpo": dpo.__version__,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "duration": f"{seconds:.0f} s",
        "seed": str(options.seed),
        "mode": "full" if options.full else "default",
        "processor": _processor(),
        "threads": f"{dpo.get_num_threads()} of {os.cpu_count()}",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


if __name__ == "__main__":
    sys.exit(main())
