"""``python -m dpo.validation._alarms COUNT [FIRST]``: how often does a correct library fail?

Runs the quick suite for COUNT seeds in one process and prints every property that fails, which of
a correct library is a false alarm, and how near the others came. The promise is one report in a
thousand.
"""

from __future__ import annotations

import sys
import time

from . import _backend
from ._holm import holm
from ._parts import chosen
from ._results import Check, Section
from ._run import accounting
from ._settings import Settings
from ._statistics import Z_THRESHOLD


def main(count: int, first: int) -> int:
    """The number of seeds whose report has an alarm."""
    alarms, nearest = 0, 0.0
    for seed in range(first, first + count):
        start = time.perf_counter()
        checks = [check for section in _sections(seed) for check in section.checks]
        failed = [check.name for check in checks if not check.passed]
        alarms += bool(failed)
        nearest = max(nearest, *map(_nearness, checks))
        print(
            f"seed {seed}: {len(checks)} properties, {len(failed)} fail, largest |z| / threshold "
            f"so far {nearest:.2f}, {time.perf_counter() - start:.0f} s; alarms {alarms} "
            f"{'; '.join(failed)}",
            flush=True,
        )
    return alarms


def _sections(seed: int) -> list[Section]:
    settings = Settings(seed, "quick")
    parts = chosen([], "quick")
    with _backend.running_on("cpu"):
        sections = [part.run(settings) for part in parts]
    return holm([*sections, accounting(sections, parts, settings)])


def _nearness(check: Check) -> float:
    """Of a z-score to its threshold."""
    if check.scores and check.threshold == Z_THRESHOLD:
        return float(check.statistic / Z_THRESHOLD)
    return 0.0


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    sys.exit(min(1, main(arguments[0], arguments[1] if len(arguments) > 1 else 1)))
