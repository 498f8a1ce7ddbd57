"""The command line: ``dpo validate`` and ``dpo info``; ``python -m dpo`` is the same."""

from __future__ import annotations

import sys

_USAGE = """usage: dpo COMMAND [options]

  dpo validate   test the library statistically and write a report (dpo validate --help)
  dpo info       versions, devices, what is missing and how to get it
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; its exit status, or 2 if there is no such command."""
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if command == "validate":
        from .validation._command import main as validate

        return validate(rest)
    if command == "info":
        from ._info import describe

        print(describe())
        return 0
    asked = command in ("-h", "--help", "help")
    if command and not asked:
        print(f"dpo: there is no command {command!r}", file=sys.stderr)
    print(_USAGE, end="", file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2
