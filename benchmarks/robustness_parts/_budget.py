from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.runtime import eval_without_grad
from robustness_parts._judges import READOUT


class LastWithinBudget(pl.Callback):
    """Ends a fit on the last weights that disturbed neutral text by no more than a budget.

    Disruption is the mean KL divergence from the original's next-token distributions to the current ones. Forgetting often
    disturbs first and is repaired by later steps, so the fit goes on, and the last weights within the budget are kept.

    Args:
        batches: Neutral text.
        kl: The budget, in nats a token.
        every: Steps between two looks.
    """

    def __init__(self, batches: list[Any], kl: float, every: int) -> None:
        self.batches, self.kl, self.every = batches, kl, every
        self.curve: list[tuple[int, float]] = []
        self.kept: tuple[int, float] = (0, 0.0)

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # Not later: an edit may change the network before the first step.
        network: nn.Module = pl_module.network  # type: ignore[assignment]
        # Lightning moves the module to its device only after `setup`.
        network.to(trainer.strategy.root_device)
        self._original = self._logs(network)
        self._keep(network, 0, 0.0)

    @override
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        step = trainer.global_step
        if step == 0 or (step % self.every and step != trainer.max_steps):
            return
        network: nn.Module = pl_module.network  # type: ignore[assignment]
        disruption = self.disruption(network)
        self.curve.append((step, round(disruption, 5)))
        if disruption <= self.kl:
            self._keep(network, step, disruption)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        network: nn.Module = pl_module.network  # type: ignore[assignment]
        network.load_state_dict(self._weights)

    def disruption(self, network: nn.Module) -> float:
        """Nats a token between the original and ``network``."""
        now = self._logs(network)
        return float((self._original.exp() * (self._original - now)).sum(1).mean())

    def _keep(self, network: nn.Module, step: int, disruption: float) -> None:
        self.kept = (step, round(disruption, 5))
        self._weights = {name: value.detach().clone() for name, value in network.state_dict().items()}

    def _logs(self, network: nn.Module) -> Tensor:
        with eval_without_grad(network):
            return torch.cat([READOUT(network, batch).logits.float().log_softmax(1) for batch in self.batches])
