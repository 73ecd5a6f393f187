from __future__ import annotations

from pathlib import Path
from typing import Any

from scaling_parts._axes import WITHOUT
from scaling_parts._fit import last_slope, slope
from scaling_parts._paper import FORMULA

HEADER = ["grows", "way", "from, to", "time", "at the end", "memory", "work", "at the end", "faster than its work"]
MARGIN = 0.1  # of an exponent at the end: what two medians of a busy machine may differ by


def shown(found: dict[str, Any]) -> str:
    """Exponents, traffic and estimates, as tables."""
    rows = [
        row for axis, ways in found["axes"].items() for way, points in ways.items() if (row := _row(axis, way, points))
    ]
    parts = [_table(HEADER, rows)]
    if found["traffic"]:
        parts.append(
            _table(["", "processes", "bytes a step", "over the gradients", "calls"], _traffic(found["traffic"]))
        )
    parts += [_table(["", "plain", "ours", "guard rank 1", "guard rank 8"], _estimates(found["estimates"]))]
    return "\n\n".join([*parts, f"```text\n{FORMULA.strip()}\n```"])


def curves(axis: str, points: dict[str, dict[str, float]]) -> tuple[list[int], dict[str, list[float]]]:
    """Sizes, and what was measured of each, less what is there without any of it."""
    sizes = sorted(int(v) for v in points if v != "0")
    floor = points.get("0", {}) if axis in WITHOUT else {}
    keys = [key for key in ("seconds", "gigabytes", "flops") if key in points[str(sizes[0])]]
    return sizes, {key: [points[str(v)][key] - floor.get(key, 0) for v in sizes] for key in keys}


def _row(axis: str, way: str, points: dict[str, dict[str, float]]) -> list[str]:
    sizes, values = curves(axis, points)
    if axis == "directions":
        values["flops"] = [float(v) for v in sizes]  # gradients read, each of them twice
    ends = {key: last_slope(sizes, values[key]) for key in values}
    faster = ends["seconds"] is not None and ends["flops"] is not None and ends["seconds"] > ends["flops"] + MARGIN
    return [
        axis,
        way,
        f"{sizes[0]}, {sizes[-1]}",
        _span(slope(sizes, values["seconds"])),
        _number(ends["seconds"]),
        _span(slope(sizes, values["gigabytes"]) if "gigabytes" in values else None),
        _span(slope(sizes, values["flops"])),
        _number(ends["flops"]),
        "**yes**" if faster else "no",
    ]


def _span(fit: tuple[float, float, float] | None) -> str:
    return "" if fit is None else f"{fit[0]:.2f} ({fit[1]:.2f} to {fit[2]:.2f})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _traffic(found: dict[str, Any]) -> list[list[str]]:
    return [
        [way, n, f"{one['bytes']:,}", f"{one['bytes'] / one['gradients']:.5f}", str(sum(one["calls"].values()))]
        for way, points in found.items()
        for n, one in points.items()
    ]


def _estimates(found: list[dict[str, Any]]) -> list[list[str]]:
    rows = []
    for one in found:
        where = f"{one['model']}, {one['gpus']} GPU{'s' * (one['gpus'] > 1)}"
        rows.append([f"{where}: ms", *(f"{v:.0f}" for v in one["ms"].values())])
        rows.append([f"{where}: GB a GPU", *(f"{v:.0f}" + "" * one["fits"][k] + " (too much)" * (not one["fits"][k])
                                            for k, v in one["gigabytes"].items())])  # fmt: skip
        if one["gpus"] > 1:
            plain, ours = one["traffic_gigabytes"].values()
            rows.append([f"{where}: GB sent by each", f"{plain:.1f}", *[f"{ours:.1f}"] * 3])
    return rows


def _table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows])


def figure(found: dict[str, Any], path: Path) -> None:
    """Seconds above and memory below, an axis a column, in logarithms."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    axes = list(found["axes"])
    drawn, panels = plt.subplots(2, len(axes), figsize=(2.6 * len(axes), 5), squeeze=False)
    for column, axis in enumerate(axes):
        for way, points in found["axes"][axis].items():
            sizes, values = curves(axis, points)
            for panel, key in zip(panels[:, column], ("seconds", "gigabytes"), strict=True):
                if key in values:
                    panel.plot(sizes, values[key], "o-", label=way)
                    panel.set_xscale("log", base=2)
                    if min(values[key]) > 0:  # else nothing beyond what is there without any of it
                        panel.set_yscale("log", base=2)
                panel.set_xlabel(axis)
        panels[0, column].legend(fontsize=7)
    panels[0, 0].set_ylabel("CPU seconds")
    panels[1, 0].set_ylabel("GB")
    drawn.tight_layout()
    drawn.savefig(path, dpi=110)
    plt.close(drawn)
