from __future__ import annotations

import json
import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.profiler import ProfilerActivity, profile

from lightning_unlearn import NPO, ForgetRetainData, SequentialOrder, StepGuard, Unlearn, UnlearningModule
from lightning_unlearn.guards import History, NoChange
from scaling_parts._point import QUIET, Size, llama, loader

BYTES = {"float": 4, "double": 8, "c10::BFloat16": 2, "c10::Half": 2, "long int": 8, "unsigned char": 1, "bool": 1}
STEP = 4  # the one that is looked at: caches are full, buckets are rebuilt
GUARDS = {"plain": None, "NPO": None, "NPO, guard rank 1": 1, "NPO, guard rank 4": 4}


class Watch(pl.Callback):
    """Writes down what one step of rank 0 puts into collectives."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        self.seen = None
        if trainer.global_step == STEP and trainer.global_rank == 0:
            self.seen = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
            self.seen.__enter__()

    def on_train_batch_end(self, *args: Any) -> None:
        if self.seen is not None:
            self.seen.__exit__(None, None, None)
            self.seen.export_chrome_trace(str(self.path))


def traffic(way: str, size: Size, processes: int) -> dict[str, Any]:
    """Bytes and number of collectives in one optimizer step, and the bytes of all gradients beside."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        model = llama(size)
        forgets = [] if way == "plain" else [Unlearn(NPO())]
        rank = GUARDS[way]
        guard = [] if rank is None else [StepGuard(NoChange(), History(rank))]
        trainer = pl.Trainer(
            max_steps=STEP + 1,
            callbacks=[*forgets, *guard, Watch(path)],
            accelerator="cpu",
            devices=processes,
            strategy="ddp_fork" if processes > 1 else "auto",
            **QUIET,
        )
        module = UnlearningModule(model, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-5))
        retain, forget = loader(size, 16 * size.rows, 1), loader(size, 4 * size.rows, 2)
        if way == "plain":
            trainer.fit(module, retain)
        else:
            trainer.fit(module, datamodule=ForgetRetainData(retain=retain, forget=forget, order=SequentialOrder()))
        gradients = sum(p.numel() * p.element_size() for p in model.parameters())
        return {"gradients": gradients, **_collectives(json.loads(path.read_text()))}


def _collectives(trace: dict[str, Any]) -> dict[str, Any]:
    counted, total = Counter[str](), 0
    for event in trace["traceEvents"]:
        if event.get("name", "").startswith("gloo:"):
            counted[event["name"]] += 1
            kinds, shapes = (event["args"].get(name, []) for name in ("Input type", "Input Dims"))
            total += sum(BYTES.get(k, 0) * math.prod(s) for k, s in zip(kinds, shapes, strict=True))
    return {"bytes": total, "calls": dict(counted)}
