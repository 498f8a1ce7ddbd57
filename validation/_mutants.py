"""Wrong estimators and the tables of what rejects them, shared by the negative controls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ._estimators import REDUCTIONS, Case, Draw, Plan, from_library
from ._problems import ORACLES
from ._results import Check, Table

Ratios = dict[str, float]
"""By test, the largest statistic over its threshold: above 1 the test rejects."""


class Mutant(NamedTuple):
    """A mistake and the tests that must notice it; none, if it is the library itself."""

    name: str
    make: Callable
    """What the tests are given instead of the library: a ``Draw``, say."""
    caught_by: tuple[str, ...] = ()
    subject: str = ""
    """Which oracle, say, is mistaken, where a table holds several."""

    @property
    def label(self) -> str:
        """The subject as a table writes it."""
        names = {**ORACLES, **REDUCTIONS}
        return names[self.subject].lower() if self.subject in names else self.subject


def unchanged(make: Callable, subject: str = "") -> Mutant:
    """The control: the library itself."""
    return Mutant("the library itself", make, (), subject)


def verdict(mutant: Mutant, ratios: Ratios, kind: str) -> Check:
    """A mutant must trip all its tests, the unchanged library none."""
    subject = f" ({mutant.label})" if mutant.subject else ""
    if not mutant.caught_by:
        statement = (
            f"the unchanged {kind} passes every test of the matrix: largest statistic / threshold"
        )
        name = f"Control: unchanged {kind}{subject}"
        return Check(name, statement, max(ratios.values()), 1.0, scores=500)
    weakest = min(ratios[name] for name in mutant.caught_by)
    statement = f"is rejected by: {', '.join(mutant.caught_by)}; smallest statistic / threshold"
    name = f"Mutant {kind}{subject}: {mutant.name}"
    return Check(name, statement, weakest, 1.0, relation=">")


def matrix(title: str, results: dict[Mutant, Ratios]) -> Table:
    """Which mistake trips which test; empty where a test is not for that subject."""
    names = tuple(dict.fromkeys(name for ratios in results.values() for name in ratios))
    rows = []
    for mutant, ratios in results.items():
        cells = (_cell(ratios[name]) if name in ratios else "" for name in names)
        rows.append((f"{mutant.label}: {mutant.name}".removeprefix(": "), *cells))
    caption = f"{title}: ✗ rejected, – not rejected; largest statistic over its threshold"
    return Table(caption, ("mistake", *names), tuple(rows))


def _cell(ratio: float) -> str:
    if ratio > 1:
        return f"✗ {ratio:.1f}" if ratio < 1e5 else f"✗ {ratio:.0e}".replace("+", "")
    return f"– {max(ratio, 0):.2f}"  # one-sided scores may be negative


# ------------------------------------------------------------------------------ mistakes as draws


def rescaled(factor: Callable[[Case, Plan], float | np.ndarray], *outputs: str) -> Draw:
    """Some of the outputs, and their errors, times a wrong factor."""

    def draw(case: Case, plan: Plan):
        estimates, errors = from_library(case, plan)
        scale = factor(case, plan) if plan.of in outputs else 1.0
        return estimates * scale, errors * np.abs(scale)

    return draw


def replaced(change: Callable[[Case], dict]) -> Draw:
    """The library on another case: another solver, other temperatures."""

    def draw(case: Case, plan: Plan):
        return from_library(dataclasses.replace(case, **change(case)), plan)

    return draw


def shared_noise(case: Case, plan: Plan):
    """All batch rows see the same noise."""
    estimates, errors = from_library(case, dataclasses.replace(plan, replicates=2))
    return tuple(np.repeat(a[:1], plan.replicates, axis=0) for a in (estimates, errors))
