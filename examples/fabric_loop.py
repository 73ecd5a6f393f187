"""A loop of your own, with Fabric: forgetting, a guard and checks in three lines.

python examples/fabric_loop.py
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_unlearn import (
    NPO,
    Encoding,
    FileRecords,
    LoaderSettings,
    Quantize,
    QuestionAnswerData,
    RecoveryCheck,
    StepGuard,
    TinyCausalLM,
    Unlearn,
    WriteReport,
)
from lightning_unlearn.loops import FabricLoop


def people(group: str) -> DataLoader[Any]:
    """Questions and answers about people whom nobody knows, as tokens."""
    records = FileRecords("bundled:people", where={"group": [group]})
    data = QuestionAnswerData(records, Encoding("bundled"), LoaderSettings(batch_size=6))
    data.setup("fit")
    return data.train_dataloader()


def your_loss(network: nn.Module, batch: Any) -> Tensor:
    """Whatever you minimise."""
    loss: Tensor = network(**batch).loss
    return loss


def main(epochs: int = 4, folder: str = "runs/fabric_loop") -> FabricLoop:
    """Forget for some epochs, attack the rounded weights, report.

    Args:
        epochs: How many.
        folder: Where the report goes.
    """
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.seed_everything(0)
    network = TinyCausalLM()
    model, optimizer = fabric.setup(network, torch.optim.AdamW(network.parameters(), lr=5e-4))
    retain = fabric.setup_dataloaders(people("retain"))

    callbacks = [
        Unlearn(NPO(beta=0.1), forget=people("forget")),
        StepGuard(),
        RecoveryCheck({"int4": Quantize(bits=4)}, every_n_epochs=0),
        WriteReport(folder),
    ]
    with FabricLoop(fabric, model, optimizer, retain, callbacks, loss=your_loss) as loop:
        for _ in range(epochs):
            for batch in loop.batches():  # instead of `for batch in retain`
                loop.backward(your_loss(model, batch))  # instead of `fabric.backward(...)`
                fabric.clip_gradients(model, optimizer, max_norm=1.0)
                optimizer.step()
                optimizer.zero_grad()
    return loop


if __name__ == "__main__":
    main()
