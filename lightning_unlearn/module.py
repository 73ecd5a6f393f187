"""The LightningModule for people who have only a network."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.objectives import CrossEntropy, Objective
from lightning_unlearn.readouts import CausalLMReadout, ClassificationReadout, Readout, is_language_model

_PREFIX = "network."


class UnlearningModule(pl.LightningModule):
    """Train a bare network on what must stay; ``Unlearn`` adds what must go.

    Checkpoints hold the network's own keys: ``network.load_state_dict(torch.load(path)["state_dict"])`` works without
    this class, and so does ``network.save_pretrained``.

    Args:
        network: A Hugging Face model, bare or with a PEFT adapter, a torchvision model, any module.
        readout: How to run it. Defaults to what fits: :class:`CausalLMReadout` or :class:`ClassificationReadout`.
        retain: What training on the retain data minimises. Defaults to :class:`CrossEntropy`.
        optimizer: From parameters to an optimizer.
        scheduler: From an optimizer to a learning-rate scheduler, stepped after every optimizer step.

    Example:
        >>> module = UnlearningModule(nn.Linear(3, 2))
        >>> round(module.training_step((torch.zeros(2, 3), torch.tensor([0, 1])), 0).item(), 1)
        0.7
    """

    def __init__(
        self,
        network: nn.Module,
        readout: Readout | None = None,
        retain: Objective | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        chosen: Readout = CausalLMReadout() if is_language_model(network) else ClassificationReadout()
        self.readout = chosen if readout is None else readout
        self.retain = CrossEntropy() if retain is None else retain
        if self.retain.needs_reference:
            raise ValueError(
                f"`retain` should need no reference model. Found `{type(self.retain).__name__}`. Use `CrossEntropy()`."
            )
        self.optimizer = optimizer
        self.scheduler = scheduler

    @override
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network says."""
        return self.network(*args, **kwargs)

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The retain loss, logged as ``retain_loss``."""
        return self._loss(batch, "retain_loss")

    @override
    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The retain loss, logged as ``val_loss``."""
        return self._loss(batch, "val_loss")

    @override
    def test_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The retain loss, logged as ``test_loss``."""
        return self._loss(batch, "test_loss")

    @override
    def configure_optimizers(self) -> Any:
        """The optimizer over what is trainable, and its scheduler."""
        optimizer = self.optimizer([p for p in self.network.parameters() if p.requires_grad])
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the network's own keys."""
        checkpoint["state_dict"] = {k.removeprefix(_PREFIX): v for k, v in checkpoint.get("state_dict", {}).items()}

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read the network's own keys."""
        checkpoint["state_dict"] = {_PREFIX + k: v for k, v in checkpoint["state_dict"].items()}

    def _loss(self, batch: Any, name: str) -> Tensor:
        prediction = self.readout(self.network, batch)
        loss: Tensor = self.retain(prediction)
        if self._trainer is not None:
            self.log(name, loss, batch_size=prediction.batch_size)
        return loss
