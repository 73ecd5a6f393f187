from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from robustness_parts._shown import left_out, mean, span

Runs = list[dict[str, Any]]
TITLES = {"forget": "forget", "kept": "retain kept", "lead": "attacker's lead"}
GOOD = {"forget": -1, "kept": 1, "lead": -1}
ENDS = "low", "high"
GAINS = {"forget": "forgets more", "kept": "keeps more", "lead": "gives back less"}
LOSSES = {"forget": "forgets less", "kept": "keeps less", "lead": "gives back more"}


def shown(results: Mapping[str, Any]) -> str:
    """The table, the differences from the controls, and what they say."""
    return "\n".join([*_table(results), "", *_differences(results), "", *verdict(results), *left_out(results)])


def complete(results: Mapping[str, Any]) -> dict[str, Runs]:
    """The runs of each selector that have no error, in the order of the file."""
    found = {name: [run for run in one["runs"] if "error" not in run] for name, one in results["methods"].items()}
    return {name: runs for name, runs in found.items() if runs}


def _table(results: Mapping[str, Any]) -> Iterator[str]:
    """Mean over the seeds, smallest and largest in brackets."""
    head = ["trained", "share", "forget", "retain kept", "KL", "attacker's lead", "by", "rate", "steps", "seeds"]
    yield from _head(head)
    for who in ("original", "control"):
        levels = [of[who] for of in results["originals"].values()]
        kept = [of["control"]["retain"] / of["original"]["retain"] for of in results["originals"].values()]
        told = "1" if who == "original" else f"{np.mean(kept):.3f}"
        yield _row(
            [f"*{who}*", "", f"{np.mean([of['forget'] for of in levels]):.3f}", told, *[""] * 5, f"{len(levels)}"]
        )
    for name, runs in complete(results).items():
        yield _row(
            [
                name,
                f"{mean(runs, lambda run: run['trained']):.1%}",
                span(runs, lambda run: run["forget"], 3),
                span(runs, lambda run: run["kept"], 3),
                span(runs, lambda run: run["disruption"], 2),
                span(runs, lambda run: run["lead"], 3),
                "; ".join(dict.fromkeys(run["judge"].split(" 0.001")[0] for run in runs)),
                f"{runs[0]['rate']:g}",
                span(runs, lambda run: run["steps"], 0),
                f"{len(runs)}",
            ]
        )


def _differences(results: Mapping[str, Any]) -> Iterator[str]:
    """With 95 % intervals, and how many pairs of seed and entity agree."""
    yield from _head(["less its control", *TITLES.values(), "forgets more in", "keeps more in"])
    for name, one in _compared(results).items():
        cells = [_told(one["differences"][measure]) for measure in TITLES]
        forget, retain = (np.array(one["entities"][side]) for side in ("forget", "retain"))
        pairs = [f"{(forget < 0).sum()} of {len(forget)}", f"{(retain > 0).sum()} of {len(retain)}"]
        yield _row([f"{name} - {one['against']}", *cells, *pairs])


def verdict(results: Mapping[str, Any]) -> list[str]:
    """Which selectors beat their control, in sentences: where intervals exclude zero."""
    compared = _compared(results)
    ahead = {name: _words(one, GAINS) for name, one in compared.items()}
    behind = {name: _words(one, LOSSES, sign=-1) for name, one in compared.items()}
    told: dict[str, list[str]] = {
        "Better than random choice, and in nothing worse": [],
        "Better in one thing, worse in another": [],
        "Worse than random choice": [],
        "Not told apart from random choice": [],
    }
    better, mixed, worse, equal = told.values()
    for name in compared:
        words = ", ".join([*ahead[name], *behind[name]])
        chosen = (mixed if behind[name] else better) if ahead[name] else (worse if behind[name] else equal)
        chosen.append(f"{name} ({words})" if words else name)
    said = [f"{what}: {'; '.join(names)}." for what, names in told.items() if names]
    return said if better or not compared else ["**No selector beats random choice here.**", *said]


def _words(one: Mapping[str, Any], words: Mapping[str, str], sign: int = 1) -> list[str]:
    """Those of ``words`` whose measure is surely on that side of the control's."""
    sides = {measure: sign * GOOD[measure] for measure in words}
    found = one["differences"]
    return [word for measure, word in words.items() if min(sides[measure] * found[measure][end] for end in ENDS) > 0]


def _compared(results: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one for name, one in results["methods"].items() if len(one.get("differences", {})) == len(TITLES)}


def _told(one: Mapping[str, float]) -> str:
    return f"{one['value']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})"


def _head(titles: list[str]) -> list[str]:
    return [_row(titles), "|---" * len(titles) + "|"]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def draw(results: Mapping[str, Any], path: Path) -> None:
    """What is still known of what must go against what is kept, with the range over seeds; controls are squares."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12, 5.5), sharex=True, layout="constrained")
    titles = {
        "forget": "probability of what must go",
        "lead": "attacker's lead, in probability",
    }
    for axis, (measure, title) in zip(axes, titles.items(), strict=True):
        for number, (name, runs) in enumerate(complete(results).items(), start=1):
            values = [run[measure] for run in runs]
            x, y = mean(runs, lambda run: run["kept"]), float(np.mean(values))
            fmt = "s" if name.startswith(("Random", "all")) else "o"
            around = [[y - min(values)], [max(values) - y]]
            axis.errorbar(x, y, around, fmt=fmt, ms=6, lw=1, color=f"C{number % 10}", label=f"{number} {name}")
            axis.annotate(str(number), (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8)
        axis.axvline(0.95, color="0.6", lw=1, ls="--")
        axis.set(xlabel="retain kept (dashed: what a rate is chosen to keep)", ylabel=title)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    figure.suptitle(f"Which weights? {results['setting']}; squares: all weights, and random choice", fontsize=11)
    figure.savefig(path, dpi=130)
    plt.close(figure)
