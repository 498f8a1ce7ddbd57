"""Draw docs/idea.svg: a step, smoothed by noise, and the gradient that appears.

python examples/picture_of_the_idea.py [OUTPUT.svg]
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np

import dpo

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # after the backend is chosen

GRAY = "#808080"  # readable on light and on dark pages


def draw(path: Path) -> None:
    """Probability and slope of the first of two coordinates, as its score passes the other's."""
    scores = np.linspace(-3, 3, 241)
    theta = np.stack([scores, np.zeros_like(scores)], axis=-1)
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "dpo", "font.size": 10})
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 2.9), layout="constrained")
    left.step(scores, scores > 0, color=GRAY, lw=1.2, label="argmax: no gradient", where="mid")
    for epsilon, color in ((0.25, "#0072b2"), (0.5, "#009e73"), (1.0, "#d55e00")):
        layer = dpo.Perturbed(dpo.Argmax(), noise="normal", epsilon=epsilon, num_samples=100_000)
        value, slope = layer(theta, seed=0)[:, 0], layer.vjp(theta, [1.0, 0.0], seed=0)[:, 0]
        left.plot(scores, value, color=color, lw=1.8, label=f"perturbed, ε = {epsilon}")
        right.plot(scores, slope, color=color, lw=1.8)
    left.set_ylabel("E[ y*(θ + εZ) ]₁")
    right.set_ylabel("∂ E[ y*(θ + εZ) ]₁ / ∂θ₁")
    left.legend(frameon=False, labelcolor=GRAY, fontsize=8.5, loc="upper left")
    for axes in (left, right):
        axes.set_xlabel("θ₁ − θ₂")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=GRAY)
        for part in (axes.xaxis.label, axes.yaxis.label, *axes.spines.values()):
            part.set_color(GRAY)
    figure.savefig(path, transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    default = Path(__file__).parents[1] / "docs" / "idea.svg"
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
