"""What is lost by keeping directions in fewer bytes: cosine of the applied step with the true gradient, under `NoChange`.

    python benchmarks/storage_cosine.py

TinyCausalLM, untaught, the bundled people, NPO, AdamW at 2e-4, 20 steps, seed 0. Prints median and largest.
"""

from __future__ import annotations

import statistics
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_unlearn import (
    NPO,
    Encoding,
    FileRecords,
    ForgetRetainData,
    LoaderSettings,
    QuestionAnswerData,
    RandomOrder,
    StepGuard,
    TinyCausalLM,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.guards import BFloat16, Float32, Int8, NoChange


class Cosines(pl.Callback):
    def __init__(self) -> None:
        self.found: list[float] = []

    def on_after_backward(self, trainer: Any, module: Any) -> None:
        self.used = [p for p in module.parameters() if p.grad is not None]
        self.gradient = flat([p.grad for p in self.used])

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        self.before = flat(self.used)

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        change = flat(self.used) - self.before
        self.found.append(abs(float(torch.cosine_similarity(change, self.gradient, dim=0))))


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.detach().double().flatten() for t in tensors])


def group(name: str) -> QuestionAnswerData:
    records = FileRecords("bundled:people", entity="entity", where={"group": [name]})
    return QuestionAnswerData(records, Encoding("bundled"), LoaderSettings(batch_size=12))


def main() -> None:
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    for storage in (Float32(), BFloat16(), Int8()):
        pl.seed_everything(0, verbose=False)
        cosines = Cosines()
        callbacks = [cosines, Unlearn(NPO()), StepGuard(NoChange(), storage=storage)]
        trainer = pl.Trainer(max_steps=20, accelerator="cpu", callbacks=callbacks, enable_model_summary=False, **silent)
        module = UnlearningModule(TinyCausalLM(), optimizer=lambda params: torch.optim.AdamW(params, lr=2e-4))
        trainer.fit(
            module, datamodule=ForgetRetainData(retain=group("retain"), forget=group("forget"), order=RandomOrder())
        )
        print(f"{storage}: median {statistics.median(cosines.found):.1e}, largest {max(cosines.found):.1e}")


if __name__ == "__main__":
    main()
