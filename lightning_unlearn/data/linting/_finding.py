from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a request for forgetting, or should be looked at.

    Args:
        check: The class that found it.
        says: What was found.
        rows: Which rows show it, by their source: ``"row 3 of `forget.jsonl`"``.
        way_out: What to do about it.
        count: How many rows show it, where not all are listed.
    """

    check: str
    says: str
    rows: tuple[str, ...]
    way_out: str
    count: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", self.count or len(self.rows))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "rows": list(self.rows)}
