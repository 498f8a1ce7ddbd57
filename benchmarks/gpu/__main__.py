"""A few minutes on a GPU: the tests, equality with the CPU, compute-sanitizer, times beside peers.

    python -m benchmarks.gpu --out benchmarks/results/gpu

writes ``gpu.json`` and ``gpu.md``, and ``gpu.png`` where matplotlib is installed. Not yet run: no
GPU was at hand when this was written.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from ..cuda_bounds import UNFUSED_BOUND
from . import equality, timing

PACKAGES = ("perturbed-optimizers", "cupy-cuda13x", "cupy-cuda12x", "torch", "jax", "numpy")


def machine() -> dict[str, str]:
    """What the numbers depend on."""
    import cupy

    runtime = cupy.cuda.runtime
    properties = runtime.getDeviceProperties(cupy.cuda.Device().id)
    found = {
        "date": str(datetime.date.today()),
        "gpu": properties["name"].decode(),
        "driver": str(runtime.driverGetVersion()),
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def sanitized(tool: str) -> str:
    """What compute-sanitizer says of small launches of every kernel."""
    if shutil.which("compute-sanitizer") is None:
        return "not installed"
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
    command += [sys.executable, "-m", "benchmarks.gpu.equality", "--small"]
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    return "silent" if out.returncode == 0 else out.stdout[-2000:] + out.stderr[-2000:]


def tested() -> str:
    """The last line of what pytest says of the tests that are for a GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "tests", "-k", "GPU"]
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    return (out.stdout.strip().splitlines() or [out.stderr[-500:]])[-1]


def markdown(report: dict) -> str:
    lines = ["# On a GPU", "", *(f"* {k}: {v}" for k, v in report["machine"].items()), ""]
    results = [equality.Result(*r) for r in report["equality"]]
    differing = [r.case for r in results if not r.counts_equal]
    worst = max(r.worst for r in results)
    lines += [
        f"{len(results)} launches against the CPU: counts of {len(differing)} differ {differing};",
        f"the largest relative difference of a float sum is {worst:.1e}.",
        "",
        f"* tests: {report['tests']}",
        *(f"* compute-sanitizer {tool}: {said}" for tool, said in report["sanitizers"].items()),
        "",
        f"An unfused version cannot pass {UNFUSED_BOUND:.1e} coordinates a second on an H200.",
        "",
        "| work | contender | ms | coordinates or problems a second | MB beyond inputs |",
        "|---|---|---|---|---|",
    ]
    for row in report["times"]:
        time = timing.Time(*row)
        lines.append(
            f"| {time.work} | {time.contender} | {time.milliseconds:.3f} | {time.per_second:.2e} "
            f"| {time.peak_mb:.0f} |"
        )
    return "\n".join(lines) + "\n"


def plot(report: dict, path: Path) -> None:
    """Bars of coordinates a second, a group of them for each size of the argmax."""
    from matplotlib import pyplot as plt

    times = [timing.Time(*row) for row in report["times"] if row[0].startswith("argmax")]
    works = list(dict.fromkeys(time.work for time in times))
    figure, axes = plt.subplots(len(works), 1, figsize=(7, 1.2 * len(works) + 1), sharex=True)
    for axis, work in zip(axes, works, strict=True):
        mine = [time for time in times if time.work == work]
        axis.barh([time.contender for time in mine], [time.per_second for time in mine])
        axis.set_title(work, fontsize=8)
        axis.set_xscale("log")
    axes[-1].set_xlabel("perturbed coordinates a second")
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": machine(),
        "tests": tested(),
        "equality": list(equality.compare()),
        "sanitizers": {tool: sanitized(tool) for tool in ("memcheck", "racecheck")},
        "times": [*timing.argmax_times(), *timing.oracle_times()],
    }
    (out / "gpu.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    (out / "gpu.md").write_text(markdown(report), encoding="utf-8")
    try:
        plot(report, out / "gpu.png")
    except ImportError:
        print("no plot: matplotlib is not installed")
    print(markdown(report))
    return int(not all(result.counts_equal for result in report["equality"]))


if __name__ == "__main__":
    sys.exit(main())
