"""A fit in one pass, interrupted and resumed, takes the steps of one that was not interrupted, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _joined_fits import Passes, rows
from _language_models import family
from _modules import quiet
from _ranks import run_ranks
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_unlearn import NPO, CyclicOrder, ForgetRetainData, Unlearn, UnlearningModule
from lightning_unlearn.forgetting import CheaperPass

pytestmark = [
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:.*validation_step:lightning.fabric.utilities.warnings.PossibleUserWarning"),
]
STEPS = 6


def fit(folder: Path, ckpt_path: Path | None = None, world: int = 1, **trainer: Any) -> tuple[list[Tensor], list[int]]:
    """The weights in the end, and how many passes each step took."""
    seen = Passes()
    data = ForgetRetainData(
        retain=DataLoader(rows(1, 11), batch_size=4 // world),
        forget=DataLoader(rows(2, 9), batch_size=2 // world),
        order=CyclicOrder(),
    )
    # In float64 before the trainer converts it: Lightning restores weights earlier than that.
    module = UnlearningModule(family("gpt2").double(), optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2))
    saved = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    trainer = {"max_steps": STEPS, **trainer}
    quiet(
        max_epochs=-1,
        callbacks=[Unlearn(NPO(beta=0.3), passes=CheaperPass(share=1e9)), seen, saved],
        limit_val_batches=0,
        precision="64-true",
        log_every_n_steps=0,
        enable_checkpointing=True,
        **trainer,
    ).fit(module, datamodule=data, ckpt_path=ckpt_path)
    return [p.detach().clone() for p in module.network.parameters()], seen.counted[:STEPS]


@pytest.mark.parametrize("interrupted_at", [1, 4])
def test_resumed_equals_uninterrupted(interrupted_at: int, tmp_path: Path) -> None:
    whole, counted = fit(tmp_path / "whole")
    fit(tmp_path / "first", max_steps=interrupted_at)
    resumed, again = fit(tmp_path / "second", tmp_path / "first" / f"step={interrupted_at}.ckpt")
    assert counted == [2, 1, 1, 1, 1, 1]  # the first micro-batch is measured, once
    assert again == [0] * interrupted_at + [1] * (STEPS - interrupted_at)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_resumed_between_accumulated_micro_batches(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"accumulate_grad_batches": 2, "max_steps": 3}
    whole, _ = fit(tmp_path / "whole", **settings)
    fit(tmp_path / "first", **{**settings, "max_steps": 1})
    resumed, again = fit(tmp_path / "second", tmp_path / "first" / "step=1.ckpt", **settings)
    assert again[1:3] == [2, 2]
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


@pytest.mark.slow
def test_resumed_in_two_processes(tmp_path: Path) -> None:
    def each(folder: str, ckpt_path: Path | None = None) -> Any:
        return run_ranks(
            lambda rank, world: fit(tmp_path / folder, ckpt_path, world, strategy=DDPStrategy(), devices=world)
        )

    whole = each("whole")
    resumed = each("resumed", tmp_path / "whole" / "step=3.ckpt")
    for (weights, counted), (again, passes) in zip(whole, resumed, strict=True):
        assert counted == [2, 1, 1, 1, 1, 1]
        assert passes == [0, 0, 0, 1, 1, 1]
        assert all(torch.equal(a, b) for a, b in zip(weights, again, strict=True))
