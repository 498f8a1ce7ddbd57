"""What ``check_oracle`` found out: a verdict a line, and which guarantees follow."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import NamedTuple

PASS, NOTE, FAIL, SKIP = "ok", "note", "FAIL", "-"
"""Verdicts: nothing against it, a known departure, refuted, and not looked at."""


@dataclass(frozen=True)
class Check:
    """One property of a solver."""

    name: str
    verdict: str
    """``"ok"``, ``"note"`` (a documented departure), ``"FAIL"`` or ``"-"`` (not looked at)."""
    message: str


@dataclass(frozen=True)
class Guarantee:
    """A theorem about perturbed optimizers, and whether the solver satisfies its conditions."""

    name: str
    holds: bool | None
    """None where a condition was not looked at."""
    message: str


class _Theorem(NamedTuple):
    statement: str
    needs: tuple[str, ...]
    """Names of the checks that are its conditions."""
    otherwise: str
    """What to use where it does not hold."""
    but_for_notes: bool = True
    """Whether it holds beside a noted departure, where that does not occur."""


_SOUND = ("output", "memory", "history", "batch")
_MAXIMISER = (*_SOUND, "deterministic", "scores", "maximises", "negative", "size")

_THEOREMS = {
    "value": _Theorem(
        "layer(theta) is unbiased for E[y*(theta + eps Z)]",
        _SOUND,
        "samples must be solutions of their own scores alone: repair the solver, or pass a copy to "
        "it and to the caller",
    ),
    "gradient": _Theorem(
        "its VJP, JVP and Jacobian are unbiased, for any function of the scores",
        _SOUND,
        "as for the value",
    ),
    "reproducible": _Theorem(
        "the same seed gives the same result",
        (*_SOUND, "deterministic", "ties"),
        "let the solver seed its own randomness from nothing but the scores; break ties by index",
    ),
    "maximum": _Theorem(
        "the gradient of layer.max is layer(theta)",
        _MAXIMISER,
        "differentiate layer(theta), whose gradient needs no maximiser, and compute the objective "
        "from it",
    ),
    "loss": _Theorem(
        "the Fenchel-Young loss is convex, non-negative, and has the gradient layer(theta) - y",
        _MAXIMISER,
        "use a loss of layer(theta), such as the mean squared error",
    ),
    "symmetric": _Theorem(
        "the Jacobian is symmetric and positive semidefinite: a VJP is a JVP",
        _MAXIMISER,
        "call vjp and jvp for what they are; both are right",
    ),
    "temperature": _Theorem(
        "d y_eps / d eps = -(1 / eps) J theta, by homogeneity",
        (*_SOUND, "deterministic", "scale"),
        "weigh solutions by s(z) z - 1, which is right for any function (the library does so but "
        "for Argmax, TopK and Ranks)",
        but_for_notes=False,
    ),
}


def guarantees(checks: dict[str, Check]) -> tuple[Guarantee, ...]:
    """Which theorems apply to a solver with those checks."""
    return tuple(_guarantee(name, theorem, checks) for name, theorem in _THEOREMS.items())


def _guarantee(name: str, theorem: _Theorem, checks: dict[str, Check]) -> Guarantee:
    fatal = (FAIL,) if theorem.but_for_notes else (FAIL, NOTE)
    failed = [c for c in theorem.needs if checks[c].verdict in fatal]
    if failed:
        reason = f"not guaranteed ({', '.join(failed)}): {theorem.otherwise}"
        return Guarantee(name, False, reason)
    unknown = [c for c in theorem.needs if checks[c].verdict == SKIP]
    if unknown:
        return Guarantee(name, None, f"not known ({', '.join(unknown)})")
    noted = [c for c in theorem.needs if checks[c].verdict == NOTE]
    limits = f", but for what is noted ({', '.join(noted)})" if noted else ""
    return Guarantee(name, True, theorem.statement + limits)


def _line(mark: str, name: str, message: str) -> str:
    first, rest = f"  {mark:<6}{name:<14}", " " * 22
    return textwrap.fill(message, 100, initial_indent=first, subsequent_indent=rest)


@dataclass(frozen=True, repr=False)
class OracleReport:
    """What ``dpo.check_oracle`` found out about a solver. Print it, or test ``report.ok``."""

    title: str
    checks: dict[str, Check]
    """By name, in the order in which they were made."""
    guarantees: tuple[Guarantee, ...]

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that the solver failed."""
        return tuple(c for c in self.checks.values() if c.verdict == FAIL)

    @property
    def ok(self) -> bool:
        """Whether nothing was found against the solver."""
        return not self.failures

    def raise_for_failures(self) -> None:
        """Raise a ``ValueError`` that names every fault, if there is one."""
        if not self.ok:
            faults = "; ".join(f"{c.name}: {c.message}" for c in self.failures)
            raise ValueError(f"{self.title} is not what the theory needs: {faults}")

    def __str__(self) -> str:
        marks = {True: "holds", False: "FAILS", None: SKIP}
        checks = [_line(c.verdict, c.name, c.message) for c in self.checks.values()]
        theorems = [_line(marks[g.holds], g.name, g.message) for g in self.guarantees]
        return "\n".join([self.title, *checks, "", *theorems])

    __repr__ = __str__
