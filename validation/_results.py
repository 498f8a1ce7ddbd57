"""What a section of the report is made of, and how it becomes JSON."""

from __future__ import annotations

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


def as_json(sections: list[Section], environment: dict[str, str]) -> dict[str, Any]:
    """Everything but the drawings, in plain types."""
    checks = [check for section in sections for check in section.checks]
    return {
        "passed": all(check.passed for check in checks),
        "properties": len(checks),
        "failed": [check.name for check in checks if not check.passed],
        "z_scores": sum(check.scores for check in checks),
        "environment": environment,
        "sections": [_section_json(section) for section in sections],
    }


def _section_json(section: Section) -> dict[str, Any]:
    return {
        "title": section.title,
        "seconds": round(section.seconds, 2),
        "checks": [
            {
                "name": check.name,
                "statement": check.statement,
                "statistic": float(check.statistic),
                "relation": check.relation,
                "threshold": float(check.threshold),
                "passed": check.passed,
                "scores": check.scores,
                "note": check.note,
            }
            for check in section.checks
        ],
        "tables": [
            {"caption": t.caption, "header": list(t.header), "rows": [list(r) for r in t.rows]}
            for t in section.tables
        ],
    }
