from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from robustness_parts._method import passes

Runs = list[dict[str, Any]]


def complete(results: Mapping[str, Any]) -> dict[str, Runs]:
    """The runs of the methods that have some without an error, the best first."""
    found = {name: [run for run in one["runs"] if "error" not in run] for name, one in results["methods"].items()}
    found = {name: runs for name, runs in found.items() if runs}
    return dict(sorted(found.items(), key=lambda item: mean(item[1], lambda run: run["worst"]["100"]["recovery"])))


def table(results: Mapping[str, Any]) -> str:
    """One row a method: mean over seeds, smallest and largest in brackets; passes are those of a step.

    Beside a recovery, which is a share of what was forgotten, stands what the answers' probability is then.
    """
    head = [
        "method",
        "worst, 20 steps",
        "worst, 100 steps",
        "95 % interval",
        "by",
        "answers then",
        "the control's",
        "retain kept",
        "forget",
        "KL",
        "rate",
    ]
    lines = ["| " + " | ".join([*head, "steps", "passes"]) + " |", "|---" * (len(head) + 2) + "|"]
    for name, runs in complete(results).items():
        ends = results["methods"][name]["interval"]["100"]
        cells = [
            name,
            span(runs, lambda run: run["worst"]["20"]["recovery"], 2),
            span(runs, lambda run: run["worst"]["100"]["recovery"], 2),
            f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else "-",
            "; ".join(dict.fromkeys(run["worst"]["100"]["judge"].removeprefix("relearn ") for run in runs)),
            span(runs, lambda run: run["worst"]["100"]["attacked"]["unlearned"], 2),
            span(runs, lambda run: run["worst"]["100"]["attacked"]["control"], 2),
            span(runs, lambda run: run["kept"], 3),
            span(runs, lambda run: run["forget"], 3),
            span(runs, lambda run: run["disruption"], 2),
            f"{runs[0]['rate']:g}",
            span(runs, lambda run: run["steps"], 0),
            _short(passes(results["methods"][name]["description"])),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *left_out(results)])


def _short(number: float | None) -> str:
    return "-" if number is None else f"{number:.1f}".removesuffix(".0")


def left_out(results: Mapping[str, Any]) -> list[str]:
    """What is not in the table, and why."""
    first = {name: one["runs"][0] for name, one in results["methods"].items() if one["runs"]}
    failed = {name: run["error"] for name, run in first.items() if "error" in run}
    return [f"Not run: {name} ({reason})." for name, reason in {**results["skipped"], **failed}.items()]


Read = Callable[[dict[str, Any]], float | None]


def values_of(runs: Runs, read: Read) -> list[float]:
    """Of the seeds that have one: where nothing was forgotten, nothing can come back."""
    return [value for run in runs if (value := read(run)) is not None]


def mean(runs: Runs, read: Read) -> float:
    """Over the seeds; infinite if none has a value."""
    return float(np.mean(values_of(runs, read) or [np.inf]))


def span(runs: Runs, read: Read, digits: int) -> str:
    """Mean, smallest and largest."""
    values = values_of(runs, read)
    if not values:
        return "-"
    around = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
    some = f", {len(values)} of {len(runs)} seeds" if len(values) < len(runs) else ""
    return f"{np.mean(values):.{digits}f}{around}{some}"


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Recovery after the worst attack against what was spent, one point a method, with its range over seeds."""
    import matplotlib.pyplot as plt

    height = max(5.5, 0.22 * len(complete(results)))  # the legend has a line for each
    figure, axes = plt.subplots(1, 2, figsize=(14, height), sharey=True, layout="constrained")
    for axis, most in zip(axes, ("20", "100"), strict=True):
        axis.axhline(0, color="0.8", lw=1, zorder=0)
        for number, (name, runs) in enumerate(complete(results).items(), start=1):
            recoveries = values_of(runs, lambda run, most=most: run["worst"][most]["recovery"])  # type: ignore[misc]
            if not recoveries:
                continue
            spent, recovery = mean(runs, lambda run: run["disruption"]), float(np.mean(recoveries))
            around = [[recovery - min(recoveries)], [max(recoveries) - recovery]]
            keeps = mean(runs, lambda run: run["kept"]) >= 0.95
            axis.errorbar(
                spent,
                recovery,
                around,
                fmt="o",
                ms=6,
                lw=1,
                color=f"C{number % 10}",
                mfc=None if keeps else "white",
                label=f"{number} {name}",
            )
            axis.annotate(str(number), (spent, recovery), xytext=(5, 4), textcoords="offset points", fontsize=8)
        axis.axvline(results["numbers"]["kl"], color="0.6", lw=1, ls="--")
        axis.set_title(f"up to {most} steps")
    figure.supxlabel("disruption: KL on neutral text, nats a token (dashed: the budget)", fontsize=10)
    axes[0].set_ylabel("recovery after the worst attack, beyond the control")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    figure.suptitle(
        f"Which forgetting stays? {results['setting']}, filled: keeps 0.95 of the retain probability", fontsize=11
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)
