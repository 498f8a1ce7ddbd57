"""What a section of the report is made of, and how it becomes plain types and back."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Check:
    """One property and its verdict, which follows from the numbers and cannot disagree with them.

    A NaN statistic satisfies no relation, so it fails.
    """

    name: str
    statement: str
    """What holds if the check passes: a formula or a sentence."""
    statistic: float
    threshold: float
    relation: Literal["<=", ">"] = "<="
    """How the statistic must lie to the threshold; ">" where a test is required to reject."""
    note: str = ""
    scores: int = 0
    """How many z-scores the statistic is the largest of; they share one family-wise level."""

    @property
    def passed(self) -> bool:
        """The verdict."""
        if self.relation == ">":
            return bool(self.statistic > self.threshold)
        return bool(self.statistic <= self.threshold)


@dataclass(frozen=True)
class Skip:
    """A property that could not be tested here."""

    name: str
    reason: str
    """What is missing, and how to get it."""


@dataclass(frozen=True)
class Figure:
    """Plots that share a caption; panels are inline SVG and wrap on a narrow screen."""

    caption: str
    panels: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rows of text under a header."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """One property of the library: what is claimed, how it was tested, what was seen."""

    title: str
    intro: str
    """Paragraphs separated by blank lines."""
    checks: tuple[Check, ...]
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    skipped: tuple[Skip, ...] = ()
    seconds: float = 0.0
    name: str = ""
    """Of its file, as ``--only`` takes it."""
    backend: str = "cpu"
    power: str = ""
    """The smallest fault its tests are made to see, stated before they run."""

    @property
    def passed(self) -> bool:
        """Whether all of its checks hold."""
        return all(check.passed for check in self.checks)

    @property
    def scores(self) -> int:
        """How many z-scores were looked at."""
        return sum(check.scores for check in self.checks)


def mutants(sections: list[Section]) -> tuple[int, int]:
    """How many deliberate mistakes were rejected, and of how many."""
    verdicts = [c.passed for s in sections for c in s.checks if c.name.startswith("Mutant ")]
    return sum(verdicts), len(verdicts)


def as_json(sections: list[Section], environment: dict[str, str]) -> dict[str, Any]:
    """Everything but the drawings, in plain types."""
    checks = [check for section in sections for check in section.checks]
    killed, of = mutants(sections)
    return {
        "passed": all(check.passed for check in checks),
        "properties": len(checks),
        "failed": [check.name for check in checks if not check.passed],
        "skipped": sum(len(section.skipped) for section in sections),
        "mutants": {"killed": killed, "of": of},
        "z_scores": sum(section.scores for section in sections),
        "environment": environment,
        "sections": [_section_json(section) for section in sections],
    }


def _section_json(section: Section) -> dict[str, Any]:
    plain = as_plain(section)
    del plain["figures"], plain["intro"]
    plain["seconds"] = round(section.seconds, 2)
    for check, own in zip(section.checks, plain["checks"], strict=True):
        own["passed"] = check.passed
    return plain


def as_plain(section: Section) -> dict[str, Any]:
    """The section as ``json.dumps`` takes it, drawings included."""
    plain = dataclasses.asdict(section)
    for check in plain["checks"]:
        check["statistic"], check["threshold"] = (
            float(check["statistic"]),
            float(check["threshold"]),
        )
    return plain


def from_plain(plain: dict[str, Any]) -> Section:
    """The inverse of ``as_plain`` after a journey through JSON, which knows no tuples."""

    def several(kind, name: str) -> tuple:
        return tuple(kind(**_frozen(one)) for one in plain[name])

    parts = {"checks": Check, "figures": Figure, "tables": Table, "skipped": Skip}
    return Section(**{**plain, **{name: several(kind, name) for name, kind in parts.items()}})


def _frozen(value):
    """Lists as tuples, however deep."""
    if isinstance(value, list):
        return tuple(map(_frozen, value))
    return {k: _frozen(v) for k, v in value.items()} if isinstance(value, dict) else value
