"""Run a config with one or more seeds, keep what its reports say, and print the table of README.

    python benchmarks/run_config.py bundled:quickstart --seeds 0 1 2
    python benchmarks/run_config.py bundled:quickstart --reprint

Writes `benchmarks/results/<config>.json` (figures, seeds, commit, machine). Each attack is shown at the point that its
report calls the worst, and at the one that brings back most if nothing is taken off for the control, if that is another:

    recovery         (attacked - unlearned) / (original - unlearned) on the forget set
    beyond control   the same, less what the attack teaches a model that never knew; empty without a control
    price            share of the unlearned model's retain utility that the attack costs

Cells are the mean over the seeds, with the smallest and the largest in brackets.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml

from lightning_unlearn.cli import read_config

KEPT = ("attack", "family", "point", "unit", "metric", "forget", "retain")
KEPT += ("rho", "adjusted", "price", "specificity", "worst", "reasons")
SHARES = ("forget", "retain", "rho", "adjusted")
ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a file, or bundled:NAME; its name is that of the results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run each")
    parser.add_argument("--metric", default="probability", help="the metric that the table is of")
    parser.add_argument("--reprint", action="store_true", help="run nothing: print the table of the results on disk")
    arguments = parser.parse_args()
    name = Path(arguments.config.removeprefix("bundled:")).stem
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    if not arguments.reprint:
        runs = [run(arguments.config, seed, ROOT / "runs" / f"{name}-seed{seed}") for seed in arguments.seeds]
        result = {"config": arguments.config, "commit": commit(), "machine": machine(), "runs": runs}
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
    result = read(path)
    print(table(result["runs"], arguments.metric), footer(result), sep="\n\n")


def read(path: Path) -> dict[str, Any]:
    """Results on disk, refused if they are of reports that knew neither price nor control."""
    result = json.loads(path.read_text())
    if any("price" not in found for one in result["runs"] for found in one["recoveries"]):
        sys.exit(
            f"`{path.name}` should hold results of reports with a price. Found older ones: run it without `--reprint`."
        )
    return result


def run(config: str, seed: int, folder: Path) -> dict[str, Any]:
    start = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    seeded_config = folder / f"seed{seed}.yaml"
    seeded_config.write_text(yaml.safe_dump(seeded(read_config(config), seed)))
    command = [sys.executable, "cli.py", "fit", "--config", str(seeded_config), "--report.folder", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
    report = json.loads((folder / "report.json").read_text())
    return {
        "seed": seed,
        "wall_s": round(time.monotonic() - start, 1),
        "levels": [{k: level[k] for k in ("model", "split", "metric", "interval")} for level in report["levels"]],
        "recoveries": [{k: recovery[k] for k in KEPT} for recovery in report["recoveries"]],
    }


def seeded(settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """Everything that has a seed gets this one: the weights or the adapter, the teaching, the order of the data."""
    network = settings["model"]["init_args"]["network"].setdefault("init_args", {})
    for part in (settings["finetune_first"], settings["data"]["init_args"], network.get("lora", network)):
        part["seed"] = seed
    return {**settings, "seed_everything": seed}


@cache
def commit() -> str:
    """Of this repository; of a copy without one, on a lent machine say, what the environment names."""
    if "LIGHTNING_UNLEARN_COMMIT" in os.environ:
        return os.environ["LIGHTNING_UNLEARN_COMMIT"]
    dirty = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=no"], cwd=ROOT, capture_output=True, text=True
    )
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def machine(device: str = "cpu") -> dict[str, Any]:
    return {
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": "cpu" if device == "cpu" else torch.cuda.get_device_name(device),
    }


def table(runs: list[dict[str, Any]], metric: str) -> str:
    """One row a model: mean over seeds, with the smallest and the largest in brackets."""
    rows: dict[str, dict[str, list[Any]]] = {}
    for one in runs:
        for level in (level for level in one["levels"] if level["metric"] == metric):
            _add(rows, level["model"], **{level["split"]: level["interval"]["value"]})
        for name, found in shown(one["recoveries"], metric):
            shares = {column: found[column] and found[column]["value"] for column in SHARES}
            _add(rows, name, **shares, price=found["price"], points=found["point"], unit=found["unit"])
    lines = [f"| {' | '.join(head(metric))} |", "|" + "---|" * len(head(metric))]
    for name, row in rows.items():
        levels = [span(row.get(split, [])) for split in ("forget", "retain")]
        shares = [span(row.get(column, []), percent=True) for column in ("rho", "adjusted", "price")]
        lines.append(f"| {' | '.join([who(name, row), *levels, *shares])} |")
    return "\n".join(lines)


def shown(recoveries: list[dict[str, Any]], metric: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of each attack the worst point, and the one with the largest raw recovery, where that is another."""
    told = [found for found in recoveries if found["metric"] == metric and math.isfinite(float(found["rho"]["value"]))]
    for attack in dict.fromkeys(found["attack"] for found in told):
        points = [found for found in told if found["attack"] == attack]
        largest = max(points, key=lambda found: float(found["rho"]["value"]))
        yield from ((attack, found) for found in points if found["worst"])
        if not largest["worst"]:
            yield f"{attack}, control not taken off", largest


def head(metric: str) -> list[str]:
    return ["model", f"forget {metric}", f"retain {metric}", "recovery", "beyond control", "price"]


def who(name: str, row: dict[str, list[Any]]) -> str:
    """An attack with the points at which it brought back most, over the seeds; the name alone of a model."""
    if "points" not in row:
        return name
    points, unit = ", ".join(map(str, sorted(set(row["points"])))), row["unit"][0]
    return f"{name} ({f'step {points}' if unit == 'step' else f'{points} {unit}'.strip()})"


def _add(rows: dict[str, dict[str, list[Any]]], name: str, **values: Any) -> None:
    row = rows.setdefault(name, {})
    for column, value in values.items():
        if value is not None:
            row.setdefault(column, []).append(value)


def span(values: list[Any], percent: bool = False) -> str:
    """The mean, then the smallest and the largest. A report writes what is not finite as text: left out."""
    finite = [value for value in map(float, values) if math.isfinite(value)]
    if not finite:
        return ""
    three = (sum(finite) / len(finite), min(finite), max(finite))
    # + 0.0: a tiny negative share is "0.0", not "-0.0"
    mean, least, most = (f"{round(100 * v, 1) + 0.0:.1f}" if percent else f"{v:.3g}" for v in three)
    return (mean if len(finite) == 1 else f"{mean} ({least} to {most})") + (" %" if percent else "")


def footer(result: dict[str, Any]) -> str:
    runs = result["runs"]
    seeds, seconds = [one["seed"] for one in runs], span([one["wall_s"] for one in runs])
    return f"Seeds {seeds}; {seconds} s a run; commit {result['commit']}."


if __name__ == "__main__":
    main()
