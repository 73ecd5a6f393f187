"""What `SubspaceGuard` promises: measured on the weights, in float64, at inputs it saw at the weights it started from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import CLASSES, HostileModule, loader, quiet
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_unlearn import Bounded, GradientAscent, Quantize, RecoveryCheck, Relearn, SubspaceGuard, Unlearn
from lightning_unlearn.callbacks import StepGuard
from lightning_unlearn.functional.subspace import thinner
from lightning_unlearn.guards import Cone, InputSubspace, Null, NullSpace, OptimizerMetric

INPUTS, KEPT = 24, 6
KINDS: dict[str, Callable[[Any], Any]] = {
    "momentum": lambda params: torch.optim.SGD(params, lr=3e-2, momentum=0.9),
    "adam": lambda params: torch.optim.Adam(params, lr=1e-2),
    "adamw": lambda params: torch.optim.AdamW(params, lr=1e-2, weight_decay=0.1),
}


class Module(pl.LightningModule):
    """Two linear layers with biases, and any optimizer."""

    def __init__(self, optimizer: str = "adamw") -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.net = nn.Sequential(nn.Linear(INPUTS, 16), nn.Tanh(), nn.Linear(16, CLASSES))
        self.optimizer = optimizer

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("my_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return KINDS[self.optimizer](self.parameters())


def kept(dtype: torch.dtype = torch.float32) -> TensorDataset:
    """Few enough that every layer has inputs to spare."""
    generator = torch.Generator().manual_seed(7)
    return TensorDataset(torch.randn(KEPT, INPUTS, generator=generator).to(dtype), torch.arange(KEPT) % CLASSES)


def new(n: int = 40) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(8)
    x, y = torch.randn(n, INPUTS, generator=generator), torch.randint(0, CLASSES, (n,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=4)


def guarding(subspace: Any = None, **kwargs: Any) -> SubspaceGuard:
    subspace = NullSpace(threshold=0) if subspace is None else subspace
    return SubspaceGuard(subspace, **{"retain": DataLoader(kept(), batch_size=KEPT), "batches": 1, **kwargs})


def fit(*callbacks: pl.Callback, module: Any = None, data: Any = None, **kwargs: Any) -> tuple[Any, Any]:
    module = Module() if module is None else module
    trainer = quiet(callbacks=list(callbacks), **{"max_epochs": 3, **kwargs})
    trainer.fit(module, new() if data is None else data)
    return module, trainer


@torch.no_grad()
def drift(module: Any, start: Any, inputs: Tensor, layers: tuple[int, ...] = (0, 2)) -> float:
    """The worst change of any layer's outputs at the inputs it had at the start."""
    x, worst = inputs.double(), 0.0
    for i, (now, then) in enumerate(zip(copy.deepcopy(module.net).double(), copy.deepcopy(start.net).double())):
        if i in layers:
            worst = max(worst, float((now(x) - then(x)).abs().max()))
        x = then(x)
    return worst


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


FITS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"gradient_clip_val": 0.3},
    "accumulate": {"accumulate_grad_batches": 3, "max_epochs": 8},
}


@pytest.mark.parametrize("subspace", [NullSpace(0), InputSubspace(1.0), InputSubspace(1.0, width=8)], ids=repr)
@pytest.mark.parametrize("fitted", FITS)
@pytest.mark.parametrize("optimizer", KINDS)
def test_outputs_at_protected_inputs_stay(optimizer: str, fitted: str, subspace: Any) -> None:
    guard = guarding(subspace)
    module, trainer = fit(guard, module=Module(optimizer), **FITS[fitted])
    print(drift(module, Module(), kept().tensors[0]), trainer.callback_metrics, trainer.global_step)
    assert trainer.global_step >= 30
    assert guard._steps == {"taken": trainer.global_step, "guarded": trainer.global_step}
    assert drift(module, Module(), kept().tensors[0]) < 1e-5
