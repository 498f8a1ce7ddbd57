"""The HTML page: the verdict at a glance, what fails, then the evidence, section by section.

One file, styles and drawings inside it, no script: it opens offline, in light and dark mode, on a
screen and on a phone.
"""

from __future__ import annotations

import math
import re
from html import escape

from ._results import Check, Figure, Section, Skip, Table, mutants
from ._statistics import FAMILY_LEVEL, LEVEL

_STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1c2126; --soft: #5b646d; --line: #d9dde1; --page: #ffffff; --card: #f6f7f9;
  --good: #0b7a55; --bad: #b3360b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #dfe3e7; --soft: #9aa4ae; --line: #333a41; --page: #14171a; --card: #1c2024;
    --good: #45c496; --bad: #ff8b5c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 70rem;
  background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.25rem; margin: 3rem 0 .5rem; padding-top: 1rem;
     border-top: 1px solid var(--line); }
p { max-width: 46rem; }
a { color: inherit; }
.soft, figcaption, caption { color: var(--soft); font-size: .875rem; }
.verdict { font-size: 1.15rem; font-weight: 600; margin: 1rem 0; }
.good { color: var(--good); } .bad { color: var(--bad); }
figure { margin: 1.5rem 0; }
.panels { display: flex; flex-wrap: wrap; gap: 1rem; }
.panels svg { flex: 1 1 19rem; width: 100%; max-width: 24rem; height: auto; }
sup { line-height: 0; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-size: .875rem; }
caption { text-align: left; padding: .4rem 0; }
th, td { text-align: left; vertical-align: top; padding: .4rem .75rem .4rem 0; }
th { font-weight: 600; color: var(--soft); border-bottom: 1px solid var(--line); }
td { border-bottom: 1px solid var(--line); }
.glance { display: grid; grid-template-columns: repeat(auto-fill, minmax(15.5rem, 1fr));
          gap: .6rem; margin: 1.25rem 0; padding: 0; list-style: none; }
.glance li { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
             padding: .55rem .8rem; }
.glance a { text-decoration: none; font-weight: 500; display: block; }
.glance a:hover { text-decoration: underline; }
.glance span { margin-right: .75rem; font-size: .875rem; white-space: nowrap; }
.alarm { border-left: .25rem solid var(--bad); padding: .1rem 0 .1rem 1rem; margin: 1rem 0; }
details { margin: 1rem 0; }
summary { cursor: pointer; color: var(--soft); font-size: .9375rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8125rem; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.name { font-weight: 500; }
.wide { overflow-x: auto; }
.wide td, .wide th { white-space: nowrap; }
.wide td:first-child { white-space: normal; min-width: 11rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.5rem;
     font-size: .875rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  body { padding: 1.25rem 1rem 3rem; }
  .properties thead { display: none; }
  .properties tr { display: flex; flex-wrap: wrap; padding: .5rem 0; gap: 0 .9rem;
                   border-bottom: 1px solid var(--line); }
  .properties td { border: 0; padding: 0; }
  .properties td:first-child { flex-basis: 100%; }
}
"""


def render(sections: list[Section], environment: dict[str, str]) -> str:
    """The whole page."""
    body = [
        _heading(sections, environment),
        _alarms(sections),
        _glance(sections),
        *(_section(number, section) for number, section in enumerate(sections)),
        _environment(environment),
    ]
    return _page("dpo validation report", body)


def render_comparison(tables: tuple[Table, ...], before: dict, after: dict) -> str:
    """The page of ``--compare``."""
    runs = [f"dpo {e['dpo']}, {e['date']}, {e['mode']}" for e in _environments(before, after)]
    body = [
        "<h1>Two validation reports</h1>",
        f'<p class="soft">before: {escape(runs[0])}<br>now: {escape(runs[1])}</p>',
        *(
            _table(table) if table.rows else f"<p>{escape(table.caption)}: nothing.</p>"
            for table in tables
        ),
    ]
    return _page("dpo validation: comparison", body)


def _environments(*results: dict) -> list[dict[str, str]]:
    return [{"dpo": "?", "date": "?", "mode": "?", **one["environment"]} for one in results]


def _page(title: str, body: list[str]) -> str:
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
            *body,
            "</body></html>",
        ]
    )


def verdict(sections: list[Section]) -> tuple[bool, str]:
    """Whether everything holds, and one line that says so."""
    checks = [check for section in sections for check in section.checks]
    failed = [check.name for check in checks if not check.passed]
    skipped = sum(len(section.skipped) for section in sections)
    note = f" {skipped} skipped." if skipped else ""
    if not failed:
        return True, f"All {len(checks)} properties hold.{note}"
    return False, f"{len(failed)} of {len(checks)} properties FAIL: {'; '.join(failed)}.{note}"


def _heading(sections: list[Section], environment: dict[str, str]) -> str:
    good, _ = verdict(sections)
    checks = [check for section in sections for check in section.checks]
    failed = sum(not check.passed for check in checks)
    line = f"All {len(checks)} properties hold" if good else f"{failed} of {len(checks)} fail"
    killed, of = mutants(sections)
    first = next((n for n, s in enumerate(sections) if mutants([s])[1]), 0)
    kills = f"{killed} of {of} deliberate mistakes were rejected"
    kills = f' <a href="#section-{first}">{kills}</a>.' if of else ""
    oracle = (
        f"<p>Tested: <b>{escape(environment['oracle'])}</b></p>" if "oracle" in environment else ""
    )
    return (
        "<h1>Differentiable perturbed optimizers: validation</h1>"
        f'<p class="soft">dpo {escape(environment["dpo"])}, {escape(environment["date"])}, '
        f"{escape(environment['mode'])} size, seed {escape(environment['seed'])}, "
        f"{escape(environment['duration'])}</p>{oracle}"
        f'<p class="verdict {_colour(good)}">{_mark(good)} {line}.{kills}</p>'
        "<p>Monte-Carlo estimators against exact expectations, the paper's propositions against "
        "what the library computes, wrong estimators against tests that must reject them, and an "
        "experiment on real data. Every threshold is fixed in the code, before any data is "
        f"drawn. All z-scores share one family-wise level, {_number(FAMILY_LEVEL)}, by Holm's "
        "procedure: a correct library fails once in a thousand reports at most, whatever the seed. "
        "The same seed gives the same verdicts.</p>"
    )


def _alarms(sections: list[Section]) -> str:
    """What is wrong, in full, before anything else."""
    failed = [(s, c) for s in sections for c in s.checks if not c.passed]
    if not failed:
        return ""
    rows = "".join(_property(check, f"{s.title}, {s.backend}: ") for s, check in failed)
    return f'<div class="alarm"><h2>What fails</h2>{_rows(rows)}</div>'


def _glance(sections: list[Section]) -> str:
    """A card a section, with a verdict a backend."""
    cards: dict[str, list[str]] = {}
    several = len({section.backend for section in sections}) > 1
    for number, section in enumerate(sections):
        place = f" {section.backend}" if several else ""
        words = [f'<a href="#section-{number}">{escape(section.title)}</a>']
        card = cards.setdefault(section.name or section.title, words)
        if section.checks:
            held = sum(check.passed for check in section.checks)
            card.append(
                f'<span class="{_colour(section.passed)}">{_mark(section.passed)}{place} '
                f"{held} of {len(section.checks)}</span>"
            )
        if section.skipped:
            card.append(f'<span class="soft">–{place} {len(section.skipped)} skipped</span>')
    items = (f"<li>{''.join(words)}</li>" for words in cards.values())
    return f'<ul class="glance">{"".join(items)}</ul>'


def _mark(good: bool) -> str:
    return "✓" if good else "✗"


def _colour(good: bool) -> str:
    return "good" if good else "bad"


def _rows(rows: str) -> str:
    return (
        '<table class="properties"><thead><tr><th>Property</th><th class="number">Statistic</th>'
        '<th class="number">Threshold</th><th>Verdict</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _property(check: Check, before: str = "") -> str:
    note = f" ({escape(_minus(check.note))})" if check.note else ""
    level = f" Level {_number(check.scores * LEVEL)}." if check.scores else ""
    sign = {"<=": "≤", ">": "&gt;"}[check.relation]
    words = "holds" if check.passed else "fails"
    return (
        f'<tr><td><span class="name">{escape(before + check.name)}</span><br>'
        f'<span class="soft">{escape(check.statement)}{note}.{level}</span></td>'
        f'<td class="number">{_number(check.statistic)}</td>'
        f'<td class="number">{sign} {_number(check.threshold)}</td>'
        f'<td><span class="{_colour(check.passed)}">{_mark(check.passed)} {words}</span></td></tr>'
    )


def _skipped(skip: Skip) -> str:
    return (
        f'<tr><td><span class="name">{escape(skip.name)}</span><br><span class="soft">'
        f'{escape(skip.reason)}</span></td><td></td><td></td><td class="soft">– skipped</td></tr>'
    )


def _number(value: float) -> str:
    """An integer as it is; else three digits, with powers of ten as people write them."""
    if not math.isfinite(value):
        return str(float(value))
    if float(value).is_integer():
        return f"{int(value):,}"
    text = f"{value:.3g}"
    if "e" in text:
        digits, power = text.split("e")
        text = f"{digits} × 10<sup>{int(power)}</sup>"
    return text.replace("-", "−")


def _minus(text: str) -> str:
    """Hyphens that are signs as minus signs; those of 1e-3 and of words stay."""
    return re.sub(r"(?<!\w)-(?=\d)", "−", text)


def _section(number: int, section: Section) -> str:
    held = sum(check.passed for check in section.checks)
    backend = "" if section.backend == "cpu" else f" ({escape(section.backend)})"
    mark = f'<span class="{_colour(section.passed)}">{_mark(section.passed)} '
    count = f"{mark}{held} of {len(section.checks)} hold</span>, {section.seconds:.1f} s"
    power = f"<br>Sees, 99 times of 100: {escape(section.power)}." if section.power else ""
    paragraphs = "".join(f"<p>{escape(text)}</p>" for text in section.intro.split("\n\n") if text)
    rows = "".join([*map(_property, section.checks), *map(_skipped, section.skipped)])
    opened = "" if section.passed and not section.skipped else " open"
    return (
        f'<h2 id="section-{number}">{escape(section.title)}{backend}</h2>'
        f'<p class="soft">{count if section.checks else "– skipped"}{power}</p>{paragraphs}'
        f"{''.join(map(_figure, section.figures))}{''.join(map(_table, section.tables))}"
        f"<details{opened}><summary>{len(section.checks) + len(section.skipped)} properties, with "
        f"statistics and thresholds</summary>{_rows(rows)}</details>"
    )


def _figure(figure: Figure) -> str:
    if not any(figure.panels):  # there was nothing to draw with
        return ""
    return (
        f'<figure><div class="panels">{"".join(figure.panels)}</div>'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    def row(cells: tuple[str, ...], tag: str) -> str:
        marks = ("", *[' class="number"'] * (len(cells) - 1))
        inner = (
            f"<{tag}{m}>{escape(_minus(c))}</{tag}>" for m, c in zip(marks, cells, strict=True)
        )
        return f"<tr>{''.join(inner)}</tr>"

    body = "".join(row(cells, "td") for cells in table.rows)
    return (
        f'<p class="soft">{escape(table.caption)}</p><div class="wide"><table>'
        f"<thead>{row(table.header, 'th')}</thead><tbody>{body}</tbody></table></div>"
    )


def _environment(environment: dict[str, str]) -> str:
    pairs = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in environment.items())
    return f"<h2>Environment</h2><dl>{pairs}</dl>"
