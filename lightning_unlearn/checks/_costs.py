"""What attacks and audits cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from lightning_unlearn.observation import Cost, Subject


@dataclass
class Meter:
    """Seconds since it was made, and how often an attacker computed its loss."""

    started: float = field(default_factory=time.monotonic)
    losses: int = 0

    def counted(self, loss: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
        """The same loss, counted."""

        def counted(batch: Any) -> Tensor:
            self.losses += 1
            return loss(batch)

        return counted

    def read(self, attack: str) -> Cost:
        """The cost so far; whose model it was is for the check to fill in."""
        return Cost(attack, "unlearned", seconds=round(time.monotonic() - self.started, 3), losses=self.losses)


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
