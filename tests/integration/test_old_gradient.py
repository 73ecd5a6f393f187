"""The last step's gradient is not held while the next step's activations are, unless somebody looks at it."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _joined_fits import rows
from _language_models import family
from _modules import quiet
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_unlearn import NPO, ForgetRetainData, Unlearn, UnlearningModule

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*validation_step:lightning.fabric.utilities.warnings.PossibleUserWarning"
)


class Looks(pl.Callback):
    """Whether there is a gradient when Lightning is about to make it none."""

    def __init__(self) -> None:
        self.seen: list[bool] = []

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.seen.append(any(p.grad is not None for p in pl_module.parameters()))


class Zeroes(UnlearningModule):
    """Keeps its gradients, as some optimizers want."""

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        optimizer.zero_grad(set_to_none=False)


class Own(UnlearningModule):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.retain(self.readout(self.network, batch), None)


def fit(kind: type[UnlearningModule] = UnlearningModule, callbacks: Any = (), **trainer: Any) -> tuple[Any, list[bool]]:
    """The weights in the end; and for each micro-batch, whether an old gradient was held while the network ran."""
    module, held = kind(family("gpt2"), optimizer=lambda p: torch.optim.SGD(p, lr=0.1)), []
    layer = module.network.transformer.h[0]
    retain, forget = (DataLoader(rows(seed, 9, n=12), batch_size=2) for seed in (1, 2))

    def saw(*_: Any) -> None:
        if torch.is_grad_enabled() and trainer_["step"]:
            held.append(layer.mlp.c_fc.weight.grad is not None)

    trainer_ = {"step": False}

    class Marks(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            trainer_["step"] = True

        def on_before_backward(self, *_: Any) -> None:
            trainer_["step"] = False

    layer.register_forward_pre_hook(saw)
    quiet(max_steps=3, callbacks=[Unlearn(NPO(0.3)), Marks(), *callbacks], limit_val_batches=0, **trainer).fit(
        module, datamodule=ForgetRetainData(retain=retain, forget=forget)
    )
    return [p.detach().clone() for p in module.network.parameters()], held


def test_it_is_gone_before_the_next_forward_pass() -> None:
    weights, held = fit()
    looks = Looks()
    expected, kept = fit(callbacks=[looks])
    assert held == [False, False, False]
    assert kept == [False, True, True]  # somebody looks: it is where Lightning leaves it
    assert looks.seen == [False, True, True]
    assert all(torch.equal(a, b) for a, b in zip(weights, expected, strict=True))


def test_what_accumulates_is_kept() -> None:
    _, held = fit(accumulate_grad_batches=2)
    assert held == [False, True] * 3


@pytest.mark.parametrize("kind", [Zeroes, Own])
def test_a_module_with_a_step_or_zeros_of_its_own_finds_it(kind: type[UnlearningModule]) -> None:
    _, held = fit(kind)
    assert held == [False, True, True]
