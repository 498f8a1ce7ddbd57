"""``dpo validate``: exit status, reports, resuming, what is missing, comparing; ``dpo info``."""

from __future__ import annotations

import html
import importlib.machinery
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import types
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from dpo.validation import _parts, loss, report, study
from dpo.validation._cluster import mapping
from dpo.validation._command import main
from dpo.validation._results import Check, Figure, Section, Skip, Table, from_plain
from dpo.validation._run import Progress
from dpo.validation._store import Store

import dpo
from dpo import _cli

ROOT = Path(__file__).resolve().parents[1]
QUICK = ["--quick", "--only", "smoothness", "--only", "loss", "--only", "asymptotics"]


def run(out: Path, *arguments: str) -> tuple[int, dict]:
    """The exit status and the results."""
    status = main([*arguments, "--out", str(out)])
    return status, json.loads((out / "results.json").read_text())


def verdicts(results: dict) -> list[tuple]:
    return [
        (check["name"], check["statistic"], check["passed"])
        for section in results["sections"]
        for check in section["checks"]
    ]


@pytest.fixture(scope="module")
def reported(tmp_path_factory) -> tuple[Path, dict]:
    """Two sections that hold, once for several tests."""
    out = tmp_path_factory.mktemp("report")
    status, results = run(out, *QUICK)
    assert status == 0
    return out, results


# -------------------------------------------------------------------------------------- exit status


def test_all_hold(reported):
    out, results = reported
    assert results["passed"]
    assert results["environment"]["mode"] == "quick"
    suites = ET.parse(out / "junit.xml").getroot()
    assert suites.findall(".//failure") == []
    assert len(suites.findall(".//testcase")) == results["properties"]
    assert not (out / "unfinished").exists()


def test_a_broken_property_is_status_1_and_says_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(
        loss, "_layer", lambda noise, samples: dpo.Perturbed(noise=noise, epsilon=0.6)
    )
    status, results = run(tmp_path, "--quick", "--only", "loss")
    assert (status, results["passed"]) == (1, False)
    assert "Loss, Gumbel noise" in results["failed"]
    page = (tmp_path / "index.html").read_text()
    alarm = page[page.index("What fails") : page.index('class="glance"')]
    assert "Loss, Gumbel noise" in alarm
    assert "E[L̂] = F_ε(θ) − ⟨θ, y⟩" in alarm
    failures = ET.parse(tmp_path / "junit.xml").findall(".//failure")
    assert len(failures) == len(results["failed"])


def test_a_section_that_raises_is_a_broken_property(tmp_path, monkeypatch):
    def broken(settings):
        raise RuntimeError("the kernel is gone")

    monkeypatch.setattr(loss, "run", broken)
    status, results = run(tmp_path, *QUICK)
    assert status == 1
    assert results["failed"] == ["Loss runs"]
    assert "the kernel is gone" in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "-1"], "--seed must not be negative"),
        (["--seed", "today"], "--seed must be a whole number"),
        (["--only", "everything"], "there is no property 'everything'; there are quadrature"),
        (["--quick", "--full"], "not allowed with"),
        (["--backend", "tpu"], "invalid choice"),
        (["--shape", "3"], "--shape is that of the scores of --oracle"),
        (["--oracle", "nothing"], "--oracle must be MODULE:NAME"),
        (["--oracle", "nowhere_at_all:oracle"], "there is no module 'nowhere_at_all'"),
        (["--oracle", "dpo:no_such_oracle"], "module 'dpo' has no 'no_such_oracle'"),
        (["--oracle", "dpo:Argmax"], "did you forget the parentheses"),
        (["--compare", "here", "there"], "--compare needs two reports"),
    ],
)
def test_bad_options_are_status_2_and_say_why(arguments, message, capsys):
    with pytest.raises(SystemExit) as status:
        main(arguments)
    assert status.value.code == 2
    assert message in capsys.readouterr().err


def test_the_plan_is_stated_beforehand(capsys):
    assert main(["--full", "--plan"]) == 0
    text = capsys.readouterr().out
    assert all(part.name in text for part in _parts.PARTS)
    assert "99 times of 100" in text
    guessed = [line.split()[0] for line in text.splitlines() if " ~" in line]
    assert guessed == [part.name for part in _parts.PARTS if part.estimated]
    assert main(["--plan"]) == 0
    assert "~" not in capsys.readouterr().out


# ------------------------------------------------------------------------------- seeds and resuming


def test_a_seed_fixes_the_verdicts_and_random_ones_are_told(tmp_path):
    runs = [run(tmp_path / s, "--quick", "--only", "loss", "--seed", s) for s in ("0", "1")]
    again = run(tmp_path / "again", "--quick", "--only", "loss")
    assert verdicts(runs[0][1]) == verdicts(again[1])
    assert verdicts(runs[0][1]) != verdicts(runs[1][1])
    _, told = run(tmp_path / "r", "--quick", "--only", "loss", "--seed", "random")
    seed = told["environment"]["seed"]
    _, repeated = run(tmp_path / "t", "--quick", "--only", "loss", "--seed", seed)
    assert verdicts(told) == verdicts(repeated)


def test_killed_and_started_again_it_finishes_with_the_same_verdicts(tmp_path, reported):
    command = [sys.executable, "-m", "dpo", "validate", *QUICK, "--out", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    for line in process.stdout:
        if line.startswith("smoothness"):  # is finished, and others are not
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = {file.name for file in (tmp_path / "unfinished").rglob("*.json")}
    assert "smoothness.cpu.json" in finished
    assert "asymptotics.cpu.json" not in finished
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "20 properties, all hold (finished before)" in done.stdout
    results = json.loads((tmp_path / "results.json").read_text())
    assert verdicts(results) == verdicts(reported[1])
    assert not (tmp_path / "unfinished").exists()


def test_stored_sections_come_back_whole(tmp_path):
    section = Section(
        "Title", "Intro", (Check("a", "b", np.float32(1.5), 2, scores=3),),
        (Figure("c", ("<svg/>",)),), (Table("d", ("e", "f"), (("1", "2"),)),),
        (Skip("g", "h"),), 1.0, "name", "cpu", "power",
    )  # fmt: skip
    store = Store(tmp_path, {"seed": "0"})
    store.save(section)
    assert store.load("name", "cpu") == section
    assert Store(tmp_path, {"seed": "1"}).load("name", "cpu") is None
    file = next(tmp_path.rglob("*.json"))
    file.write_text(file.read_text()[:50])  # cut off
    assert store.load("name", "cpu") is None
    store.clear()
    assert list(tmp_path.iterdir()) == []
    assert from_plain(json.loads('{"title": "t", "intro": "", "checks": [], "figures": [], '
                                 '"tables": [], "skipped": []}')).passed  # fmt: skip


class Terminal(io.StringIO):
    """Says that it is one."""

    def isatty(self):
        return True


def test_progress_tells_the_time_left_at_the_pace_so_far():
    terminal, dots = Terminal(), io.StringIO()
    for stream in (terminal, dots):
        progress = Progress([10.0, 30.0], stream)
        progress.begin("first")
        progress._start -= 5.0  # half as long as planned
        progress.end("done", 10.0)
        progress.begin("second")
        progress.tick("words")
        progress.end("done", 30.0)
    assert "━━━─────────" in terminal.getvalue()
    assert "0:15 left  words" in terminal.getvalue()
    assert dots.getvalue().splitlines()[1].split() == ["second", ".", "0.0", "s", "done"]


# ---------------------------------------------------------------------------------- what is missing


@pytest.fixture
def without(monkeypatch):
    """Hides packages."""
    find = importlib.util.find_spec

    def hide(*names):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *a: None if name in names else find(name, *a)
        )

    return hide


def test_missing_packages_are_skipped_rows_with_the_reason(tmp_path, without, capsys):
    without("sklearn", "matplotlib", "cupy")
    arguments = ["--quick", "--only", "digits", "--only", "smoothness", "--only", "loss"]
    status, results = run(tmp_path, *arguments, "--backend", "all")
    assert status == 0
    reasons = {skip["name"]: skip["reason"] for s in results["sections"] for skip in s["skipped"]}
    assert reasons["Digits"] == "scikit-learn is not installed: pip install scikit-learn"
    assert reasons["Loss"].startswith("CuPy is not installed: pip install")
    assert reasons["Plots"].startswith("matplotlib is not installed")
    page = (tmp_path / "index.html").read_text()
    assert page.count("– skipped") >= 3
    assert "<svg" not in page
    skipped = ET.parse(tmp_path / "junit.xml").findall(".//skipped")
    assert {node.get("message") for node in skipped} == set(reasons.values())
    assert "3 skipped" in capsys.readouterr().out


def test_dask_that_is_missing_is_said_beforehand(without, capsys):
    without("distributed")
    with pytest.raises(SystemExit):
        main(["--dask", "local"])
    assert "pip install 'perturbed-optimizers[dask]'" in capsys.readouterr().err


def test_info_names_what_is_missing(without, capsys):
    without("cupy", "jax")
    assert _cli.main(["info"]) == 0
    text = capsys.readouterr().out
    assert f"dpo {dpo.__version__}" in text
    assert "missing: pip install 'perturbed-optimizers[jax]'" in text
    assert "no CuPy" in text


def test_commands(capsys):
    assert _cli.main(["--help"]) == 0
    assert "dpo validate" in capsys.readouterr().out
    assert _cli.main(["dance"]) == 2
    assert "no command 'dance'" in capsys.readouterr().err


def test_backends_move_what_the_library_is_handed(tmp_path, monkeypatch, reported):
    """A CuPy that stays on the CPU: every array goes through it, and no verdict changes."""
    moved = []
    fake = types.ModuleType("cupy")
    fake.asarray = lambda array: moved.append(array.shape) or array
    fake.ndarray = type("ndarray", (), {})
    fake.cuda = types.SimpleNamespace(
        runtime=types.SimpleNamespace(getDeviceCount=lambda: 1, CUDARuntimeError=RuntimeError)
    )
    fake.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    status, results = run(tmp_path, "--quick", "--only", "loss", "--backend", "all")
    assert status == 0
    cpu, cuda, _ = results["sections"]
    assert (cpu["backend"], cuda["backend"]) == ("cpu", "cuda")
    assert cpu["checks"] == cuda["checks"]
    assert len(moved) >= 4
    assert "cuda 8 of 8" in (tmp_path / "index.html").read_text()


# -------------------------------------------------------------------------------- oracles, clusters


def test_the_users_own_oracle(tmp_path, monkeypatch):
    (tmp_path / "my_solvers.py").write_text("import dpo\nthree = dpo.TopK(3)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    arguments = ["--quick", "--oracle", "my_solvers:three"]
    status, results = run(tmp_path / "report", *arguments, "--shape", "4")
    assert status == 0
    assert results["environment"]["oracle"] == "TopK(k=3), (4,)"
    with pytest.raises(SystemExit):
        main([*arguments, "--shape", "2"])


def test_a_cluster_changes_no_verdict():
    distributed = pytest.importorskip("distributed")
    pieces = [
        study.Piece("argmax", noise, "value", seed, 256, "cpu")
        for noise, seed in (("normal", 1), ("gumbel", 2), ("normal", 3))
    ]
    here = list(map(study.work, pieces))
    with (
        distributed.LocalCluster(1, processes=False, dashboard_address=None) as cluster,
        mapping(cluster) as over,
    ):
        there = list(over(study.work, pieces))
    for own, other in zip(here, there, strict=True):
        for a, b in zip(own, other, strict=True):
            np.testing.assert_array_equal(a, b)


# ----------------------------------------------------------------------------------- the comparison


def test_compare_tells_what_no_longer_holds(reported, tmp_path, capsys):
    out, results = reported
    assert main(["--compare", str(out), str(out), "--out", str(tmp_path)]) == 0
    broken = json.loads(json.dumps(results))
    broken["sections"][0]["checks"][0].update(passed=False, statistic=9.0)
    name = broken["sections"][0]["checks"].pop(1)["name"]
    (tmp_path / "results.json").write_text(json.dumps(broken))
    assert main(["--compare", str(out), str(tmp_path), "--out", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "No longer holds, or is new and does not hold:\n  property" in text
    assert "Gone:\n  property" in text
    assert name in text
    assert "Two validation reports" in (tmp_path / "compare.html").read_text()


# ----------------------------------------------------------------------------------------- the page


def test_the_page_is_one_file_that_opens_offline(reported):
    page = (reported[0] / "index.html").read_text()
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert links
    assert all(link.startswith("#") for link in links)
    assert "<script" not in page
    assert "url(http" not in page
    assert "prefers-color-scheme: dark" in page
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert all(link[1:] in ids for link in links)


def test_pages_escape_what_they_show():
    section = Section("a<b", "x & y", (Check("<script>", "1 < 2", float("nan"), 1),), name="n")
    environment = dict.fromkeys(("dpo", "date", "mode", "seed", "duration"), "<i>")
    page = report.render([section], environment)
    assert "<script>" not in page
    assert "<i>" not in page
    assert "nan" in page


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium on the path")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_the_screen_of_a_browser(reported, tmp_path, width):
    """In a frame of that width nothing sticks out; drawings have a size, text a readable one."""
    page = (reported[0] / "index.html").read_text()
    probe = (
        "<script>addEventListener('load', () => {"
        "const d = document.documentElement, s = [...document.querySelectorAll('.panels svg')];"
        "const seen = {wide: d.scrollWidth, frame: d.clientWidth, drawings: s.length,"
        "least: Math.min(...s.map(x => x.getBoundingClientRect().height)),"
        "font: parseFloat(getComputedStyle(document.body).fontSize)};"
        "parent.document.title = JSON.stringify(seen)})</script></body>"
    )
    framed = html.escape(page.replace("</body>", probe))
    outer = tmp_path / "frame.html"
    outer.write_text(f'<iframe width="{width}" height="900" frameborder="0" srcdoc="{framed}">')
    seen = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", _dom(outer)).group(1)))
    assert seen["frame"] == width
    assert seen["wide"] <= width
    assert seen["drawings"] > 0
    assert seen["least"] > 100
    assert seen["font"] >= 16


def _dom(page: Path) -> str:
    """The page after its scripts, as headless Chromium has it."""
    command = ["chromium", "--headless=new", "--no-sandbox", "--hide-scrollbars", "--dump-dom"]
    command += ["--virtual-time-budget=5000", "--window-size=1600,1000", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
