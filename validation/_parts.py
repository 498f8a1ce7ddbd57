"""The sections of the report: what each costs, how many z-scores it may look at, what it can see.

Written down before anything runs; ``dpo validate --plan`` prints it, and the report's accounting
holds every section to it.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib
import importlib.util
from dataclasses import dataclass

from ._results import Section
from ._settings import Settings, Size
from ._statistics import LEVEL, SEEN


@dataclass(frozen=True)
class Part:
    """A module of this package with a ``run(settings) -> Section``."""

    name: str
    seconds: tuple[float, float, float]
    """On two cores, kernels compiled: quick, default, full; 0 where it does not run. Measured, but
    where ``estimated``; full as processor time of the main thread, one of two that share the work.
    """
    scores: tuple[int, int, int]
    """No more z-scores than this."""
    faults: str
    """The smallest that are rejected 99 times of 100; ``{shift}`` is one of the mean of ``terms``,
    ``{variance}`` one of their variance."""
    terms: tuple[float, float, float] = (1, 1, 1)
    """Independent terms in a mean."""
    everywhere: bool = False
    """Whether it runs on every backend: it draws from the kernels under test."""
    needs: tuple[str, ...] = ()
    """Packages, as pip names them."""
    estimated: bool = False
    """Whether the seconds of ``full`` are extrapolated from the default's."""

    def sees(self, size: Size) -> str:
        """The smallest fault that is rejected 99 times of 100."""
        error = SEEN / self.terms[SIZES.index(size)] ** 0.5
        shift = f"a shift of {error:.1g} × one sample's spread"
        return self.faults.format(shift=shift, variance=f"{100 * 2**0.5 * error:.0f}%")

    def cost(self, size: Size) -> float:
        """Seconds."""
        return self.seconds[SIZES.index(size)]

    def spelled_cost(self, size: Size) -> str:
        """Seconds as the plan writes them: ``~`` before an estimate."""
        guess = "~" if self.estimated and size == "full" else ""
        return f"{guess}{self.cost(size):.0f}"

    def most_scores(self, size: Size) -> int:
        """The section's share of the family."""
        return self.scores[SIZES.index(size)]

    def run(self, settings: Settings) -> Section:
        """Do it."""
        section = importlib.import_module(f".{self.name}", __package__).run(settings)
        return dataclasses.replace(section, name=self.name, power=self.sees(settings.size))

    @property
    def missing(self) -> str:
        """Which packages are not here, and how to get them; empty if all are."""
        absent = [name for name in self.needs if not importlib.util.find_spec(_MODULES[name])]
        if not absent:
            return ""
        verb = "is" if len(absent) == 1 else "are"
        return f"{' and '.join(absent)} {verb} not installed: pip install {' '.join(absent)}"


SIZES: tuple[Size, ...] = ("quick", "default", "full")
_MODULES = {"scikit-learn": "sklearn"}


_ROUNDING = "any error above rounding"

PARTS = (
    Part("quadrature", (0, 7, 7), (400, 400, 400), _ROUNDING),
    Part(
        "exact",
        (0, 10, 44),
        (150, 150, 150),
        f"{_ROUNDING}; samplers: {{shift}}",
        (2.4e7, 2.4e7, 1.3e8),
        everywhere=True,
    ),
    Part(
        "generator",
        (3, 9, 100),
        (250, 250, 250),
        "{shift}; a tail cut off at 1e-6",
        (1e6, 4.2e6, 1.7e7),
        everywhere=True,
        estimated=True,
    ),
    Part("battery", (1, 2, 57), (60, 60, 60), "what byte, pair and rank tests tell apart"),
    Part("determinism", (2, 3, 4), (0, 0, 0), "one differing bit"),
    Part(
        "unbiasedness",
        (4, 8, 50),
        (22000, 22000, 30000),
        "{shift}",
        (2.1e06, 8.4e06, 3.4e07),
        everywhere=True,
    ),
    Part(
        "oracles",
        (0, 12, 110),
        (11000, 11000, 14000),
        "{shift}",
        (2.1e06, 2.1e06, 1.7e07),
        everywhere=True,
        estimated=True,
    ),
    Part(
        "temperatures",
        (0, 9, 101),
        (6000, 6000, 9000),
        "{shift}",
        (1e06, 1e06, 8e06),
        everywhere=True,
    ),
    Part(
        "identities",
        (1, 2, 4),
        (1700, 1700, 1700),
        "{shift}",
        (66000, 66000, 66000),
        everywhere=True,
    ),
    Part(
        "smoothness",
        (4, 5, 14),
        (24, 24, 24),
        f"{_ROUNDING}; paths in expectation: {{shift}}",
        (16384, 16384, 16384),
    ),
    Part("loss", (1, 1, 2), (10, 10, 10), "{shift}", (4.2e06, 4.2e06, 1.7e07), everywhere=True),
    Part(
        "asymptotics",
        (1, 8, 120),
        (200, 400, 500),
        "a covariance wrong by {variance}",
        (1024, 4096, 16384),
        everywhere=True,
        estimated=True,
    ),
    Part("convergence", (0, 4, 12), (0, 0, 0), "a rate wrong by 0.05", everywhere=True),
    Part("variance", (0, 5, 20), (50, 50, 50), "a variance wrong by 20%", everywhere=True),
    Part(
        "reductions",
        (0, 14, 200),
        (3000, 3000, 4000),
        "error bars wrong by 20%, a variance larger by half",
        everywhere=True,
        estimated=True,
    ),
    Part(
        "coverage",
        (2, 2, 37),
        (300, 300, 300),
        "a coverage of 86% (paths: 83%) where 95% is claimed",
        everywhere=True,
    ),
    Part(
        "adaptive",
        (0, 5, 22),
        (700, 700, 700),
        "true errors 20% above the tolerance",
        everywhere=True,
    ),
    Part(
        "study",
        (0, 0, 600),
        (200, 200, 200),
        "{shift}",
        (1e06, 1e06, 1e09),
        everywhere=True,
        estimated=True,
    ),
    Part("negative_control", (0, 12, 55), (1500, 1500, 1500), "its mutants"),
    Part("negative_oracles", (0, 22, 90), (5000, 5000, 5000), "its mutants", estimated=True),
    Part("negative_exact", (3, 3, 9), (3000, 3000, 3000), "its mutants"),
    Part("negative_theory", (3, 3, 6), (3500, 3500, 3500), "its mutants"),
    Part("digits", (0, 11, 38), (0, 0, 0), "two points of accuracy", needs=("scikit-learn",)),
)

OWN_ORACLE = Part(
    "own_oracle",
    (10, 30, 300),
    (20000, 20000, 20000),
    "{shift}",
    (260000, 260000, 4.2e06),
    everywhere=True,
    estimated=True,
)
"""Instead of the others, with ``--oracle``."""


def chosen(only: list[str], size: Size) -> list[Part]:
    """The parts that a run of that size has, or those whose names match; ``ValueError`` if none.

    A part that is named runs even where it is not a part of the quick suite.
    """
    if not only:
        return [part for part in PARTS if part.cost(size)]
    unknown = [name for name in only if not any(fnmatch.fnmatch(p.name, name) for p in PARTS)]
    if unknown:
        names = ", ".join(part.name for part in PARTS)
        raise ValueError(f"there is no property {unknown[0]!r}; there are {names}")
    return [part for part in PARTS if any(fnmatch.fnmatch(part.name, name) for name in only)]


def plan(parts: list[Part], size: Size) -> str:
    """What a run will cost and what it can see, as a table of text."""
    lines = [f"{'property':<18}{'seconds':>8}{'z-scores':>10}{'level':>9}  sees, 99 times of 100"]
    for part in parts:
        scores = part.most_scores(size)
        level = f"{scores * LEVEL:.0e}" if scores else "exact"
        lines.append(
            f"{part.name:<18}{part.spelled_cost(size):>8}{scores:>10,}{level:>9}  {part.sees(size)}"
        )
    seconds = sum(part.cost(size) for part in parts)
    total = sum(part.most_scores(size) for part in parts)
    lines.append(
        f"{'in all':<18}{seconds:>8.0f}{total:>10,}{total * LEVEL:>9.0e}  on two cores of CPU, and "
        "about a minute to compile kernels, once"
    )
    if any(part.estimated for part in parts) and size == "full":
        lines.append("~ seconds extrapolated from the default size; all others are measured")
    return "\n".join(lines)
