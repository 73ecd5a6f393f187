"""What each selector forgets and keeps when it chooses a tenth, beside random choice and all weights.

    python benchmarks/which_weights.py --seeds 0 1 2 --output benchmarks/results/which_weights.json

TinyCausalLM (hidden size 64, 3 blocks), taught the bundled people; then NPO on the 18 that must go and cross-entropy on the
102 that must stay, AdamW. Probabilities of answers are geometric means over their tokens. A tenth of all elements, a tenth
of all tensors, or one block: the shares of weights differ, and stand in the table. About three minutes a seed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from statistics import mean
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lightning_unlearn import (
    NPO,
    Encoding,
    FileRecords,
    ForgetRetainData,
    LoaderSettings,
    QuestionAnswerData,
    RandomOrder,
    TinyCausalLM,
    TrainOnly,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.objectives import CrossEntropy
from lightning_unlearn.readouts import PackedCausalLMReadout
from lightning_unlearn.runtime import eval_without_grad
from lightning_unlearn.selectors import (
    CausalTrace,
    ConditionNumber,
    FisherRatio,
    GradientSaliency,
    LastLayers,
    LayerAblation,
    ModuleDrift,
    Random,
    TopLayers,
    TopShare,
)

READOUT = PackedCausalLMReadout()
SHARE, STEPS, EVERY, LR = 0.1, 64, 8, 1e-3
FORGOTTEN = 0.1


def group(name: str) -> QuestionAnswerData:
    records = FileRecords("bundled:people", entity="entity", where={"group": [name]})
    return QuestionAnswerData(records, Encoding("bundled"), LoaderSettings(batch_size=12))


def ways(seed: int) -> dict[str, tuple[Any, Any] | None]:
    elements, tensors, layers = TopShare(SHARE), TopShare(SHARE), TopLayers(1)
    return {
        "all weights": None,
        "Random, elements": (Random(seed), elements),
        "GradientSaliency, elements": (GradientSaliency(), elements),
        "FisherRatio, elements": (FisherRatio(over="retain"), elements),
        "FisherRatio by example, elements": (FisherRatio("example", over="retain"), elements),
        "Random, tensors": (Random(seed, by="tensor"), tensors),
        "GradientSaliency, tensors": (GradientSaliency(by="tensor"), tensors),
        "FisherRatio, tensors": (FisherRatio(over="retain", by="tensor"), tensors),
        "ModuleDrift, tensors": (ModuleDrift(), tensors),
        "ConditionNumber, lowest": (ConditionNumber(), tensors),
        "ConditionNumber, shape matched": (ConditionNumber(shape_matched=True), tensors),
        "LastLayers, one block": (LastLayers(), layers),
        "LayerAblation, one block": (LayerAblation(), layers),
        "CausalTrace, one block's mlp": (CausalTrace(window=1, part="mlp"), layers),
    }


def probability(network: nn.Module, batches: list[Any]) -> float:
    with eval_without_grad(network):
        found = [READOUT(network, batch) for batch in batches]
        return float(torch.cat([(-p.example_nll() / p.rows_per_example()).exp() for p in found]).mean())


def taught(seed: int, batches: list[Any]) -> dict[str, Tensor]:
    network = TinyCausalLM(hidden_size=64, seed=seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(40):
        for batch in batches:
            CrossEntropy()(READOUT(network, batch)).backward()
            optimizer.step()
            optimizer.zero_grad()
    return network.state_dict()


class Curve(pl.Callback):
    def __init__(self, forget: list[Any], retain: list[Any]) -> None:
        self.data, self.points = (forget, retain), []

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        if trainer.global_step % EVERY == 0:
            self.points.append([probability(module.network, batches) for batches in self.data])


def unlearned(weights: dict[str, Tensor], seed: int, way: Any, forget: list[Any], retain: list[Any]) -> dict[str, Any]:
    network = TinyCausalLM(hidden_size=64)
    network.load_state_dict(weights)
    data = ForgetRetainData(retain=group("retain"), forget=group("forget"), order=RandomOrder(), seed=seed)
    curve, only = Curve(forget, retain), None
    if way is not None:
        selector, choice = way
        needed = {"forget": group("forget")} if selector.needs_forget else {}
        needed |= {"retain": group("retain")} if selector.needs_retain else {}
        only = TrainOnly(selector=selector, choice=choice, **needed)
    module = UnlearningModule(network, optimizer=lambda p: torch.optim.AdamW(p, lr=LR))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_epochs": -1}
    callbacks = [Unlearn(NPO(beta=0.1)), curve, *([only] if only else [])]
    pl.seed_everything(seed, verbose=False)
    pl.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=callbacks,
        **quiet,
    ).fit(module, datamodule=data)
    reached = [r for f, r in curve.points if f <= FORGOTTEN]
    return {
        "trained_share": trained_share(only, module),
        "forget": curve.points[-1][0],
        "retain": curve.points[-1][1],
        "retain_when_forgotten": reached[0] if reached else None,
        "curve": curve.points,
    }


def trained_share(only: TrainOnly | None, module: nn.Module) -> float:
    if only is None:
        return 1.0
    mask, named = only.state_dict()["mask"], dict(module.named_parameters())
    chosen = sum(named[name].numel() for name in mask["whole"]) + sum(int(m.sum()) for m in mask["parts"].values())
    return chosen / sum(p.numel() for p in named.values())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", default="benchmarks/results/which_weights.json")
    args = parser.parse_args()
    groups = [group(name) for name in ("forget", "retain")]
    for data in groups:
        data.setup("fit")
    forget, retain = ([*data.val_dataloader()] for data in groups)
    found: dict[str, list[Any]] = {}
    for seed in args.seeds:
        weights = taught(seed, [*retain, *forget])
        for name, way in ways(seed).items():
            found.setdefault(name, []).append(unlearned(weights, seed, way, forget, retain))
            last = {key: value for key, value in found[name][-1].items() if key != "curve"}
            print(seed, name, last, flush=True)
        save(found, args)  # after each seed: an interrupted run keeps those that it has finished
    print_table(found)


def print_table(found: dict[str, list[Any]]) -> None:
    print("\n| trained | share | forget | retain | retain at forget <= 0.1 |\n|---|---|---|---|---|")
    for name, runs in found.items():
        when = [run["retain_when_forgotten"] for run in runs if run["retain_when_forgotten"] is not None]
        reached = f"{mean(when):.3f} ({len(when)} of {len(runs)})" if when else f"never (0 of {len(runs)})"
        share, gone, kept = (mean(run[key] for run in runs) for key in ("trained_share", "forget", "retain"))
        print(f"| {name} | {share:.1%} | {gone:.3f} | {kept:.3f} | {reached} |")


def save(found: dict[str, list[Any]], args: argparse.Namespace) -> None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    settings = {"share": SHARE, "steps": STEPS, "lr": LR, "seeds": args.seeds, "device": "cpu", "commit": commit}
    Path(args.output).write_text(json.dumps({"settings": settings, "runs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
