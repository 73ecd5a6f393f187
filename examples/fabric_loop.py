"""A loop of your own, with Fabric: objectives, projectors and attacks work without a Trainer.

    python examples/fabric_loop.py

What the callbacks do besides is yours here: no guard of the realised step, no exact resume, no attack in the loop, no
report. If you want those, use a Trainer: `plain_trainer.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

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
    Quantize,
    QuestionAnswerData,
    TinyCausalLM,
)
from lightning_unlearn.data import loader_of


def people(group: str) -> Iterator[dict[str, Tensor]]:
    """Batches of questions and answers about people whom nobody knows, without end."""
    records = FileRecords("bundled:people", where={"group": [group]})
    return cycle(loader_of(QuestionAnswerData(records, Encoding("bundled"), LoaderSettings(batch_size=6))))


def gradients(fabric: Fabric, network: nn.Module, loss: Tensor) -> list[Tensor]:
    """Of each parameter, reduced over ranks; ``p.grad`` is left empty."""
    fabric.backward(loss)
    found = [p.grad if p.grad is not None else torch.zeros_like(p) for p in network.parameters()]
    network.zero_grad()
    return found


def inner(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Inner product of two gradients, in float64."""
    return torch.stack([(x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)]).sum()


def merge_(network: nn.Module, retain: list[Tensor], forget: list[Tensor], projector: nn.Module) -> None:
    """``p.grad`` becomes the projector's sum of both: it sees no more than their inner products."""
    gramian = torch.stack([torch.stack([inner(a, b) for b in (retain, forget)]) for a in (retain, forget)])
    on_retain, on_forget = projector(gramian).tolist()
    for p, r, f in zip(network.parameters(), retain, forget, strict=True):
        p.grad = on_retain * r + on_forget * f


def main(steps: int = 20) -> dict[str, float]:
    """Forget for some steps, then look at the rounded weights. Returns forget losses by what was looked at.

    Args:
        steps: How many.
    """
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.seed_everything(0)
    network = TinyCausalLM()
    network, optimizer = fabric.setup(network, torch.optim.AdamW(network.parameters(), lr=5e-4))
    retain, forget = people("retain"), people("forget")
    readout, keep, lose, projector = CausalLMReadout(), CrossEntropy(), NPO(beta=0.1), HalfSpace()
    original = FrozenCopy()  # NPO compares with the network as it is now
    original.attach(network)
    for _ in range(steps):
        batch = fabric.to_device(next(forget))
        on_forget = gradients(fabric, network, lose(readout(network, batch), original(readout, batch)))
        on_retain = gradients(fabric, network, keep(readout(network, fabric.to_device(next(retain)))))
        merge_(network, on_retain, on_forget, projector)
        optimizer.step()
        optimizer.zero_grad()

    probe = fabric.to_device(next(forget))
    found = {"as it is": keep(readout(network, probe)).item()}
    with Quantize(bits=4)(network) as points:  # leaving puts every bit back
        found |= {f"in {bits} bits": keep(readout(network, probe)).item() for bits in points}
    return found


if __name__ == "__main__":
    print(main())
