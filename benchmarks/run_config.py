"""Run a config with one or more seeds, and keep what its reports say.

    python benchmarks/run_config.py bundled:quickstart --seeds 0 1 2
    python benchmarks/run_config.py bundled:smollm2

Writes `benchmarks/results/<config>.json` (figures, seeds, commit, machine) and prints the table of `benchmarks/README.md`.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from lightning_unlearn.cli import read_config

KEPT = ("attack", "point", "unit", "metric", "forget", "retain", "rho", "worst", "reasons")
ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a file, or bundled:NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--metric", default="probability")
    arguments = parser.parse_args()
    name = Path(arguments.config.removeprefix("bundled:")).stem
    runs = [run(arguments.config, seed, ROOT / "runs" / f"{name}-seed{seed}") for seed in arguments.seeds]
    result = {"config": arguments.config, "commit": commit(), "machine": machine(), "runs": runs}
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(table(runs, arguments.metric))


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


def commit() -> str:
    dirty = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=no"], cwd=ROOT, capture_output=True, text=True
    )
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def machine() -> dict[str, Any]:
    return {
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": "cpu",
    }


def table(runs: list[dict[str, Any]], metric: str) -> str:
    """One row a model, mean over seeds with the smallest and the largest."""
    rows: dict[str, dict[str, list[float]]] = {}
    for one in runs:
        for level in one["levels"]:
            if level["metric"] == metric:
                rows.setdefault(level["model"], {}).setdefault(level["split"], []).append(level["interval"]["value"])
        for recovery in one["recoveries"]:
            if recovery["metric"] != metric:
                continue
            row = rows.setdefault(recovery["attack"], {})
            row.setdefault(f"all{one['seed']}", []).append(recovery["rho"]["value"])
            if recovery["worst"]:
                row.setdefault("forget", []).append(recovery["forget"]["value"])
                row.setdefault("retain", []).append(recovery["retain"]["value"])
                row.setdefault("rho", []).append(recovery["rho"]["value"])
    lines = [
        f"| model | forget {metric} | retain {metric} | recovery | at most, gates aside |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        recovery = span(row.get("rho", []), percent=True)
        most = span([max(values) for key, values in row.items() if key.startswith("all")], percent=True)
        lines.append(f"| {name} | {span(row['forget'])} | {span(row['retain'])} | {recovery} | {most} |")
    seconds = [one["wall_s"] for one in runs]
    return "\n".join(
        [*lines, "", f"Seeds {[one['seed'] for one in runs]}; {span(seconds)} s a run; commit {commit()}."]
    )


def span(values: list[float], percent: bool = False) -> str:
    if not values:
        return ""
    shown = [f"{v:.1%}" if percent else f"{v:.3g}" for v in (sum(values) / len(values), min(values), max(values))]
    return shown[0] if len(values) == 1 else f"{shown[0]} ({shown[1]} to {shown[2]})"


if __name__ == "__main__":
    main()
