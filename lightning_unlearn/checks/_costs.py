"""What attacks and audits cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from lightning_unlearn.observation import Cost, Subject
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import on_every_rank


@dataclass
class Meter:
    """Seconds since it was made, and what an attacker computed its loss on."""

    started: float = field(default_factory=time.monotonic)
    losses: int = 0
    rows: int = 0
    tokens: int | Tensor = 0

    def count(self, rows: int, tokens: int | Tensor) -> None:
        """One batch on which the attacker computed its loss."""
        self.losses += 1
        self.rows += rows
        self.tokens = self.tokens + tokens  # a sum stays on its device: to ask for it would wait for the device

    def read(self, attack: str) -> Cost:
        """The cost so far; whose model it was is for the check to fill in. Collective."""
        seconds = round(time.monotonic() - self.started, 3)
        rows, tokens = map(sum, zip(*on_every_rank((self.rows, int(self.tokens))), strict=True))
        return Cost(attack, "unlearned", seconds=seconds, losses=self.losses, rows=rows, tokens=tokens)


def tokens_in(batch: Any, readout: Readout) -> int | Tensor:
    """How many tokens ``batch`` has without padding, ``[]`` int64; 0 if it is no text.

    Example:
        >>> import torch
        >>> from lightning_unlearn.readouts import ClassificationReadout
        >>> batch = {"input_ids": torch.ones(2, 3).long(), "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]])}
        >>> int(tokens_in(batch, ClassificationReadout())), tokens_in([torch.ones(2, 3)], ClassificationReadout())
        (4, 0)
    """
    if (present := readout.present(batch)) is not None:
        return present.sum()
    ids = batch.get("input_ids") if isinstance(batch, Mapping) else None
    if not isinstance(ids, Tensor):
        return 0
    mask = batch.get("attention_mask")
    return mask.bool().sum() if isinstance(mask, Tensor) else ids.numel()


def ledger(costs: list[Cost], subject: Subject) -> Callable[[Cost], None]:
    """Return what adds a cost of looking at ``subject`` to ``costs``: one entry for each attack, however often it ran."""

    def spend(cost: Cost) -> None:
        costs[:] = totals([*costs, replace(cost, subject=subject)])

    return spend


def totals(costs: Iterable[Cost]) -> list[Cost]:
    """One entry for each attack and subject.

    Example:
        >>> [cost.seconds for cost in totals([Cost("int4", "unlearned", seconds=1.0)] * 3)]
        [3.0]
    """
    found: dict[tuple[str, str], Cost] = {}
    for cost in costs:
        key = (cost.attack, cost.subject)
        found[key] = found[key].plus(cost) if key in found else cost
    return list(found.values())
