from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tofu_parts._measures import BUDGETS, TITLES

Found = Mapping[str, Any]
DASH, GATED = "-", "gated"
COMPARED = ("distance", "ks", "retain", "utility", "recovery 20", "recovery 100")


def table(results: Found) -> str:
    """One row a network: methods by their distance to the retain model, then controls."""
    head = [
        "network",
        "forget quality",
        "distance",
        "KS",
        "retain",
        "utility",
        *(f"recovery, {n} steps" for n in BUDGETS),
    ]
    head += ["by", "membership", "extraction", "forget", "KL", "rate", "steps", "fit, s", "a step, s", "GiB"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join(_row(name, of)) + " |" for name, of in ordered(results).items()]
    return "\n".join([*lines, "", *beside(results)])


def ordered(results: Found) -> dict[str, Found]:
    """Those that have been judged: methods first, the nearest to the retain model before others."""
    judged = {name: of for name, of in results["networks"].items() if of["runs"]}
    return dict(sorted(judged.items(), key=lambda one: (one[1]["control"], _distance(one[1]))))


def _distance(of: Found) -> float:
    found = of["intervals"]["distance"][0]
    return math.inf if found is None else float(found)


def _row(name: str, of: Found) -> list[str]:
    runs, cost = of["runs"], of["cost"] or {}
    marks = " (destroyed)" if of["destroyed"] else ""
    by = dict.fromkeys(run["worst"]["100"]["judge"] for run in runs if run["worst"]["100"])
    qualities = [run["tofu"]["forget_quality"] for run in runs]
    return [
        name + marks,
        f"{np.median(qualities):.2g} ({min(qualities):.2g} to {max(qualities):.2g})",
        *(_around(of, measure) for measure in ("distance", "ks", "retain", "utility")),
        *(GATED if of["destroyed"] else _around(of, f"recovery {most}") for most in BUDGETS),
        DASH if of["destroyed"] else "; ".join(by) or DASH,
        *(_around(of, measure) for measure in ("membership", "extraction", "forget probability")),
        *(_mean(runs, key, form) for key, form in (("disruption", ".3f"), ("rate", "g"), ("steps", ".0f"))),
        _range(runs, "fit_s", ".0f"),
        *(DASH if cost.get(name) is None else f"{cost[name]:.1f}" for name in ("step_s", "peak_gib")),
    ]


def _around(of: Found, measure: str) -> str:
    value, low, high = of["intervals"].get(measure, [None, None, None])
    return DASH if value is None else f"{value:.2f} ({low:.2f} to {high:.2f})"


def _mean(runs: Sequence[Found], key: str, form: str) -> str:
    values = [run[key] for run in runs if run.get(key) is not None]
    return f"{np.mean(values):{form}}" if values else DASH


def _range(runs: Sequence[Found], key: str, form: str) -> str:
    values = [run[key] for run in runs if run.get(key) is not None]
    ends = sorted({f"{end:{form}}" for end in (min(values), max(values))}, key=float) if values else [DASH]
    return " to ".join(ends)


def beside(results: Found) -> list[str]:
    """What is not in the table: how to read it, differences, claims, and what failed."""
    numbers = results["numbers"]
    pair = results["best two"]
    said = [
        f"In brackets the 95 % interval over seeds and facts ({numbers['draws']} draws); of forget quality, the median and "
        f"the smallest and largest over seeds. Recovery is {DASH} where less than {numbers['recovery needs']:.0%} of what "
        f"was taught had gone. Destroyed: less than {numbers['destroyed below']:.0%} of the original's retain probability "
        f"is left; what comes back of such a network is {GATED}, and it is compared with no other. Judge and point of a "
        "recovery are held fixed in the draws. A fit's time is the least and the most over seeds, beside what else ran; a "
        "step and its memory are of a process that did nothing else, when nothing else ran.",
        *([f"Best two: {' and '.join(pair)}."] if pair else []),
        "",
        f"Processes worked {sum(results['hours'].values()):.1f} hours, beside what else ran: {_hours(results['hours'])}.",
        "",
        "Which differences from NPO have a 95 % interval, paired by seed and fact, that excludes zero:",
        "",
        *(line for measure in COMPARED if (line := _compared(results, measure))),
        "",
        "Published claims, and what was found here:",
        "",
        *(_claim(claim) for claim in results["claims"]),
    ]
    failed = {name: of["failed"] for name, of in results["networks"].items() if of["failed"]}
    left_out = {
        **results["skipped"],
        **{name: "; ".join(f"{k}: {v}" for k, v in of.items()) for name, of in failed.items()},
    }
    return [*said, *(f"\nNot run: {name} ({reason})." for name, reason in left_out.items())]


def _hours(hours: Mapping[str, float]) -> str:
    return ", ".join(f"{kind} {of:.1f}" for kind, of in sorted(hours.items(), key=lambda one: -one[1]) if of >= 0.05)


def _compared(results: Found, measure: str) -> str:
    found = results["differences"].get(measure, [])
    if not found:
        return ""
    beyond = [each for each in found if each["low"] > 0 or each["high"] < 0]
    with_npo = [_turned(each) for each in found if "NPO" in (each["one"], each["other"])]
    below = [_told(each) for each in with_npo if each["high"] < 0]
    above = [_told(each) for each in with_npo if each["low"] > 0]
    undecided = len(with_npo) - len(below) - len(above)
    return (
        f"- {TITLES[measure]}: below, {'; '.join(below) or 'none'}. Above, {'; '.join(above) or 'none'}. No difference "
        f"shown: {undecided} of {len(with_npo)}. Of all {len(found)} pairs {len(beyond)} exclude zero (about "
        f"{0.05 * len(found):.0f} would by chance)."
    )


def _turned(each: Found) -> Found:
    """Somebody's difference from NPO, not NPO's from somebody."""
    if each["other"] == "NPO":
        return each
    return {"one": each["other"], "value": -each["value"], "low": -each["high"], "high": -each["low"]}


def _told(each: Found) -> str:
    return f"{each['one']} {each['value']:+.2f} ({each['low']:+.2f} to {each['high']:+.2f})"


def _claim(claim: Found) -> str:
    if "above" in claim:
        why = f"above {len(claim['above'])}, below {len(claim['below'])} methods"
    else:
        why = "; ".join(
            f"{each['one']} - {_share(each['share'])}{each['other']} = {each['value']:+.2f} "
            f"({each['low']:+.2f} to {each['high']:+.2f})"
            for each in claim["differences"]
        )
    title = TITLES[claim["measure"]]
    return (
        f"- **{claim['verdict']}**: {claim['claim']} ({claim['source']}). {title[0].upper()}{title[1:]}: {why or DASH}."
    )


def _share(share: float) -> str:
    return "" if share == 1 else f"{share:g} x "


def draw(results: Found, path: Path) -> None:
    """The front: how near to the retain model, and what comes back, against the retain probability that is left."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(13, 5.5), sharex=True, layout="constrained")
    networks = ordered(results)
    for axis, measure in zip(axes, ("distance", "recovery 100"), strict=True):
        left_out = []
        for number, (name, of) in enumerate(networks.items(), start=1):
            x, y = of["intervals"].get("retain", [None]), of["intervals"].get(measure, [None])
            if x[0] is None or y[0] is None or of["destroyed"]:
                left_out.append(f"{number} {name}")
                continue
            axis.errorbar(
                x[0],
                y[0],
                xerr=_bars(x),
                yerr=_bars(y),
                fmt="s" if of["control"] else "o",
                color="0.4" if of["control"] else f"C{number % 10}",
                ms=6,
                lw=0.8,
                label=f"{number} {name}",
            )
            axis.annotate(str(number), (x[0], y[0]), xytext=(5, 4), textcoords="offset points", fontsize=8)
        points = front(networks, measure)
        axis.plot([x for x, _ in points], [y for _, y in points], color="0.6", lw=1, ls="--", zorder=0)
        axis.set(xlabel=f"{TITLES['retain']} (right is better)", ylabel=f"{TITLES[measure]} (down is better)")
        if left_out:
            axis.set_title(f"Not drawn (destroyed, or too little had gone):\n{', '.join(left_out)}", fontsize=8)
        axis.axhline(0, color="0.8", lw=1, zorder=0)
    axes[0].set_yscale("symlog", linthresh=1.0)  # two overshoot
    axes[0].set_ylim(bottom=-0.2)
    labels = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    figure.legend(labels.values(), labels.keys(), loc="outside right upper", fontsize=8, frameon=False)
    figure.suptitle(
        f"{results['setting']}: mean and 95 % interval; squares: controls; dashed: the front of methods", fontsize=11
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)


def front(networks: Mapping[str, Found], measure: str) -> list[tuple[float, float]]:
    """Retain probability and measure of the methods that no other one betters in both, from right to left."""
    methods = [of["intervals"] for of in networks.values() if not of["control"] and not of["destroyed"]]
    points = [(of["retain"][0], of[measure][0]) for of in methods if None not in (of["retain"][0], of[measure][0])]
    found: list[tuple[float, float]] = []
    for retain, value in sorted(points, key=lambda point: (-point[0], point[1])):
        if not found or value < found[-1][1]:
            found.append((retain, value))
    return found


def _bars(three: Sequence[float]) -> list[list[float]]:
    value, low, high = three
    return [[max(0.0, value - low)], [max(0.0, high - value)]]
