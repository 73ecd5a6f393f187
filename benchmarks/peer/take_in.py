"""Take runs of open-unlearning into the table of `benchmarks/tofu.py`.

    python benchmarks/peer/take_in.py add open-unlearning/saves/unlearn/npo-0 \\
        --retain open-unlearning/saves/eval/retain-0/TOFU_EVAL.json --audit runs/peer/npo-0/audit
    python benchmarks/peer/take_in.py table

`add` reads a folder of theirs (`.hydra/config.yaml`, `trainer_state.json`, `evals/TOFU_EVAL.json`), the log of the retain
model, and our audit of the model that lies in that folder, and writes what the table needs of them. A second run of the same
method and seed replaces the first. `README.md` beside this file says how such folders are made.

Writes `benchmarks/results/tofu_peer_<model>.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import yaml

from peer._logs import numbers, read_log

Found = dict[str, Any]
RESULTS = Path(__file__).parents[1] / "results"
BUDGETS = (20, 100)
GIB = 2**30


def main() -> None:
    arguments = read()
    path = arguments.results / f"tofu_peer_{arguments.model}.json"
    if arguments.command == "table":
        print(table(json.loads(path.read_text()), arguments.results / f"tofu_{arguments.model}.json"))
        return
    run = taken_in(arguments.folder, arguments.retain, arguments.audit, arguments.name)
    run |= {name: given for name in ("fit_s", "peak_gib") if (given := getattr(arguments, name)) is not None}
    before = json.loads(path.read_text()) if path.exists() else {"networks": {}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(added(before, run), indent=1) + "\n")
    print(f"{run['name']}, seed {run['seed']}: in {path.name}")


def read() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add")
    add.add_argument("folder", type=Path, help="`saves/unlearn/TASK` of open-unlearning")
    add.add_argument("--retain", type=Path, required=True, help="`TOFU_EVAL.json` of the model that never knew")
    add.add_argument("--audit", type=Path, help="the folder of `lightning-unlearn audit` of the model in `folder`")
    add.add_argument("--name", help="of the row; the trainer's, if none is given")
    add.add_argument("--fit-s", type=float, help="seconds, if measured from outside")
    add.add_argument("--peak-gib", type=float, help="memory, if measured from outside")
    for command in (add, commands.add_parser("table")):
        command.add_argument("--model", default="smollm2")
        command.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def taken_in(folder: Path, retain: Path, audit: Path | None, name: str | None = None) -> Found:
    """One run: its method, seed and rate, what it cost, what its log says, and what our audit brought back."""
    config = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())["trainer"]
    state = json.loads((folder / "trainer_state.json").read_text())
    found = numbers(read_log(folder / "evals" / "TOFU_EVAL.json"), read_log(retain))
    return {
        "name": f"{name or config['handler']} (open-unlearning)",
        "seed": config["args"]["seed"],
        "rate": config["args"]["learning_rate"],
        "steps": state["global_step"],
        "method": config.get("method_args", {}),
        **spent(state["log_history"]),
        "measures": found,
        "worst": {str(most): None if audit is None else worst(audit, most) for most in BUDGETS},
    }


def spent(history: Sequence[Mapping[str, Any]]) -> Found:
    """Seconds and GiB of training, from what the trainer logs when it ends.

    Memory is there with ``+trainer.args.skip_memory_metrics=False``: in use before the trainer was made, added by it
    and by training, and in use on top of that at most. Without a card that is of resident memory.
    """
    last = next((entry for entry in reversed(history) if "train_runtime" in entry), {})
    kind = "gpu" if "train_mem_gpu_peaked_delta" in last else "cpu"
    parts = ("before_init_mem_{}", "init_mem_{}_alloc_delta", "train_mem_{}_alloc_delta", "train_mem_{}_peaked_delta")
    used = [last.get(part.format(kind)) for part in parts]
    gib = None if None in used else round(sum(used) / GIB, 3)
    return {"fit_s": last.get("train_runtime"), "peak_gib": gib}


def worst(audit: Path, most: int) -> Found | None:
    """The attack that brought back most after at most so many steps, beyond what it teaches the control.

    None where less was removed than the report's gate G1 asks for: there is nothing to bring back.

    Raises:
        ValueError: If there was no control.
    """
    report = json.loads((audit / "report.json").read_text())
    seen = [each for each in report["recoveries"] if each["metric"] == "probability"]
    if any(each["adjusted"] is None for each in seen):
        raise ValueError("The audit should have a control. Found none: give `--control`, the retain model.")
    removed = [each for each in seen if not any(reason.startswith("G1:") for reason in each.get("reasons", []))]
    within = [each for each in removed if each["unit"] != "step" or each["point"] <= most]
    if not within:
        return None
    top = max(within, key=lambda each: each["adjusted"]["value"])
    return {"recovery": top["adjusted"]["value"], "judge": top["attack"], "point": top["point"]}


def added(before: Found, run: Found) -> Found:
    """What is there with one run more, in the form of `benchmarks/results/tofu_<model>.json`."""
    networks = dict(before["networks"])
    others = [each for each in networks.get(run["name"], {}).get("runs", []) if each["seed"] != run["seed"]]
    shown = {**run, "tofu": {"forget_quality": run["measures"]["forget_quality"]}, "disruption": None}
    runs = sorted([*others, shown], key=lambda each: each["seed"])
    networks[run["name"]] = {
        "control": False,
        "destroyed": None,
        "failed": {},
        "runs": runs,
        "intervals": intervals(runs),
        "cost": {"peak_gib": run["peak_gib"]},  # of a process that did nothing else
    }
    return {"networks": networks}


def intervals(runs: Sequence[Found]) -> dict[str, list[float]]:
    """Mean, smallest and largest over seeds: no intervals, since their logs are of other rows than ours."""
    recoveries = {f"recovery {most}": str(most) for most in BUDGETS}
    values = {name: [run["measures"][name] for run in runs if name in run["measures"]] for name in runs[0]["measures"]}
    for name, most in recoveries.items():
        values[name] = [run["worst"][most]["recovery"] for run in runs if run["worst"][most]]
    return {name: [fmean(of), min(of), max(of)] for name, of in values.items() if of}


def table(theirs: Found, ours: Path) -> str:
    """The rows of `benchmarks/tofu.py`, and these beside them."""
    from tofu_parts._shown import table as shown

    found = json.loads(ours.read_text())
    note = "Rows of open-unlearning: its own logs, our audit; in brackets the smallest and largest over seeds."
    return "\n".join([shown({**found, "networks": {**found["networks"], **theirs["networks"]}}), "", note])


if __name__ == "__main__":
    main()
