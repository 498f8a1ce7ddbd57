"""``dpo validate``: tests the library statistically and writes a report.

Writes ``index.html``, ``results.json`` and ``junit.xml`` into the folder ``--out``. Exit status: 0
if every property holds, 1 if one fails (or, with ``--compare``, no longer holds), 2 if the options
make no sense or need what is not here. A run that was killed goes on where it stopped.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.util
import json
import os
import platform
import secrets
import time
from pathlib import Path

import dpo

from . import _backend, _cluster, _compare, _junit, _plots, report
from ._compilation import compile_kernels
from ._holm import holm
from ._own import load_oracle, parse_shape
from ._parts import OWN_ORACLE, Part, chosen, plan
from ._results import Section, Skip, as_json
from ._run import Progress, accounting, run_parts
from ._settings import Settings, Size
from ._store import Store


def main(arguments: list[str] | None = None) -> int:
    """Run the suite, write the report, return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        if options.compare:
            return _compare.main(options.compare[0], options.compare[1], options.out)
        parts, settings, backends = _work(options)
    except (ValueError, ImportError) as error:
        parser.error(str(error))
    if options.plan:
        print(plan(parts, settings.size))
        return 0
    return _validate(options, parts, settings, backends)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "dpo validate",
        description=(__doc__ or "").split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", default="report", metavar="DIR", help="folder of the report (default: report)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="under a minute: fewer properties")
    size.add_argument("--full", action="store_true", help="more samples, seeds and sizes")
    add("--seed", default="0", metavar="S", help='fixes every draw (default: 0), or "random"')
    add("--only", action="append", default=[], metavar="PROPERTY",
        help="this property alone, a name of --plan or a pattern; may be repeated")  # fmt: skip
    add("--backend", default="cpu", choices=[*_backend.BACKENDS, "all"],
        help="where estimators run (default: cpu)")  # fmt: skip
    add("--oracle", metavar="MODULE:NAME", help="test this dpo.Oracle, e.g. mypackage:my_oracle")
    add("--shape", metavar="N[,N]", help="of one instance of its scores (default: 6, or 3,4)")
    add("--dask", metavar="ADDRESS", help='do the Monte-Carlo study on a Dask cluster, or "local"')
    add("--plan", action="store_true", help="say what it would cost and could see, and stop")
    add("--compare", nargs=2, metavar=("OLD", "NEW"), help="compare two reports instead")
    return parser


def _work(options: argparse.Namespace) -> tuple[list[Part], Settings, list[str]]:
    """What the options ask for; ``ValueError`` or ``ImportError`` if it cannot be."""
    size: Size = "quick" if options.quick else "full" if options.full else "default"
    settings = Settings(_seed(options.seed), size)
    if options.oracle:
        if options.only:
            raise ValueError("--only chooses among the library's own properties: not with --oracle")
        oracle = load_oracle(options.oracle)
        shape = parse_shape(options.shape, oracle)
        settings = Settings(settings.seed, size, oracle=oracle, shape=shape)
        parts = [OWN_ORACLE]
    elif options.shape:
        raise ValueError("--shape is that of the scores of --oracle")
    else:
        parts = chosen(options.only, size)
        if options.dask and not options.only:  # what a cluster is for
            parts = list(dict.fromkeys([*parts, *chosen(["study"], size)]))
    if options.dask and _cluster.missing():
        raise ValueError(_cluster.missing())
    backends = list(_backend.BACKENDS) if options.backend == "all" else [options.backend]
    return parts, settings, backends


def _seed(text: str) -> int:
    if text == "random":
        return secrets.randbelow(2**32)
    try:
        seed = int(text)
    except ValueError:
        raise ValueError(f'--seed must be a whole number or "random", got {text!r}') from None
    if seed < 0:
        raise ValueError(f"--seed must not be negative, got {seed}")
    return seed


def _validate(
    options: argparse.Namespace, parts: list[Part], settings: Settings, backends: list[str]
) -> int:
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)  # before the work: a bad folder is known at once
    start = time.perf_counter()
    environment = _environment(options, settings)
    cost = sum(part.cost(settings.size) for part in parts)
    print(f"sections: {len(parts)}, about {_minutes(cost)} on two cores, seed {settings.seed}")
    if not options.oracle and not options.only:
        _compile(settings)
    store = Store(out, {k: v for k, v in environment.items() if k != "date"})
    try:
        with _cluster.mapping(options.dask) as over:
            sections = run_parts(parts, backends, settings.on(over), store)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here")
        return 130
    sections.append(accounting(sections, parts, settings))
    sections = [*holm(sections), *_without_plots()]
    environment["duration"] = f"{time.perf_counter() - start:.0f} s"
    _write(out, sections, environment)
    store.clear()
    good, line = report.verdict(sections)
    print(f"{line}\n{out / 'index.html'}, {environment['duration']}")
    return 0 if good else 1


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def _compile(settings: Settings) -> None:
    """Compile what the sections use, so that their times are their own; cached on disk."""
    progress = Progress([])
    progress.begin("compile kernels")
    compile_kernels(settings.full, lambda words: progress.tick(f"{words} (once, then cached)"))
    progress.end("ready")


def _without_plots() -> list[Section]:
    reason = _plots.missing()
    skip = Skip("Plots", reason)
    return [Section("Plots", "", (), skipped=(skip,), name="plots")] if reason else []


def _write(out: Path, sections: list[Section], environment: dict[str, str]) -> None:
    results = json.dumps(as_json(sections, environment), indent=1, ensure_ascii=False)
    files = {
        "results.json": results + "\n",
        "junit.xml": _junit.render(sections, environment),
        "index.html": report.render(sections, environment),
    }
    for name, text in files.items():
        (out / name).write_text(text, encoding="utf-8")


def _environment(options: argparse.Namespace, settings: Settings) -> dict[str, str]:
    packages = ("numpy", "scipy", "numba", "matplotlib", "sklearn")
    present = [name for name in packages if importlib.util.find_spec(name)]
    own = {"oracle": f"{settings.oracle!r}, {settings.shape}"} if settings.oracle else {}
    return {
        "dpo": dpo.__version__,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "seed": str(settings.seed),
        "mode": settings.size,
        "backend": options.backend,
        **own,
        "processor": _processor(),
        "threads": f"{dpo.get_num_threads()} of {os.cpu_count()}",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: importlib.import_module(name).__version__ for name in present},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
