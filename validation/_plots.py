"""Plots as inline SVG that follow the page: text and axes take the page's own text colour."""

from __future__ import annotations

import html
import importlib.util
import io
import re
import zlib
from typing import Any

import numpy as np
from scipy import stats

# Blue, vermilion, green, purple, ochre, rose; markers and line styles tell them apart as well.
COLOURS = ("#3d93cf", "#dd6b20", "#1fa37a", "#b978c9", "#c9a227", "#c0506a")
GREY = "#8a8f98"
MARKERS = ("o", "s", "^", "D", "v", "P")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))

_INK = "#010203"  # replaced by currentColor: the page decides, in light and in dark mode


class _Nothing:
    """A figure, or axes, where there is no matplotlib: takes every call and draws nothing."""

    def __getattr__(self, name: str):
        return lambda *args, **keywords: self


def missing() -> str:
    """Why there are no plots; empty if there are."""
    if importlib.util.find_spec("matplotlib"):
        return ""
    return "matplotlib is not installed: pip install 'perturbed-optimizers[validation]'"


def axes(title: str, xlabel: str, ylabel: str, size: tuple[float, float] = (4.0, 2.9)):
    """A figure of one panel and its axes; matplotlib is imported here and only here."""
    if missing():
        return _Nothing(), _Nothing()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    style: dict[Any, Any] = {
        "axes.edgecolor": _INK, "axes.labelcolor": _INK, "axes.titlecolor": _INK,
        "text.color": _INK, "xtick.color": _INK, "ytick.color": _INK,
        "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7,
        "axes.titlesize": 10, "axes.titlelocation": "left", "axes.labelsize": 9,
        "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.fontsize": 8, "legend.frameon": False,
        "lines.linewidth": 1.3, "lines.markersize": 4, "svg.hashsalt": "dpo",
        "svg.fonttype": "path",
    }  # fmt: skip
    plt.rcParams.update(style)
    figure, panel = plt.subplots(figsize=size, layout="constrained")
    panel.set(title=title, xlabel=xlabel, ylabel=ylabel)
    panel.grid(color=GREY, alpha=0.25, linewidth=0.5)
    panel.set_axisbelow(True)
    return figure, panel


def quantiles(groups: dict[str, Any], title: str) -> str:
    """Scores, by group, against the quantiles of the normal distribution they should follow."""
    figure, ax = axes(title, "normal quantile", "z-score", (4.0, 3.4))
    ax.plot([-4.5, 4.5], [-4.5, 4.5], color=GREY, lw=0.9)
    for k, (name, scores) in enumerate(groups.items()):
        z = np.sort(scores)
        quantile = stats.norm.ppf((np.arange(z.size) + 0.5) / z.size)
        middle = np.linspace(0, z.size - 1, 150).astype(int)
        ends = np.r_[: min(40, z.size), max(0, z.size - 40) : z.size]
        keep = np.unique(np.concatenate([middle, ends]))  # thinned where points overlap anyway
        ax.plot(
            quantile[keep], z[keep], MARKERS[k], color=COLOURS[k],
            ms=2.6, mew=0, alpha=0.8, label=name,
        )  # fmt: skip
    ax.legend(loc="upper left", markerscale=2)
    return as_svg(figure, f"{title}: normal quantile plot")


def as_svg(figure, label: str) -> str:
    """The figure as an ``<svg>`` element with a text alternative, transparent, ids its own.

    Empty where there is no matplotlib.
    """
    if isinstance(figure, _Nothing):
        return ""
    from matplotlib import pyplot as plt

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Several drawings share the page: what each one defines gets a name of its own.
    own = f"p{zlib.crc32(svg.encode()):08x}-"
    svg = re.sub(r'\bid="', f'id="{own}', svg)
    svg = re.sub(r"(url\(#|href=\"#)", rf"\1{own}", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)
