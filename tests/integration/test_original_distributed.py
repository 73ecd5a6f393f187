"""In two processes too, a resumed fit keeps the original of the interrupted one, and all processes refuse another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _modules import quiet
from _ranks import run_ranks
from _sharded_fits import SAVING, data, loader
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_unlearn import FrozenCopy, KLToReference, Unlearn
from lightning_unlearn.runtime import local


def run(kind: str, folder: Path, ckpt_path: Path | None = None, scale: float = 1.0) -> list[Any]:
    """Forget losses and weights of each process, or the error that it raises."""

    def one(rank: int, world_size: int) -> Any:
        module_class, strategy = SAVING[kind]
        module, losses = module_class(), []
        with torch.no_grad():
            module.head.weight.mul_(scale)
        unlearn = Unlearn(
            KLToReference(),
            reference=FrozenCopy(),
            forget=DataLoader(data(2, 12, exact=False), batch_size=8 // world_size),
            weight=3.0,
        )
        take = unlearn.forget_loss
        unlearn.forget_loss = lambda batch: losses.append((loss := take(batch)).item()) or loss  # type: ignore[func-returns-value]
        saved = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        trainer = quiet(
            strategy=strategy(),
            devices=world_size,
            callbacks=[unlearn, saved],
            use_distributed_sampler=False,
            enable_checkpointing=True,
            max_epochs=2,
        )
        try:
            trainer.fit(module, loader(data(1, 32, exact=False), rank, world_size), ckpt_path=ckpt_path)
        except ValueError as error:
            return str(error)
        return losses, [local(p).detach().clone() for p in module.parameters()]

    return run_ranks(one)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, about its first FSDP
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
@pytest.mark.usefixtures("device_semantics")
def test_the_original_of_the_interrupted_fit_is_kept_and_another_is_refused(kind: str, tmp_path: Path) -> None:
    whole = run(kind, tmp_path / "whole")
    checkpoint = tmp_path / "whole" / "step=4.ckpt"
    for (losses, weights), (again, resumed) in zip(whole, run(kind, tmp_path / "two", checkpoint), strict=True):
        assert losses[0] == pytest.approx(0, abs=1e-6)
        assert again == losses[4:]
        assert all(torch.equal(x, y) for x, y in zip(weights, resumed, strict=True))
    for error in run(kind, tmp_path / "three", checkpoint, scale=2.0):
        assert "Found others, or none, in 1 parameters, `head.weight` first" in error
