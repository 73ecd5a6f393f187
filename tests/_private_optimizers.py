"""Optimizers that step along the forget gradient alone, and what is seen of the two steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from _modules import SomebodysModule
from torch import Tensor

OWN: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "momentum": lambda params: torch.optim.SGD(params, lr=2e-2, momentum=0.9),
    "adamw": lambda params: torch.optim.AdamW(params, lr=5e-3, weight_decay=0.2),
    "plain": lambda params: torch.optim.SGD(params, lr=2e-2),
}


def states(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [v for state in optimizer.state_dict()["state"].values() for v in state.values() if v is not None]


class AfterUsersStep(pl.Callback):
    """Stands before `Unlearn` in the list, so that its hook runs between the two steps."""

    def __init__(self) -> None:
        self.weights: list[list[Tensor]] = []

    def on_train_start(self, trainer: Any, module: Any) -> None:
        def keep(*args: Any) -> None:
            self.weights.append([p.detach().clone() for p in module.parameters()])

        trainer.optimizers[0].register_step_post_hook(keep)


class Fused(SomebodysModule):
    """Its optimizer is called by the scaler each time, and leaves out the step itself."""

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2, fused=True)
