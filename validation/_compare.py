"""Two reports side by side: whose verdict changed, what is new, what is gone, what took longer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import report
from ._results import Table

Key = tuple[str, str, str]
"""Section, backend and property."""


def main(old: str, new: str, out: str) -> int:
    """Print the differences and write ``compare.html``; 1 if something held and no longer does."""
    before, after = _load(old), _load(new)
    tables = compare(before, after)
    broken = bool(tables[0].rows)
    for table in tables:
        print(_as_text(table))
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "compare.html"
    page.write_text(report.render_comparison(tables, before, after), encoding="utf-8")
    print(page)
    return 1 if broken else 0


def _load(path: str) -> dict[str, Any]:
    """``results.json``, or the folder that holds one."""
    file = Path(path)
    if file.is_dir():
        file = file / "results.json"
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--compare needs two reports (folders or results.json): {error}"
        ) from None


def compare(before: dict[str, Any], after: dict[str, Any]) -> tuple[Table, ...]:
    """What no longer holds, what holds now, what came and went, and how the seconds changed."""
    old, new = _checks(before), _checks(after)
    common = [key for key in new if key in old]
    broken = [k for k in common if old[k]["passed"] and not new[k]["passed"]]
    broken += [k for k in new if k not in old and not new[k]["passed"]]
    mended = [k for k in common if new[k]["passed"] and not old[k]["passed"]]
    header = ("property", "before", "now", "threshold")

    def rows(keys: list[Key]) -> tuple[tuple[str, ...], ...]:
        return tuple(
            (
                f"{key[2]} ({key[0]}, {key[1]})",
                f"{old[key]['statistic']:.4g}" if key in old else "",
                f"{new[key]['statistic']:.4g}",
                f"{new[key]['relation']} {new[key]['threshold']:.4g}",
            )
            for key in keys
        )

    def names(keys: list[Key]) -> tuple[tuple[str, ...], ...]:
        return tuple((key[2], key[0], key[1]) for key in keys)

    place = ("property", "section", "backend")
    return (
        Table("No longer holds, or is new and does not hold", header, rows(broken)),
        Table("Holds now, did not before", header, rows(mended)),
        Table("New", place, names([key for key in new if key not in old])),
        Table("Gone", place, names([key for key in old if key not in new])),
        Table("Seconds", ("section", "before", "now"), _seconds(before, after)),
    )


def _checks(results: dict[str, Any]) -> dict[Key, dict[str, Any]]:
    return {
        (section["title"], section.get("backend", "cpu"), check["name"]): check
        for section in results["sections"]
        for check in section["checks"]
    }


def _seconds(before: dict[str, Any], after: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    def times(results: dict[str, Any]) -> dict[str, float]:
        return {
            f"{s['title']} ({s.get('backend', 'cpu')})": s["seconds"] for s in results["sections"]
        }

    old, new = times(before), times(after)
    return tuple(
        (title, f"{old[title]:.1f}" if title in old else "", f"{seconds:.1f}")
        for title, seconds in new.items()
    )


def _as_text(table: Table) -> str:
    if not table.rows:
        return f"{table.caption}: nothing"
    widths = [max(map(len, column)) for column in zip(table.header, *table.rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (table.header, *table.rows)
    ]
    return "\n  ".join([f"{table.caption}:", *lines])
