"""What `bundled:your_model` takes: SmolLM2-135M-Instruct, LoRA, a few steps, without the checks at the end.

    python benchmarks/your_model_cost.py --steps 4
    python benchmarks/your_model_cost.py --reprint

Each case is a process of its own, on 40 forget and 120 retain rows of TOFU. Seconds of the clock say what this machine did
beside whatever else ran; seconds of the processors, over all threads, say what there was to do. Memory is the peak of the
process, 0.5 GB of imported libraries included. Writes `benchmarks/results/your_model_cost.json`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import lightning.pytorch as pl
import torch
from run_config import commit, machine

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "your_model_cost.json"
CASES = {"as it is": [], "without an attack in the loop": ["--unlearn.under=null"]}


class Timed(pl.Callback):
    """Clock and processors at the end of each step."""

    def __init__(self) -> None:
        self.marks = [now()]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.marks = [now()]

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.marks.append(now())


def now() -> tuple[float, float]:
    return time.monotonic(), time.process_time()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tofu", type=Path, default=ROOT / ".." / "shared" / "data" / "tofu" / "full.jsonl")
    parser.add_argument("--case", choices=list(CASES), help="one case, in this process")
    parser.add_argument("--reprint", action="store_true")
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measured(arguments)))
        return
    if not arguments.reprint:
        given = [f"--steps={arguments.steps}", f"--threads={arguments.threads}", f"--tofu={arguments.tofu}"]
        found = {case: in_a_process([*given, f"--case={case}"]) for case in CASES}
        RESULTS.write_text(json.dumps({"commit": commit(), "machine": machine(), "cases": found}, indent=1) + "\n")
    print(table(json.loads(RESULTS.read_text())["cases"]))


def in_a_process(arguments: list[str]) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    from lightning_unlearn import Unlearn
    from lightning_unlearn.cli import main as command

    torch.set_num_threads(arguments.threads)
    timed = Timed()
    rows = {"forget": "[3960, 4000]", "retain": "[0, 120]"}
    given = [
        f"--data.{part}.records.{key}" for part in rows for key in (f"path={arguments.tofu}", f"rows={rows[part]}")
    ]
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--report.folder=runs/your_model_cost"]
    steps = f"--trainer.max_steps={arguments.steps}"
    cli = command(["--config", "bundled:your_model", *given, *quiet, steps, *CASES[arguments.case]], run=False)
    cli.trainer.callbacks = [*(c for c in cli.trainer.callbacks if isinstance(c, Unlearn)), timed]
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    wall, cpu = ([b[i] - a[i] for a, b in zip(timed.marks, timed.marks[1:], strict=False)] for i in (0, 1))
    return {
        "steps": len(cpu),
        "step_s": [round(each, 2) for each in wall],
        "step_cpu_s": [round(each, 2) for each in cpu],
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


def table(cases: dict[str, Any]) -> str:
    lines = ["| | CPU s a step, median (all) | clock s a step, median | GB |", "|---|---|---|---|"]
    for name, found in cases.items():
        every = ", ".join(f"{each:.0f}" for each in found["step_cpu_s"])
        lines.append(
            f"| {name} | {median(found['step_cpu_s']):.1f} ({every}) | {median(found['step_s']):.1f} | "
            f"{found['peak_gb']:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
