"""A language model that sees forgets the name of a digit: what becomes of its siblings, and of the level above.

    python benchmarks/vision_language.py run --seeds 0       # teach, forget in each way and measure, whatever is missing
    python benchmarks/vision_language.py table               # of the committed results
    python benchmarks/vision_language.py estimate            # how long it takes; starts nothing

stories260k behind a patch encoder of four positions (`ImageCausalLM`), taught two questions about 100 images of each digit
of MNIST for 10 epochs (AdamW, 2e-3 falling to 0): "Which digit?" and "Odd or even?". Then the name "three" must go: 60
steps of AdamW at 3e-4 on batches of 32, cross-entropy on what must stay. Shares of answers that are right in every token,
teacher forced, on images that nobody was trained on (at most 100 of each digit): names that must go, odd or even of the
same images, names of the other odd digits, all that must stay about other digits.

`NPO, level not asked`: the retain data ask nothing about images of a three. `NPO`: they ask odd or even. `Prompt
decoupling`: each step asks odd or even of the very images whose names it forgets, too. There is no retrained control.

Every piece of work is a file in `runs/vision_language/`, so a run that was killed goes on. About three minutes a seed on one
core of its own.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, DataLoader

from lightning_unlearn import (
    NPO,
    CausalLMReadout,
    ForgetRetainData,
    ImageCausalLM,
    ImageEncoding,
    LoaderSettings,
    PatchEncoder,
    PretrainedCausalLM,
    QuestionAnswerData,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.data import MNISTCaptionsData
from lightning_unlearn.objectives import PromptDecouple
from lightning_unlearn.readouts import PairedReadout
from lightning_unlearn.runtime import eval_without_grad

HERE = Path(__file__).parent
DATA = Path(os.environ.get("LIGHTNING_UNLEARN_DATA", HERE.parents[1] / "shared" / "data"))
RESULTS = HERE / "results" / "vision_language.json"
RUNS = Path("runs/vision_language")
SPLITS = ("forget_test", "level", "siblings", "retain_test")
EPOCHS, STEPS, LOADER = 10, 60, LoaderSettings(batch_size=32)
WAYS: dict[str, Callable[[], Unlearn]] = {
    "NPO, level not asked": lambda: Unlearn(NPO()),
    "NPO": lambda: Unlearn(NPO()),
    "Prompt decoupling": lambda: Unlearn(PromptDecouple(NPO(), weight=1.0), readout=PairedReadout()),
}


def network() -> nn.Module:
    return ImageCausalLM(PretrainedCausalLM(str(DATA / "models" / "stories260k")), PatchEncoder())


def digits() -> MNISTCaptionsData:
    encoding = ImageEncoding(str(DATA / "models" / "stories260k"), template="plain")
    data = MNISTCaptionsData(str(DATA / "mnist"), encoding, loader=LOADER)
    data.setup("fit")
    return data


def teach(data: MNISTCaptionsData, seed: int) -> nn.Module:
    """Both questions about all digits."""
    pl.seed_everything(seed)
    student, retain = network(), data.retain.source
    rows = ConcatDataset([retain.dataset, QuestionAnswerData(data.forget.source.records, retain.encoding).dataset])
    batches = DataLoader(rows, batch_size=64, shuffle=True, collate_fn=retain.collate())
    optimizer, readout = torch.optim.AdamW(student.parameters(), lr=2e-3), CausalLMReadout()
    # At a constant rate the last batches decide what is said of a whole digit.
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=EPOCHS * len(batches))
    for _ in range(EPOCHS):
        for batch in batches:
            read = readout(student, batch)
            F.cross_entropy(read.logits, read.labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            decay.step()
    return student


def forget(data: MNISTCaptionsData, student: nn.Module, way: str, seed: int) -> None:
    """Train ``student`` until it has forgotten."""
    pl.seed_everything(seed)
    retain = data.retain.source
    if way == "NPO, level not asked":
        retain = QuestionAnswerData(retain.records.parts[0], retain.encoding, LOADER)
    module = UnlearningModule(student, optimizer=lambda p: torch.optim.AdamW(p, lr=3e-4, weight_decay=0.0))
    quiet: Any = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        max_steps=STEPS,
        max_epochs=-1,
        limit_val_batches=0,
        callbacks=[WAYS[way]()],
        **quiet,
    )
    trainer.fit(module, datamodule=ForgetRetainData(retain=retain, forget=data.forget.source))


def right(data: MNISTCaptionsData, student: nn.Module) -> dict[str, float]:
    """Share of answers that are right in every token, by split."""
    found, readout = {}, CausalLMReadout()
    with eval_without_grad(student):
        for split in SPLITS:
            wrong = []
            for batch in data.probes[split].source.val_dataloader():
                read = readout(student, batch)
                missed = (read.logits.argmax(-1) != read.labels).float()
                wrong.append(torch.zeros(read.batch_size).index_add(0, read.example, missed) > 0)
            found[split] = 1 - float(torch.cat(wrong).float().mean())
    return found


def run(seeds: list[int], output: Path) -> None:
    RUNS.mkdir(parents=True, exist_ok=True)
    data, begun = digits(), time.time()
    for seed in seeds:
        taught = RUNS / f"taught-{seed}.pt"
        if not taught.exists():
            torch.save(teach(data, seed).state_dict(), taught)
        for way in ("before", *WAYS):
            unit = RUNS / f"{way}-{seed}.json"
            if unit.exists():
                continue
            student = network()
            student.load_state_dict(torch.load(taught))
            if way != "before":
                forget(data, student, way, seed)
            unit.write_text(json.dumps({"way": way, "seed": seed, **right(data, student)}))
            logging.warning("%s, seed %d, after %.0f s: %s", way, seed, time.time() - begun, unit.read_text())
    units = [json.loads(path.read_text()) for path in sorted(RUNS.glob("*.json"))]
    found = {"commit": _commit(), "torch": torch.__version__, "device": "cpu", "units": units}
    output.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


def table(found: dict[str, Any]) -> str:
    """Means over seeds, as Markdown."""
    lines = [
        "| way | name that must go | odd or even of it | siblings' names | all that stays |",
        "|---|---|---|---|---|",
    ]
    for way in ("before", *WAYS):
        units = [unit for unit in found["units"] if unit["way"] == way]
        if units:
            lines.append(f"| {way} | " + " | ".join(f"{mean(u[s] for u in units):.2f}" for s in SPLITS) + " |")
    seeds = sorted({unit["seed"] for unit in found["units"]})
    return "\n".join(
        [*lines, "", f"Seeds {seeds}, commit {found['commit']}, torch {found['torch']}, {found['device']}."]
    )


def _commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table", "estimate"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.what == "run":
        run(given.seeds, given.output)
    elif given.what == "table":
        print(table(json.loads(given.output.read_text())))
    else:
        print(
            f"About {3 * len(given.seeds)} minutes on one core: teaching two thirds of it, {len(WAYS)} fits the rest."
        )
