"""A few minutes on a GPU: equality with the CPU, times beside peers, compute-sanitizer, the tests,
the validation.

    python -m benchmarks.gpu.equality --write expected.npz        # beforehand, on any machine
    python -m benchmarks.gpu --out FOLDER --expected expected.npz --minutes 9

Every part is a process with a time limit of its own, and each result is on disk as soon as there
is one: ``results.jsonl``, and, made again after every part, ``gpu.json``, ``gpu.md`` and
``gpu.png``. A part that fails, hangs or runs out of memory costs only itself. What is timed has the
GPU to itself, one part after the other; what is checked shares it, all at once. ``--dry-run`` goes
through all of it on the tests' simulator, at tiny sizes.
"""

from __future__ import annotations

import argparse
import itertools as it
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from . import compilation, counters, devices, equality, report, timing

Result = dict[str, Any]


class Setting(NamedTuple):
    """What the command line says to a part."""

    out: Path
    expected: Path | None
    dry_run: bool

    @property
    def machine(self) -> devices.Machine:
        return devices.Simulated() if self.dry_run else devices.Gpu()

    def command(self, part: str) -> list[str]:
        """That runs one part alone."""
        command = [sys.executable, "-m", "benchmarks.gpu", "--part", part, "--out", str(self.out)]
        command += ["--expected", str(self.expected)] if self.expected else []
        return command + (["--dry-run"] if self.dry_run else [])


# ---------------------------------------------------------------------------------------- the parts


def machine(setting: Setting) -> Iterator[Result]:
    yield setting.machine.describe()


def code(setting: Setting) -> Iterator[Result]:
    """Instructions a coordinate of rows of 1000, where there is a disassembler."""
    from ..asv.cuda_code import KINDS, argmax_code, offline, rejecting_code

    if offline is None or offline.nvdisasm() is None:
        return
    for noise in KINDS:
        for precision in ("fast", "portable"):
            box_muller = (noise, precision) == ("normal", "fast")  # is not rejected early
            found = (
                argmax_code(noise, precision)
                if box_muller
                else rejecting_code(noise, precision, 1000)
            )
            yield {"noise": noise, "precision": precision, **found._asdict()}


def compared(setting: Setting) -> Iterator[Result]:
    size = "tiny" if setting.dry_run else "full"
    yield from equality.compare(setting.machine, size, setting.expected)


def small(setting: Setting) -> None:
    """One launch of every kernel, for compute-sanitizer to watch."""
    place = setting.machine
    for case in equality.cases("tiny" if setting.dry_run else "small"):
        case.run(equality.cuda.launch, place.xp, device=place.kernels)


def counted(setting: Setting) -> Iterator[Result]:
    """Every kernel of the launches that are timed, by Nsight Compute."""
    if shutil.which("ncu") is None:
        yield {"said": "ncu is not installed"}
        return
    out = run([*counters.COMMAND, *setting.command("launches")])
    yield from counters.read(out.stdout)
    if out.returncode:
        yield {"said": tail(out)}


def sanitized(tool: str) -> Callable[[Setting], Iterator[Result]]:
    def part(setting: Setting) -> Iterator[Result]:
        if shutil.which("compute-sanitizer") is None:
            yield {"said": "compute-sanitizer is not installed"}
            return
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
        out = run([*command, *setting.command("small")])
        yield {"said": "silent" if out.returncode == 0 else tail(out)}

    return part


TESTS = [
    "tests/test_gpu.py",
    "tests/test_cuda_api.py",
    # Written for the simulator; the GPU takes its place (tests/simt/hardware.py).
    *(f"tests/test_cuda_{name}.py" for name in ("arrays", "noise", "laws", "argmax", "rejection")),
    *(f"tests/test_cuda_{name}.py" for name in ("oracles", "paths", "exact", "user")),
]


def tested(setting: Setting) -> Iterator[Result]:
    """The last line of what pytest says, which is all in ``tests.log``."""
    if setting.dry_run:
        given, environment = ["tests/test_cuda_noise.py", "-k", "scores"], {}
    else:
        given = ["-n", str(os.cpu_count()), "--dist", "worksteal", *TESTS]
        environment = {"DPO_TEST_GPU": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *given]
    log = setting.out / "tests.log"
    with log.open("w", encoding="utf-8") as file:
        subprocess.run(command, stdout=file, stderr=file, env={**os.environ, **environment})
    yield {"said": log.read_text(encoding="utf-8").strip().rpartition("\n")[2]}


def validated(setting: Setting) -> Iterator[Result]:
    """Every section of the report that draws from the kernels under test, a process each."""
    from dpo.validation._parts import chosen

    size = "quick" if setting.dry_run else "default"
    sections = [part.name for part in chosen([], size) if part.everywhere]
    backend = "cpu" if setting.dry_run else "cuda"
    options = ["--quick", "--plan"] if setting.dry_run else []

    def one(section: str) -> Result:
        out = setting.out / "validation" / section
        command = [sys.executable, "-m", "dpo.validation", "--backend", backend, *options]
        process = run([*command, "--only", section, "--out", str(out)])
        said = tail(process) if process.returncode else process.stdout.strip().split("\n")[-2]
        return {"said": f"{section}: {said}"}

    with ThreadPoolExecutor(len(sections)) as pool:
        yield from pool.map(one, sections)


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def tail(out: subprocess.CompletedProcess[str], characters: int = 1500) -> str:
    return (out.stdout + out.stderr).strip()[-characters:].replace("\n", " | ")


class Part(NamedTuple):
    """Something to run."""

    seconds: int
    """At most."""
    function: Callable[[Setting], Iterator[Result]]
    alone: bool = True
    """Whether it has the GPU to itself."""


PARTS = {
    "machine": Part(40, machine),
    "compilation": Part(100, lambda setting: compilation.compiled(setting.dry_run)),
    "dpo": Part(100, lambda setting: timing.ours(setting.machine, setting.dry_run)),
    "torch": Part(50, lambda setting: timing.torch_rows(setting.machine, setting.dry_run)),
    "jax": Part(80, lambda setting: timing.jax_rows(setting.machine, setting.dry_run)),
    "torch.compile": Part(
        100, lambda setting: timing.torch_rows(setting.machine, setting.dry_run, compiled=True)
    ),
    "kernels": Part(60, counted),
    "code": Part(60, code, alone=False),
    "equality": Part(200, compared, alone=False),
    "memcheck": Part(200, sanitized("memcheck"), alone=False),
    "racecheck": Part(200, sanitized("racecheck"), alone=False),
    "initcheck": Part(200, sanitized("initcheck"), alone=False),
    "synccheck": Part(200, sanitized("synccheck"), alone=False),
    "tests": Part(240, tested, alone=False),
    "validation": Part(240, validated, alone=False),
}
"""In order of what should be known if time is short."""
WATCHED = {
    "small": small,
    "launches": lambda setting: counters.run(setting.machine, setting.dry_run),
}
"""What other programs watch; nothing is noted of it."""


# ---------------------------------------------------------------------------------------- one part


def results_of(out: Path) -> Path:
    return out / "results.jsonl"


def note(out: Path, part: str, result: Result) -> None:
    """Add a line, on disk at once."""
    with results_of(out).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"part": part, **result}) + "\n")


def run_part(part: str, setting: Setting) -> None:
    if part in WATCHED:
        WATCHED[part](setting)
        return
    for result in PARTS[part].function(setting):
        if result:
            note(setting.out, part, result)


# --------------------------------------------------------------------------------------- all parts


def supervise(part: str, limit: float, setting: Setting) -> None:
    """Run a part, and end it and all its children at the limit."""
    environment = {
        **os.environ,
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # or JAX would take three quarters of the memory
        "PYTHONUNBUFFERED": "1",
    }
    process = subprocess.Popen(
        setting.command(part), env=environment, start_new_session=True, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        errors = process.communicate(timeout=limit)[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        note(setting.out, part, {"stopped": f"after {limit:.0f} seconds"})
        return
    if process.returncode:
        note(setting.out, part, {"stopped": f"with {' | '.join(errors.split(chr(10))[-6:])}"})


def write_report(out: Path) -> list[Result]:
    """Everything that is known so far."""
    path = results_of(out)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = [json.loads(line) for line in text.splitlines()]
    (out / "gpu.json").write_text(json.dumps(lines, indent=1), encoding="utf-8")
    (out / "gpu.md").write_text(report.markdown(lines), encoding="utf-8")
    try:
        report.plot(lines, out / "gpu.png")
    except ImportError:
        print("no plot: matplotlib is not installed")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--expected", type=Path, help="what benchmarks.gpu.equality --write made")
    parser.add_argument("--minutes", type=float, default=9, help="for everything; default 9")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--dry-run", action="store_true", help="on the simulator, tiny sizes")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    setting = Setting(arguments.out, arguments.expected, arguments.dry_run)
    if arguments.part:
        run_part(arguments.part, setting)
        return 0
    setting.out.mkdir(parents=True, exist_ok=True)
    results_of(setting.out).unlink(missing_ok=True)
    deadline = time.monotonic() + 60 * arguments.minutes

    def attempt(part: str) -> None:
        start = time.monotonic()
        left = deadline - start
        if left < 5:
            note(setting.out, part, {"stopped": "before it began: no time was left"})
            return
        supervise(part, min(PARTS[part].seconds, left), setting)
        print(f"{part}: {time.monotonic() - start:.0f} s", flush=True)

    parts = arguments.parts.split(",")
    for alone, group in it.groupby(parts, lambda part: PARTS[part].alone):
        with ThreadPoolExecutor(1 if alone else len(PARTS)) as pool:
            list(pool.map(attempt, group))
        write_report(setting.out)
    lines = write_report(setting.out)
    print((setting.out / "gpu.md").read_text(encoding="utf-8"))
    return int(not all(line["counts_equal"] for line in lines if "counts_equal" in line))


if __name__ == "__main__":
    sys.exit(main())
