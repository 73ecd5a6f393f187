"""Fits in which some weights should stay, under optimizers that move weights without a gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from _modules import SomebodysModule, loader, quiet
from torch import Tensor

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "momentum, decay": lambda p: torch.optim.SGD(p, lr=3e-2, momentum=0.9, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    "fused": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1, fused=True),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True, weight_decay=0.1),
}


class Module(SomebodysModule):
    def __init__(self, optimizer: str = "adamw") -> None:
        super().__init__()
        self.kind = optimizer

    def configure_optimizers(self) -> Any:
        return OPTIMIZERS[self.kind](self.parameters())


def fit(*callbacks: Any, module: Any = None, **kwargs: Any) -> tuple[dict[str, Tensor], Any]:
    module = Module() if module is None else module
    ckpt_path = kwargs.pop("ckpt_path", None)
    trainer = quiet(callbacks=list(callbacks), **{"max_epochs": 2, **kwargs})
    trainer.fit(module, loader(seed=1), ckpt_path=ckpt_path)
    return {name: p.detach() for name, p in module.named_parameters()}, trainer
