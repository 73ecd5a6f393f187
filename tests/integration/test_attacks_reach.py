"""In a fit, attacks reach what the module is made of, leave it bit for bit, and the report says how much that was."""

from __future__ import annotations

import json
from functools import partial
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

from lightning_unlearn import GradientAscent, Quantize, RecoveryCheck, Relearn, Unlearn, WriteReport


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


def half_frozen() -> nn.Module:
    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    network[0].requires_grad_(False)
    return network


def rows(count: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(count, 8), torch.randint(0, 4, (count,))), 8)


class Mixture(nn.Module):
    """Experts in one parameter, and a router."""

    def __init__(self) -> None:
        super().__init__()
        self.num_experts = 4
        self.router = nn.Linear(8, 4)
        self.up_proj = nn.Parameter(torch.randn(4, 16, 8) / 8**0.5)
        self.down_proj = nn.Parameter(torch.randn(4, 4, 16) / 4)

    def forward(self, x: Tensor) -> Any:
        outputs = torch.einsum("bi,ehi->beh", x, self.up_proj).relu().unsqueeze(-2) @ self.down_proj.mT
        return (outputs[:, :, 0] * self.router(x).softmax(-1)[..., None]).sum(1)


INT2 = partial(Quantize, bits=2)
ADAPTER = partial(Relearn, steps=2, lr=0.1)
FULL = partial(Relearn, steps=2, lr=0.1, mode="full")


def fitted(
    build: Any, folder: Path | None = None, attack: Any = None, precision: Any = "32-true", under: Any = None
) -> dict[str, Tensor]:
    pl.seed_everything(0)
    module, retain, forget = Fit(build()), rows(16), rows(16)
    callbacks: list[Any] = [Unlearn(GradientAscent(), forget=forget, under=under or {})]
    if folder is not None:
        callbacks += [RecoveryCheck({"attack": attack()}, every_n_steps=1), WriteReport(str(folder))]
    quiet(max_epochs=1, callbacks=callbacks, precision=precision).fit(module, retain)
    return module.state_dict()


slow = pytest.mark.slow
FITS = {
    "int2 of gru": (Recurrent, INT2, 1.0),
    "int2 of attention": (Attentive, INT2, 1.0),
    "int2 of norms": (convolutional, INT2, 1.0),
    "int2 of own": (Own, INT2, 64 / 192),
    "adapter on gru": (Recurrent, ADAPTER, 1.0),
    "adapter on attention": (Attentive, ADAPTER, 1.0),
    "adapter on norms": (convolutional, ADAPTER, 1.0),
    "adapter on own": (Own, ADAPTER, 1.0),
    "adapter on mixture": (Mixture, ADAPTER, 1.0),
    "full of mixture": (Mixture, FULL, 1.0),
    "full of half": (half_frozen, FULL, 32 / 96),
}
FAST = ["int2 of own", "int2 of norms", "adapter on mixture", "full of half"]


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        *(pytest.param(name, "32-true", marks=[] if name in FAST else slow) for name in FITS),
        *(pytest.param(name, "bf16-mixed", marks=slow) for name in FITS if "adapter" in name),
    ],
)
def test_the_report_says_what_share_was_reached_and_the_fit_is_left_as_it_is(
    name: str, precision: Any, tmp_path: Path
) -> None:
    build, attack, share = FITS[name]
    alone, checked = fitted(build, precision=precision), fitted(build, tmp_path, attack, precision)
    assert alone.keys() == checked.keys()
    assert all(torch.equal(alone[name], checked[name]) for name in alone)
    report = json.loads((tmp_path / "report.json").read_text())
    under = [o for o in report["observations"] if o["attack"] == "attack"]
    assert not report["failures"]
    assert under
    assert all(o["attack_config"]["share_reached"] == pytest.approx(share) for o in under)
    assert [g["status"] for g in report["gates"] if g["code"] == "G9"] == ["pass" if share > 0.5 else "fail"]


@pytest.mark.parametrize(
    "build", [Mixture, *(pytest.param(build, marks=slow) for build in (Recurrent, Attentive, convolutional, Own))]
)
def test_forgetting_is_under_an_adapter_on_every_kind_of_weight(build: Any) -> None:
    """A failure of the attack would be a warning, and so an error here."""
    alone, under = fitted(build), fitted(build, under={"relearn": ADAPTER()})
    assert alone.keys() == under.keys()
    trained = [name for name in alone if alone[name].dim() > 1 and "mask" not in name]
    assert all(not torch.equal(alone[name], under[name]) for name in trained)
