"""A loop of your own, without any callback: objectives, projectors and attacks work alone.

    python examples/fabric_by_hand.py

What callbacks do besides is yours here: no guard of the realised step, no exact resume, no attack in the loop, no
report. With three lines you have those, too: `fabric_loop.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from lightning_unlearn import (
    NPO,
    CausalLMReadout,
    CrossEntropy,
    Encoding,
    FileRecords,
    FrozenCopy,
    HalfSpace,
    LoaderSettings,
    Objective,
    Projector,
    Quantize,
    QuestionAnswerData,
    Readout,
    TinyCausalLM,
)
from lightning_unlearn.prediction import Likelihood


def people(group: str) -> Iterator[dict[str, Tensor]]:
    """Batches of questions and answers about people whom nobody knows, without end."""
    records = FileRecords("bundled:people", where={"group": [group]})
    data = QuestionAnswerData(records, Encoding("bundled"), LoaderSettings(batch_size=6))
    data.setup("fit")
    return cycle(data.train_dataloader())


class Losses(nn.Module):
    """What Fabric wraps: its precision and its reduction over ranks belong to this ``forward``.

    Args:
        network: Any network.
        readout: How it is run on a batch.
    """

    def __init__(self, network: nn.Module, readout: Readout) -> None:
        super().__init__()
        self.network = network
        self.readout = readout

    def forward(self, batch: Any, objective: Objective, reference: Likelihood | None = None) -> Tensor:
        """The loss of ``objective`` on a batch."""
        loss: Tensor = objective(self.readout(self.network, batch), reference)
        return loss


def gradients(fabric: Fabric, network: nn.Module, loss: Tensor) -> list[Tensor]:
    """Of each parameter; ``p.grad`` is left empty."""
    fabric.backward(loss)
    found = [p.grad if p.grad is not None else torch.zeros_like(p) for p in network.parameters()]
    network.zero_grad()
    return found


def inner(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Inner product of two gradients, in float64."""
    return torch.stack([(x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)]).sum()


def merge_(network: nn.Module, retain: list[Tensor], forget: list[Tensor], projector: Projector) -> None:
    """``p.grad`` becomes the projector's sum of both: it sees no more than their inner products."""
    gramian = torch.stack([torch.stack([inner(a, b) for b in (retain, forget)]) for a in (retain, forget)])
    on_retain, on_forget = projector(gramian).tolist()
    for p, r, f in zip(network.parameters(), retain, forget, strict=True):
        p.grad = on_retain * r + on_forget * f


def main(steps: int = 20) -> dict[str, float]:
    """Forget for some steps, then look at the rounded weights. Returns losses on what must go, by what was looked at.

    Args:
        steps: How many.
    """
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.seed_everything(0)
    network, readout = TinyCausalLM(), CausalLMReadout()
    losses, optimizer = fabric.setup(Losses(network, readout), torch.optim.AdamW(network.parameters(), lr=5e-4))
    retain, forget = people("retain"), people("forget")
    keep, lose, projector = CrossEntropy(), NPO(beta=0.1), HalfSpace()
    original = FrozenCopy()  # NPO compares with the network as it is now
    original.attach(network)
    for _ in range(steps):
        batch = fabric.to_device(next(forget))
        on_forget = gradients(fabric, network, losses(batch, lose, original(readout, batch)))
        on_retain = gradients(fabric, network, losses(fabric.to_device(next(retain)), keep))
        merge_(network, on_retain, on_forget, projector)
        optimizer.step()
        optimizer.zero_grad()

    probe = fabric.to_device(next(people("forget")))
    found = {"as it is": losses(probe, keep).item()}
    with Quantize(bits=4)(network) as points:  # leaving puts every bit back
        found |= {f"in {bits:g} bits": losses(probe, keep).item() for bits in points}
    return found


if __name__ == "__main__":
    print(main())
