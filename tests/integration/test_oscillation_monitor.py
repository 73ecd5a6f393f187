"""The monitor sees what can be computed by hand, and a fit beside it is the fit without it, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import HostileModule, SomebodysModule, loader, quiet, same
from _ranks import run_ranks
from _sharded_fits import STRATEGIES, data
from _sharded_fits import loader as shared_loader
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_unlearn import OscillationMonitor
from lightning_unlearn.report.analysis.over_time import oscillation

SCALE = 4.0


class Valley(pl.LightningModule):
    """One weight `w`, logits `[0, a w]`, and both labels equally often: the loss has its minimum at 0."""

    def __init__(self, lr: float, start: float = 0.3) -> None:
        super().__init__()
        self.w, self.lr = nn.Parameter(torch.tensor(start)), lr

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(x), self.w * x], 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def edge(w: float, lr: float) -> float:
    """The second derivative of the loss, `a^2 p (1 - p)`, by hand."""
    p = 1 / (1 + torch.exp(torch.tensor(-SCALE * w, dtype=torch.float64)))
    return lr * SCALE**2 * float(p * (1 - p)) / 2


def run(lr: float, steps: int, **kwargs: Any) -> tuple[OscillationMonitor, Any]:
    both = DataLoader(TensorDataset(torch.full((2,), SCALE), torch.tensor([0, 1])), batch_size=2)
    monitor = OscillationMonitor(**kwargs)
    trainer = quiet(callbacks=[monitor], max_steps=steps, max_epochs=-1)
    trainer.fit(Valley(lr), both)
    return monitor, trainer


@pytest.mark.parametrize("lr", [0.05, 0.6])
def test_the_edge_is_half_the_rate_times_the_second_derivative(lr: float) -> None:
    _, trainer = run(lr, 1, power_steps=3)
    assert float(trainer.callback_metrics["oscillation/edge"]) == pytest.approx(edge(0.3, lr), rel=1e-2)


def test_above_the_edge_it_swings_for_ever_and_below_it_settles() -> None:
    """At the minimum the edge is `2 lr`: 0.8 and 1.2. The residual is a half on both sides, since the labels disagree."""
    swing = {}
    for lr in (0.4, 0.6):
        _, trainer = run(lr, 60)
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        swing[lr] = values["oscillation/swing"]
        assert 0.45 < values["oscillation/residual"] < 0.55
    assert swing[0.4] < 1e-6
    assert edge(0.0, 0.4) < 1 < edge(0.0, 0.6)


def test_what_it_logs_is_the_last_half_of_what_it_saw() -> None:
    monitor = OscillationMonitor(every_n_steps=2)
    module = SomebodysModule()
    trainer = quiet(callbacks=[monitor], max_epochs=2)
    trainer.fit(module, loader(seed=1))
    assert [step for step, _ in monitor.looks] == [0, 2, 4, 6, 8, 10]
    x, y = next(iter(loader(seed=1)))
    first = F.softmax(SomebodysModule()(x), 1)[torch.arange(4), y].mean()
    assert monitor.looks[0][1] == pytest.approx(float(first.detach()), rel=1e-5)
    expected = oscillation(*zip(*monitor.looks, strict=True))
    assert expected is not None
    assert float(trainer.callback_metrics["oscillation/swing"]) == pytest.approx(expected.swing)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_the_fit_beside_it_is_the_fit_without_it() -> None:
    ends = []
    for callbacks in ([], [OscillationMonitor(power_steps=2)]):
        pl.seed_everything(0)
        module = HostileModule()
        trainer = quiet(callbacks=callbacks, max_epochs=2)
        trainer.fit(module, loader(seed=1))
        ends.append((module, module.calls, module.history, float(trainer.callback_metrics["train_loss"])))
    assert same(ends[0][0], ends[1][0])
    assert all(torch.equal(a, b) for a, b in zip(ends[0][0].buffers(), ends[1][0].buffers(), strict=True))
    assert ends[0][1:] == ends[1][1:]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_resumed_fit_goes_on_with_its_looks(tmp_path: Path) -> None:
    def fit(folder: str, **kwargs: Any) -> OscillationMonitor:
        monitor = OscillationMonitor()
        saved = ModelCheckpoint(tmp_path / folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        trainer = quiet(callbacks=[monitor, saved], enable_checkpointing=True, max_epochs=2)
        trainer.fit(SomebodysModule(), loader(seed=1), **kwargs)
        return monitor

    whole = fit("whole")
    assert fit("again", ckpt_path=tmp_path / "whole" / "step=6.ckpt").looks == whole.looks


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_see_what_one_does(kind: str) -> None:
    def fit(kind: str | None, rank: int, world_size: int) -> tuple[list[tuple[int, float]], float]:
        module_class, strategy = STRATEGIES[kind] if kind else (SomebodysModule, lambda: "auto")
        monitor = OscillationMonitor(power_steps=2)
        trainer = quiet(strategy=strategy(), devices=world_size, callbacks=[monitor], use_distributed_sampler=False)
        trainer.fit(module_class("adamw"), shared_loader(data(1, 32, False), rank, world_size))
        return monitor.looks, float(trainer.callback_metrics["oscillation/edge"])

    looks, expected = fit(None, 0, 1)
    for seen, there in run_ranks(lambda rank, world: fit(kind, rank, world)):
        assert [step for step, _ in seen] == [step for step, _ in looks]
        assert [value for _, value in seen] == pytest.approx([value for _, value in looks], rel=1e-4)
        assert there == pytest.approx(expected, rel=2e-2)
