"""The script for a machine that has a GPU (``benchmarks/gpu``), as far as it goes without one.

A machine is lent for minutes: what a part has found must be on disk whatever becomes of it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.gpu import __main__

    return __main__


class Part:
    """A setting whose part is some Python."""

    def __init__(self, out, code):
        self.out, self.code = out, code

    def command(self, part):
        return [sys.executable, "-c", self.code]


NOTES = """
from pathlib import Path
from benchmarks.gpu.__main__ import note
note(Path({out!r}), "dpo", {{"work": "w", "contender": "c", "error": "none"}})
"""
CHILD = """
import subprocess, sys
subprocess.run([sys.executable, "-c", "import time; time.sleep(2); open({out!r} + '/late', 'w')"])
"""


def lines(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_what_a_part_found_before_it_hung_is_kept_and_its_children_are_ended(script, tmp_path):
    code = (NOTES + CHILD).format(out=str(tmp_path))
    script.supervise("dpo", 1.5, Part(tmp_path, code))
    found, stopped = lines(tmp_path)
    assert found["contender"] == "c" and stopped["stopped"] == "after 2 seconds"
    time.sleep(2.5)
    assert not (tmp_path / "late").exists()


def test_a_part_that_fails_says_why(script, tmp_path):
    script.supervise("jax", 30, Part(tmp_path, "raise ImportError('no JAX')"))
    (line,) = lines(tmp_path)
    assert line["part"] == "jax" and "ImportError: no JAX" in line["stopped"]


def test_parts_that_no_time_is_left_for_are_named(script, tmp_path, monkeypatch):
    arguments = ["gpu", "--out", str(tmp_path), "--parts", "dpo,torch", "--minutes", "0.01"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert script.main() == 0
    assert [line["part"] for line in lines(tmp_path)] == ["dpo", "torch"]
    assert "**torch** before it began" in (tmp_path / "gpu.md").read_text()


def row(work, contender, milliseconds, coordinates=128_000_000):
    return {
        "part": "dpo", "work": work, "contender": contender, "milliseconds": milliseconds,
        "coordinates": coordinates, "problems": 128_000, "peak_bytes": 2**20,
    }  # fmt: skip


def test_the_report_compares_what_was_asked_with_what_was_found(script):
    work = "argmax value and vjp B=128 d=1000 M=1000"
    machine = {
        "part": "machine", "multiprocessors": 132, "clock_hertz": 1e9,
        "copied_bytes_a_second": 4e12,
    }  # fmt: skip
    code = {"part": "code", "noise": "normal", "precision": "fast", "instructions": 24.0}
    differing = {"part": "equality", "case": "ranks", "counts_equal": False, "worst": 0.5}
    text = script.report.markdown(
        [
            machine, code, differing,
            row("argmax value B=128 d=1000 M=1000", "dpo fast", 0.2),
            row(work, "dpo fast", 1.0),
            row(work, "torch eager", 7.0),
            {"part": "jax", "work": work, "contender": "jax jit", "error": "out of memory"},
        ]
    )  # fmt: skip
    assert "| argmax, fast, coordinates a second | 5e+11 | 6.4e+11  |" in text
    assert "| value and VJP, fast over torch eager | 8 | 7 (**less**) |" in text
    assert "24.0 instructions, at most 7.0e+11 a second" in text
    assert "cannot pass 2.0e+11 coordinates" in text
    assert "counts of 1 differ" in text and "| jax jit | out of memory |" in text


def test_equality_with_what_the_cpu_found_elsewhere(script, tmp_path, monkeypatch):
    """From a file, here with one count and one sum changed."""
    equality, place = script.equality, script.devices.Simulated()
    cases = list(equality.cases("tiny"))[:3]
    monkeypatch.setattr(equality, "cases", lambda size: cases)
    found = {}
    for case in cases:
        counts, totals = case.run(equality.cuda.launch, place.xp, device=place.kernels)
        found |= {f"{case.name} counts": counts.copy(), f"{case.name} totals": totals.copy()}
    found[f"{cases[1].name} counts"][0, 0] += 1
    found[f"{cases[2].name} totals"][0, 0, 0] *= 2
    np.savez(tmp_path / "expected.npz", **found)
    results = list(equality.compare(place, "tiny", tmp_path / "expected.npz"))
    assert [r["counts_equal"] for r in results] == [True, False, True]
    assert [r["worst"] > 0 for r in results] == [False, False, True]


def test_our_times_of_a_dry_run(script, tmp_path):
    first = next(script.timing.ours(script.devices.Simulated(), tiny=True))
    assert first["contender"] == "dpo fast" and first["milliseconds"] > 0
    script.note(tmp_path, "dpo", first)
    assert script.write_report(tmp_path)[0]["work"] == "argmax value B=2 d=10 M=32"


NCU = """==PROF== Connected to process 1
"ID","Kernel Name","Grid Size","Metric Name","Metric Unit","Metric Value"
"0","cupy_copy__float_float32","(1, 1, 1)","gpu__time_duration.sum","ns","1,632"
"1","void prepare<Draw<float, 0, 0>>(T2 *, int)","(2, 1, 1)","gpu__time_duration.sum","ns","2,000"
"1","void prepare<Draw<float, 0, 0>>(T2 *, int)","(2, 1, 1)","smsp__inst_executed.sum","inst","40"
"2","void decide<Draw<float, 0, 0>, 0>(Rows<T3>)","(2, 1, 1)","gpu__time_duration.sum","ns","3,000"
"3","cupy_copy__float_float32","(1, 1, 1)","gpu__time_duration.sum","ns","1,632"
"4","void prepare<Draw<float, 0, 0>>(T2 *, int)","(2, 1, 1)","gpu__time_duration.sum","ns","7,000"
"""


def test_what_nsight_compute_counts_is_told_apart_by_launches(script):
    counters = script.counters
    rows = list(counters.read(NCU, tiny=True))
    assert [row["kernel"] for row in rows] == ["prepare", "decide", "prepare"]
    titles = [title for title, *_ in counters.launches(tiny=True)]
    assert [row["launch"] for row in rows] == [titles[0], titles[0], titles[1]]
    assert counters.seconds(rows) == pytest.approx({titles[0]: 5e-6, titles[1]: 7e-6})
    assert counters.instructions_a_coordinate(rows[0]) == 32 * 40 / (2 * 10 * 32)


def test_launches_have_one_kernel_each_that_prepares(script):
    """By which what is counted is told apart."""
    place = script.devices.Simulated()
    script.counters.run(place, tiny=True)
    prepared = [kernel for kernel in place.kernels.launches if kernel.startswith("prepare")]
    assert len(prepared) == len(list(script.counters.launches(tiny=True)))
