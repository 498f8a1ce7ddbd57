"""Run sections one after the other: progress, what is left, what was finished before a kill."""

from __future__ import annotations

import dataclasses
import sys
import time
import traceback

from . import _backend
from ._parts import Part
from ._results import Check, Section, Skip
from ._settings import Settings
from ._statistics import MOST_SCORES
from ._store import Store


class Progress:
    """A line a section, with a bar and the time left: rewritten on a terminal, dots elsewhere."""

    def __init__(self, costs: list[float], stream=None):
        self._stream = sys.stdout if stream is None else stream
        self._costs, self._done, self._spent = costs, 0.0, 0.0
        self._title, self._start = "", time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since this line began."""
        return time.perf_counter() - self._start

    def begin(self, title: str) -> None:
        """A line of its own."""
        self._title, self._start = f"{title:<18}", time.perf_counter()
        self._write(self._title)

    def tick(self, words: str) -> None:
        """A piece of work begins."""
        if self._stream.isatty():
            self._write(f"\r\x1b[K{self._title} {self.seconds:5.1f} s  {self.left()}  {words}")
        else:
            self._write(".")

    def end(self, words: str, cost: float = 0.0) -> None:
        """The line is finished; its cost is what it had been expected to take."""
        start = f"\r\x1b[K{self._title}" if self._stream.isatty() else ""
        self._write(f"{start} {self.seconds:5.1f} s  {words}\n")
        if cost:
            self._done, self._spent = self._done + cost, self._spent + self.seconds

    def skip(self, cost: float) -> None:
        """What had been done before takes no time now."""
        self._costs.remove(cost)

    def left(self) -> str:
        """A bar, and the time left if all goes on at the pace so far."""
        total = sum(self._costs)
        share = self._done / total if total else 1.0
        pace = self._spent / self._done if self._done else 1.0
        left = max(0, round(pace * (total - self._done) - self.seconds))
        bar = "━" * round(12 * share) + "─" * (12 - round(12 * share))
        return f"{bar} {left // 60}:{left % 60:02d} left"

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def run_parts(
    parts: list[Part], backends: list[str], settings: Settings, store: Store
) -> list[Section]:
    """All parts on all backends that they are for."""
    jobs = [(part, b) for part in parts for b in backends if part.everywhere or b == backends[0]]
    progress = Progress([part.cost(settings.size) for part, _ in jobs])
    sections = []
    for part, backend in jobs:
        title = part.name.replace("_", " ") + ("" if len(backends) == 1 else f" {backend}")
        cost, section = part.cost(settings.size), store.load(part.name, backend)
        progress.begin(title)
        if section is None:
            section = _run(part, backend, dataclasses.replace(settings, tick=progress.tick))
            section = dataclasses.replace(section, seconds=progress.seconds)
            store.save(section)
            progress.end(_outcome(section), cost)
        else:
            progress.skip(cost)
            progress.end(f"{_outcome(section)} (finished before)")
        sections.append(section)
    return sections


def _run(part: Part, backend: str, settings: Settings) -> Section:
    """The section, or why there is none: a failure of the code is a failure of the property."""
    named: dict = {"name": part.name, "backend": backend, "power": part.sees(settings.size)}
    reason = part.missing or _backend.missing(backend)
    title = part.name.replace("_", " ").capitalize()
    if reason:
        return Section(title, "", (), skipped=(Skip(title, reason),), **named)
    try:
        with _backend.running_on(backend):
            return dataclasses.replace(part.run(settings), backend=backend)
    except Exception as error:
        statement = f"the section runs to its end, but it raised {type(error).__name__}: {error}"
        intro = f"The section did not run to its end.\n\n{traceback.format_exc()}"
        return Section(title, intro, (Check(f"{title} runs", statement, 1, 0),), **named)


def _outcome(section: Section) -> str:
    words = [f"{len(section.checks)} properties"]
    failed = [check.name for check in section.checks if not check.passed]
    words.append(f"FAILS: {'; '.join(failed)}" if failed else "all hold")
    if section.skipped:
        words.append(f"{len(section.skipped)} skipped")
    return ", ".join(words)


def accounting(sections: list[Section], parts: list[Part], settings: Settings) -> Section:
    """The one threshold is only right if no more z-scores were looked at than it allows for."""
    budget = {part.name: part.most_scores(settings.size) for part in parts}
    over = [s for s in sections if s.scores > budget[s.name]]
    count = sum(section.scores for section in sections)
    checks = (
        Check(
            "Number of z-scores",
            "no more z-scores were looked at than the family-wise threshold allows for",
            count,
            MOST_SCORES,
        ),
        Check(
            "Plans are kept",
            "no section looked at more z-scores than its plan, written before it ran: sections "
            "that did",
            len(over),
            0,
            note="; ".join(f"{s.name}: {s.scores:,}, planned {budget[s.name]:,}" for s in over),
        ),
    )
    intro = (
        f"{count:,} z-scores in all; Holm's procedure starts from the threshold of {MOST_SCORES:,}."
    )
    return Section("Accounting", intro, checks, name="accounting")
