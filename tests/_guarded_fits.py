"""Fits with `StepGuard`, and what is seen of them from outside."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from _modules import SomebodysModule, loader, quiet
from torch import Tensor
from torch.nn import functional as F

from lightning_unlearn import Bounded, GradientAscent, Unlearn


class Module(SomebodysModule):
    """Any optimizer over two parameter groups."""

    KINDS = {
        "sgd": lambda groups: torch.optim.SGD(groups, lr=3e-2),
        "momentum": lambda groups: torch.optim.SGD(groups, lr=3e-2, momentum=0.9),
        "adam": lambda groups: torch.optim.Adam(groups, lr=1e-2),
        "adamw": lambda groups: torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.1),
        "amsgrad": lambda groups: torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.1, amsgrad=True),
    }

    def configure_optimizers(self) -> Any:
        groups = [
            {"params": [*self.body.parameters(), self.unused]},
            {"params": self.head.parameters(), "lr": 2e-2, "weight_decay": 0.0},
        ]
        optimizer = self.KINDS[self.optimizer](groups)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.7)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Outside(pl.Callback):
    """Retain gradients by plain autograd at the weights before each step, and what the step made of these weights."""

    def __init__(self, mixed: bool = False) -> None:
        self.mixed = mixed
        self.gradients: list[list[list[Tensor]]] = []  # step, micro-batch, parameter
        self.changes: list[list[Tensor]] = []
        self.weights: list[list[Tensor]] = []
        self._batches: list[Any] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if not self._batches:
            self.weights.append([p.detach().double().clone() for p in module.parameters()])
        self._batches.append(batch)

    @torch.enable_grad()  # some optimizers call the closure without
    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        params = list(module.parameters())
        rows = []
        for x, y in self._batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=self.mixed):
                loss = F.cross_entropy(module(x), y) / trainer.accumulate_grad_batches
            found = torch.autograd.grad(loss, params, allow_unused=True)
            rows.append([torch.zeros_like(p) if g is None else g for g, p in zip(found, params, strict=True)])
        self.gradients.append([[g.double() for g in row] for row in rows])
        self._batches = []

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        if not self._batches:
            before = self.weights[-1]
            self.changes.append([p.detach().double() - b for p, b in zip(module.parameters(), before, strict=True)])

    def on_train_end(self, trainer: Any, module: Any) -> None:
        assert self.changes, "a test that loops over the steps seen would assert nothing"

    def breaches(self, rule: str, scope: str, length: int = 1) -> list[float]:
        """Of each step: how far the rule is broken, beyond what rounding the weights to float32 does."""
        found = []
        accumulated = [[sum(parts) for parts in zip(*rows, strict=True)] for rows in self.gradients]
        for step, change in enumerate(self.changes):
            for row in accumulated[max(0, step - length + 1) : step + 1]:
                for scoped in scopes_of(scope, len(change)):
                    g, d, w = (torch.cat([v[i].flatten() for i in scoped]) for v in (row, change, self.weights[step]))
                    if not g.norm() or not d.norm():
                        continue
                    raised = g @ d if rule == "NoIncrease" else (g @ d).abs()
                    allowed = 4 * 2.0**-24 * (g * (w + d)).norm()
                    found.append(float((raised - allowed) / (g.norm() * d.norm())))
        return found


def scopes_of(scope: str, n: int) -> list[list[int]]:
    return [list(range(n))] if scope == "global" else [[i] for i in range(n)]


def unlearn(**kwargs: Any) -> Unlearn:
    return Unlearn(Bounded(GradientAscent(), bound=4.0), forget=loader(seed=2), weight=3.0, **kwargs)


def fit(*callbacks: pl.Callback, optimizer: str = "adamw", module: Any = None, **kwargs: Any) -> tuple[Any, Any]:
    module = Module(optimizer) if module is None else module
    trainer = quiet(callbacks=list(callbacks), max_epochs=2, **kwargs)
    trainer.fit(module, loader(seed=1))
    return module, trainer


FITS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulate": {"accumulate_grad_batches": 3},
    "clip_norm": {"gradient_clip_val": 0.3},
    "clip_value": {"gradient_clip_val": 0.02, "gradient_clip_algorithm": "value"},
    "bf16-mixed": {"precision": "bf16-mixed"},
}


class Seen(pl.Callback):
    """What the guard logged after each step."""

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.logged.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("guard/")})


NAMES = ("active", "kept", "retain_before", "retain_after", "fallbacks")
