"""Fits with a `RecoveryCheck`, and what it should have found, by hand."""

from __future__ import annotations

from typing import Any

import torch
from _modules import SomebodysModule, loader, quiet
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn

from lightning_unlearn import Bounded, GradientAscent, Quantize, RecoveryCheck, Unlearn

KEY = "recovery/none/probability"


class Validated(SomebodysModule):
    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("val_loss", loss)
        return loss


class WithBatchNorm(Validated):
    def __init__(self) -> None:
        super().__init__("sgd")
        self.head = nn.Sequential(nn.BatchNorm1d(16), self.head)


class Remembering(DummyLogger):
    """Keeps all that is logged, with its step."""

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[tuple[int | None, str, float]] = []

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.logged += [(step, key, float(value)) for key, value in metrics.items()]

    def of(self, key: str) -> list[tuple[int | None, float]]:
        return [(step, value) for step, name, value in self.logged if name == key]


def observed_fit(*callbacks: Any, module: Any = None, ckpt_path: Any = None, **kwargs: Any) -> Any:
    """Six steps an epoch, three batches of validation. `Unlearn` comes first."""
    module = Validated() if module is None else module
    unlearn = Unlearn(Bounded(GradientAscent(), bound=6.0), forget=loader(seed=2, n=12))
    checkpointing = any(isinstance(c, Checkpoint) for c in callbacks)
    trainer = quiet(callbacks=[unlearn, *callbacks], **{"enable_checkpointing": checkpointing, **kwargs})
    trainer.fit(module, loader(seed=1), loader(seed=3, n=12), ckpt_path=ckpt_path)
    return trainer, module


def int4_check(**kwargs: Any) -> RecoveryCheck:
    return RecoveryCheck({"int4": Quantize(bits=4)}, **kwargs)


def probability_by_hand(module: nn.Module) -> float:
    """The mean probability of the right class of the forget examples, which `KEY` should say."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    with torch.no_grad():
        found = [torch.softmax(module(x), -1).gather(1, y[:, None])[:, 0] for x, y in loader(seed=2, n=12)]
    for m, training in modes:
        m.training = training
    return torch.cat(found).mean().item()


def levels(check: RecoveryCheck) -> list[tuple[int, float]]:
    """Step and value of each observation that `KEY` is about."""
    return [
        (o.step, o.value)
        for o in check.observations
        if (o.attack, o.split, o.metric) == ("none", "forget", "probability")
    ]
