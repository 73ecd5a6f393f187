"""In a fit, `Quantize` reaches what the module is made of, leaves it bit for bit, and the report says how much that was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import quiet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.utils.data import DataLoader, TensorDataset

from lightning_unlearn import GradientAscent, Quantize, RecoveryCheck, Unlearn, WriteReport


class Fit(pl.LightningModule):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Any:
        return self.network(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(2, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.gru(x.unflatten(1, (4, 2)))[0][:, -1])


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 4)
        prune.l1_unstructured(self.head, "weight", amount=9)

    def forward(self, x: Tensor) -> Any:
        x = x[:, None]
        return self.head(self.attention(x, x, x, need_weights=False)[0][:, 0])


class Own(nn.Module):
    """A linear layer of somebody's own, which nothing tells to be one."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.head = nn.Parameter(torch.randn(16, 8) / 8**0.5), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Any:
        return self.head(F.linear(x, self.matrix).relu())


def convolutional() -> nn.Module:
    up = parametrizations.weight_norm(nn.ConvTranspose1d(8, 6, 3))
    return nn.Sequential(nn.Unflatten(1, (8, 1)), up, nn.ReLU(), nn.Flatten(), normed())


def normed() -> nn.Module:
    return parametrizations.spectral_norm(nn.Linear(18, 4))


def rows(count: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(count, 8), torch.randint(0, 4, (count,))), 8)


def fitted(build: Any, folder: Path | None = None) -> dict[str, Tensor]:
    pl.seed_everything(0)
    module, retain, forget = Fit(build()), rows(16), rows(16)
    callbacks: list[Any] = [Unlearn(GradientAscent(), forget=forget)]
    if folder is not None:
        callbacks += [RecoveryCheck({"int2": Quantize(bits=2)}, every_n_steps=1), WriteReport(str(folder))]
    quiet(max_epochs=1, callbacks=callbacks).fit(module, retain)
    return module.state_dict()


@pytest.mark.parametrize(
    ("build", "share"),
    [(Recurrent, 1.0), (Attentive, 1.0), (convolutional, 1.0), (Own, 64 / 192)],
    ids=["gru", "attention", "norms", "own"],
)
def test_the_report_says_what_share_was_rounded_and_the_fit_is_left_as_it_is(
    build: Any, share: float, tmp_path: Path
) -> None:
    alone, checked = fitted(build), fitted(build, tmp_path)
    assert alone.keys() == checked.keys()
    assert all(torch.equal(alone[name], checked[name]) for name in alone)
    report = json.loads((tmp_path / "report.json").read_text())
    under = [o for o in report["observations"] if o["attack"] == "int2"]
    assert not report["failures"]
    assert under
    assert all(o["attack_config"]["share_reached"] == pytest.approx(share) for o in under)
    assert [g["status"] for g in report["gates"] if g["code"] == "G9"] == ["pass" if share > 0.5 else "fail"]
