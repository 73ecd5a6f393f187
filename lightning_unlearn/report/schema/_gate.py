from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "fail", "unknown", "warning"]
"""The result of a gate: ``fail`` and ``unknown`` block a number, ``warning`` is shown beside it."""


@dataclass(frozen=True)
class Gate:
    """A condition without which a number is not a verdict.

    Args:
        code: ``"G1"`` to ``"G12"``.
        claim: What is true if the gate is passed, in words.
        status: ``fail`` and ``unknown`` turn the numbers in its reach grey; a ``warning`` is shown beside them.
        reason: What was found.
        metric: The metric in its reach; empty for all.
        attack: The attack in its reach; empty for all.
        point: The point in its reach; None for all.
    """

    code: str
    claim: str
    status: Status
    reason: str
    metric: str = ""
    attack: str = ""
    point: float | None = None

    @property
    def blocks(self) -> bool:
        """Whether it keeps the numbers in its reach from being a verdict."""
        return self.status in ("fail", "unknown")
