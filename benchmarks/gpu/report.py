"""What a run found, as Markdown and as a plot; made again after every part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..cuda_bounds import UNFUSED_BYTES, bound
from .counters import instructions_a_coordinate, seconds

Lines = list[dict[str, Any]]
LARGE = "B=128 d=1000 M=1000"
ISSUE_LANES = 128
"""Instructions of one thread each that a multiprocessor issues a clock."""


def of_part(lines: Lines, *parts: str) -> Lines:
    return [line for line in lines if line["part"] in parts]


def timed(lines: Lines) -> Lines:
    return [line for line in lines if "milliseconds" in line]


def rate(line: dict[str, Any], unit: str) -> float:
    """Coordinates or problems a second."""
    return line[unit] / line["milliseconds"] * 1e3


# ------------------------------------------------------------------------------------ the sections


def machine(lines: Lines) -> Iterator[str]:
    for line in of_part(lines, "machine"):
        yield from (f"* {key}: {value}" for key, value in line.items() if key != "part")


def stopped(lines: Lines) -> Iterator[str]:
    """Parts that did not end well."""
    for line in lines:
        if "stopped" in line:
            yield f"* **{line['part']}** {line['stopped']}"


def checks(lines: Lines) -> Iterator[str]:
    results = of_part(lines, "equality")
    results = [line for line in results if "case" in line]
    if results:
        differing = [line["case"] for line in results if not line["counts_equal"]]
        worst = max(results, key=lambda line: line["worst"])
        yield f"* {len(results)} launches beside the CPU's: counts of {len(differing)} differ"
        yield from (f"  * {case}" for case in differing)
        yield f"* the largest relative difference of a sum: {worst['worst']:.1e}, {worst['case']}"
    for line in lines:
        if "said" in line:
            yield f"* {line['part']}: {line['said']}"


def asked(lines: Lines) -> Iterator[str]:
    """The speeds that were asked for, and what was found."""
    rows = {(line["work"], line["contender"]): line for line in timed(lines)}

    def found(work: str, contender: str, unit: str) -> float | None:
        line = rows.get((work, contender))
        return rate(line, unit) if line else None

    def ratio(work: str, contender: str, other: str) -> float | None:
        ours, theirs = rows.get((work, contender)), rows.get((work, other))
        return theirs["milliseconds"] / ours["milliseconds"] if ours and theirs else None

    value, both = f"argmax value {LARGE}", f"argmax value and vjp {LARGE}"
    ranks, grids = "ranks value B=128 d=100 M=1000", "paths 12x12 value B=128 d=144 M=1000"
    wanted: list[tuple[str, float, float | None]] = [
        ("argmax, fast, coordinates a second", 5e11, found(value, "dpo fast", "coordinates")),
        ("argmax, portable", 2e11, found(value, "dpo portable", "coordinates")),
        ("value and VJP, fast over torch eager", 8, ratio(both, "dpo fast", "torch eager")),
        ("value and VJP, fast over torch.compile", 3, ratio(both, "dpo fast", "torch.compile")),
        ("ranks, d = 100, portable over torch", 5, ratio(ranks, "dpo portable", "torch eager")),
        ("12 x 12 paths a second, portable", 2e7, found(grids, "dpo portable", "problems")),
    ]
    by_kernels = seconds([line for line in lines if "nanoseconds" in line])
    for precision, least in (("fast", 5e11), ("portable", 2e11)):
        taken = by_kernels.get(f"{value}, {precision}")
        work = f"argmax, {precision}, kernels alone"
        wanted.append((work, least, 128e6 / taken if taken else None))
    if any(x is not None for _, _, x in wanted):
        yield "| | asked | found |"
        yield "|---|---|---|"
    for what, least, x in wanted:
        if x is not None:
            yield f"| {what} | {least:.3g} | {x:.3g} {'' if x >= least else '(**less**)'} |"


def bounds(lines: Lines) -> Iterator[str]:
    """What this GPU's issue slots and memory allow."""
    for line in of_part(lines, "machine"):
        if line.get("copied_bytes_a_second"):
            unfused = line["copied_bytes_a_second"] / UNFUSED_BYTES
            yield (
                f"* memory is copied at {line['copied_bytes_a_second']:.2e} bytes a second: an "
                f"unfused version cannot pass {unfused:.1e} coordinates a second"
            )
        slots = line.get("multiprocessors", 0) * ISSUE_LANES, line.get("clock_hertz", 0)
        for code in of_part(lines, "code"):
            if all(slots) and "instructions" in code:
                limit = bound(code["instructions"], *slots)
                yield (
                    f"* argmax, {code['noise']} noise, {code['precision']}: "
                    f"{code['instructions']:.1f} instructions, at most {limit:.1e} a second"
                )


def times(lines: Lines) -> Iterator[str]:
    rows = [line for line in lines if "contender" in line]
    if rows:
        yield "| work | contender | ms | coordinates a second | problems a second | MB |"
        yield "|---|---|---|---|---|---|"
    for line in sorted(rows, key=lambda line: line["work"]):
        start = f"| {line['work']} | {line['contender']} "
        if "error" in line:
            yield start + f"| {line['error'][:80]} | | | |"
            continue
        peak = line["peak_bytes"]
        yield start + (
            f"| {line['milliseconds']:.3f} | {rate(line, 'coordinates'):.2e} "
            f"| {rate(line, 'problems'):.2e} | {'' if peak is None else f'{peak / 2**20:.0f}'} |"
        )


def kernels(lines: Lines) -> Iterator[str]:
    """What Nsight Compute counted; of a VJP, which decides first, only what a value has not."""
    found = [line for line in of_part(lines, "kernels") if "nanoseconds" in line]
    of_values = {(line["launch"], line["kernel"]) for line in found}
    rows = [
        line
        for line in found
        if "vjp" not in line["launch"]
        or (line["launch"].replace("vjp", "value"), line["kernel"]) not in of_values
    ]
    if rows:
        yield "| launch | kernel | us | instructions a coordinate | issued | warps | registers |"
        yield "|---|---|---|---|---|---|---|"
    for row in rows:
        yield (
            f"| {row['launch']} | {row['kernel']} | {row['nanoseconds'] / 1e3:.1f} "
            f"| {instructions_a_coordinate(row):.1f} | {row['issue slots used, %']:.0f} % "
            f"| {row['warps active, %']:.0f} % | {row['registers']:.0f} |"
        )


SECTIONS: dict[str, Callable[[Lines], Iterator[str]]] = {
    "Machine": machine,
    "Stopped": stopped,
    "Checks": checks,
    "Asked and found": asked,
    "Bounds": bounds,
    "Times": times,
    "Kernels": kernels,
}


def markdown(lines: Lines) -> str:
    text = ["# On a GPU"]
    for title, section in SECTIONS.items():
        body = list(section(lines))
        if body:
            text += ["", f"## {title}", "", *body]
    return "\n".join(text) + "\n"


def plot(lines: Lines, path: Path) -> None:
    """Bars of coordinates a second, a group for each work that has several contenders."""
    from matplotlib import pyplot as plt

    groups: dict[str, Lines] = {}
    for line in timed(lines):
        groups.setdefault(line["work"], []).append(line)
    groups = {work: group for work, group in groups.items() if len(group) > 1}
    if not groups:
        return
    height = 0.6 + 0.22 * sum(map(len, groups.values())) + 0.4 * len(groups)
    figure, axes = plt.subplots(
        len(groups), 1, figsize=(7, height), sharex=True, squeeze=False,
        height_ratios=list(map(len, groups.values())),
    )  # fmt: skip
    for axis, (work, group) in zip(axes[:, 0], groups.items(), strict=True):
        axis.barh([line["contender"] for line in group], [rate(x, "coordinates") for x in group])
        axis.set_title(work, fontsize=8)
        axis.set_xscale("log")
        axis.tick_params(labelsize=7)
    axes[-1, 0].set_xlabel("perturbed coordinates a second")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
