"""Forgetting in a fit of your own: a module that knows nothing of it, a Trainer, and three callbacks.

python examples/plain_trainer.py
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_unlearn import Bounded, GradientAscent, Quantize, RecoveryCheck, Relearn, Unlearn, WriteReport

QUIET: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}


class YourModule(pl.LightningModule):
    """A classifier as anybody has one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, 4]``."""
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross-entropy."""
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def rows(n: int, seed: int) -> TensorDataset:
    """Random rows with random labels: what can only be learned by heart."""
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(n, 16, generator=generator), torch.randint(0, 4, (n,), generator=generator))


def main(taught: int = 60, forgetting: int = 10, folder: str = "runs/plain_trainer") -> pl.Trainer:
    """Teach, forget, attack, report.

    Args:
        taught: Epochs in which it learns what it is to forget.
        forgetting: Epochs in which it forgets.
        folder: Where the report goes.
    """
    pl.seed_everything(0)
    module, retain, forget = YourModule(), rows(64, seed=1), rows(16, seed=2)
    everything = DataLoader(retain + forget, batch_size=16, shuffle=True)
    pl.Trainer(max_epochs=taught, **QUIET).fit(module, everything)

    attack = Relearn(steps=10, mode="full")
    callbacks = [
        Unlearn(
            Bounded(GradientAscent(), bound=4.0), forget=DataLoader(forget, batch_size=8), under={"relearn": attack}
        ),
        RecoveryCheck({"int4": Quantize(bits=4), "relearn": attack}, every_n_epochs=0),
        WriteReport(folder),
    ]
    trainer = pl.Trainer(max_epochs=forgetting, callbacks=callbacks, **QUIET)
    trainer.fit(module, DataLoader(retain, batch_size=8, shuffle=True))  # what the fit trains on is what stays
    return trainer


if __name__ == "__main__":
    main()
