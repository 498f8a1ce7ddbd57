"""The report as JUnit XML, which continuous integration shows test by test."""

from __future__ import annotations

from xml.etree import ElementTree

from ._results import Section


def render(sections: list[Section], environment: dict[str, str]) -> str:
    """A suite a section and backend, a case a property."""
    root = ElementTree.Element("testsuites", name=f"dpo {environment['dpo']} validation")
    for section in sections:
        _suite(root, section)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(root: ElementTree.Element, section: Section) -> None:
    failures = sum(not check.passed for check in section.checks)
    suite = ElementTree.SubElement(
        root,
        "testsuite",
        name=f"{section.title} ({section.backend})",
        tests=str(len(section.checks) + len(section.skipped)),
        failures=str(failures),
        errors="0",
        skipped=str(len(section.skipped)),
        time=f"{section.seconds:.2f}",
    )
    group = f"dpo.validation.{section.name}.{section.backend}"
    for check in section.checks:
        case = ElementTree.SubElement(suite, "testcase", classname=group, name=check.name)
        if not check.passed:
            numbers = f"{check.statistic:.4g}, must be {check.relation} {check.threshold:.4g}"
            failure = ElementTree.SubElement(case, "failure", message=numbers)
            failure.text = f"{check.statement}\n{check.note}".rstrip()
    for skip in section.skipped:
        case = ElementTree.SubElement(suite, "testcase", classname=group, name=skip.name)
        ElementTree.SubElement(case, "skipped", message=skip.reason)
