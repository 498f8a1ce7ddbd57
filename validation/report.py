"""The HTML page: verdict, every property in one table, then the evidence, section by section.

One file, styles and drawings inside it, no script: it opens offline, in light and dark mode, on a
screen and on a phone.
"""

from __future__ import annotations

import re
from html import escape

from ._results import Check, Figure, Section, Table

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
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
th.number { text-align: right; }
.group td { font-weight: 600; padding-top: 1.2rem; border-bottom-color: var(--soft); }
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
  .properties .group { border-bottom-color: var(--soft); padding-top: 1.4rem; }
}
"""


def render(sections: list[Section], environment: dict[str, str]) -> str:
    """The whole page."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>dpo validation report</title><style>{_STYLE}</style></head><body>",
        _heading(sections, environment),
        _properties(sections),
        *(_section(number, section) for number, section in enumerate(sections)),
        _environment(environment),
        "</body></html>",
    ]
    return "\n".join(parts)


def verdict(sections: list[Section]) -> tuple[bool, str]:
    """Whether everything holds, and one line that says so."""
    checks = [check for section in sections for check in section.checks]
    failed = [check.name for check in checks if not check.passed]
    if not failed:
        return True, f"All {len(checks)} properties hold."
    return False, f"{len(failed)} of {len(checks)} properties FAIL: {'; '.join(failed)}."


def _heading(sections: list[Section], environment: dict[str, str]) -> str:
    good, line = verdict(sections)
    return (
        "<h1>Differentiable perturbed optimizers: validation</h1>"
        f'<p class="soft">dpo {escape(environment["dpo"])}, {escape(environment["date"])}, '
        f"{escape(environment['duration'])}</p>"
        f'<p class="verdict {"good" if good else "bad"}">{"✓" if good else "✗"} {escape(line)}</p>'
        "<p>Monte-Carlo estimators against exact expectations, statistical properties against what "
        "the theory says of them, wrong estimators against tests that must reject them, and one "
        "experiment on real data. Every threshold is fixed in the code, before any data is "
        "drawn. All z-scores share one: a correct library has a chance of at most one in a million "
        "to fail any of them. The same seed gives the same verdicts.</p>"
    )


def _properties(sections: list[Section]) -> str:
    rows = []
    for number, section in enumerate(sections):
        title = f'<a href="#section-{number}">{escape(section.title)}</a>'
        rows.append(f'<tr class="group"><td colspan="4">{title}</td></tr>')
        rows += map(_property, section.checks)
    return (
        '<table class="properties"><thead><tr><th>Property</th><th class="number">Statistic</th>'
        '<th class="number">Threshold</th><th>Verdict</th></tr></thead><tbody>'
        f"{''.join(rows)}</tbody></table>"
    )


def _property(check: Check) -> str:
    note = f" ({escape(_minus(check.note))})" if check.note else ""
    sign = {"<=": "≤", ">": "&gt;"}[check.relation]
    mark = (
        '<span class="good">✓ holds</span>' if check.passed else '<span class="bad">✗ fails</span>'
    )
    return (
        f'<tr><td><span class="name">{escape(check.name)}</span><br>'
        f'<span class="soft">{escape(check.statement)}{note}</span></td>'
        f'<td class="number">{_number(check.statistic)}</td>'
        f'<td class="number">{sign} {_number(check.threshold)}</td><td>{mark}</td></tr>'
    )


def _number(value: float) -> str:
    """An integer as it is; else three digits, with powers of ten as people write them."""
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
    passed = sum(check.passed for check in section.checks)
    count = f"{passed} of {len(section.checks)} hold"
    good = passed == len(section.checks)
    paragraphs = "".join(f"<p>{escape(text)}</p>" for text in section.intro.split("\n\n"))
    return (
        f'<h2 id="section-{number}">{escape(section.title)}</h2>'
        f'<p class="soft"><span class="{"good" if good else "bad"}">{"✓" if good else "✗"} '
        f"{count}</span>, {section.seconds:.1f} s</p>{paragraphs}"
        f"{''.join(map(_figure, section.figures))}{''.join(map(_table, section.tables))}"
    )


def _figure(figure: Figure) -> str:
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
