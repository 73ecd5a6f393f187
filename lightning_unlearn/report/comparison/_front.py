from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_unlearn.functional.text import visible
from lightning_unlearn.report.comparison._compare import Comparison
from lightning_unlearn.report.render._palette import LIGHT


def draw_front(comparison: Comparison, path: Path) -> None:
    """What each model keeps against what an adversary brings back, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    draw_points(axes, comparison)
    axes.set_title("Right and low is better; dots are not beaten in both", fontsize=10, loc="left")
    figure.savefig(path, format="png", dpi=150)


def draw_points(axes: Any, comparison: Comparison) -> None:
    """One point for each model whose numbers are verdicts."""
    for row in comparison.rows:
        if row.worst is None or row.kept is None:
            continue
        colour = LIGHT["student" if row.on_front else "grey"]
        x, y = 100 * row.kept, 100 * row.worst.value
        if row.worst.low is not None and row.worst.high is not None:
            axes.vlines(x, 100 * row.worst.low, 100 * row.worst.high, color=colour)
        axes.plot(x, y, "o" if row.on_front else "x", color=colour)
        words = visible(row.name).replace("$", r"\$")
        axes.annotate(words, (x, y), xytext=(6, 4), textcoords="offset points", fontsize=9)
    axes.set_xlabel("kept: retain utility, % of the original's")
    axes.set_ylabel("brought back by the worst attack, %")
    axes.grid(alpha=0.3)
