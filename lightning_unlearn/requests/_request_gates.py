from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_unlearn.functional.settings import check_between, check_not_negative
from lightning_unlearn.requests._ledger import Entry


@dataclass(frozen=True)
class RequestGates:
    """What has to hold after each request; all are shares of what the network knew before the first.

    Args:
        left: Of what a request names, at most so much may be left when it has been carried out.
        returned: Of what an earlier request names, at most so much may have come back since then.
        retained: Of what must stay, at least so much has to.

    Example:
        >>> figures = {"forget": {"start": 0.8, "after": 0.6}, "retain": {"start": 0.9, "after": 0.9}}
        >>> RequestGates().failed("7", figures, [])
        ['`7` was not forgotten: 75% of it is left, more than 50%']
    """

    left: float = 0.5
    returned: float = 0.1
    retained: float = 0.9

    def __post_init__(self) -> None:
        check_between("left", self.left, 0, 1)
        check_not_negative("returned", self.returned)
        check_between("retained", self.retained, 0, 1)

    def failed(self, request: str, figures: Mapping[str, Any], earlier: Sequence[Entry]) -> list[str]:
        """The gates that a request fails, in words.

        Args:
            request: Its name.
            figures: What was measured after it: see :class:`RequestSequence`.
            earlier: The entries of the requests before it that are in effect.
        """
        left = _share(figures["forget"]["after"], figures["forget"]["start"])
        kept = _share(figures["retain"]["after"], figures["retain"]["start"])
        failed = []
        if not left <= self.left:
            failed.append(f"`{request}` was not forgotten: {left:.0%} of it is left, more than {self.left:.0%}")
        if not kept >= self.retained:
            failed.append(f"What must stay was lost: {kept:.0%} of it is left, less than {self.retained:.0%}")
        for name, back in came_back(figures, earlier).items():
            if not back <= self.returned:
                failed.append(f"`{name}` came back: by {back:.0%} of what was known, more than {self.returned:.0%}")
        return failed


def came_back(figures: Mapping[str, Any], earlier: Sequence[Entry]) -> dict[str, float]:
    """Of each earlier request, what is known now beyond what it had left, as a share of what was known at the start.

    Empty where earlier requests were not looked at again.
    """
    now = figures.get("audited", {})
    then = {entry.request: entry.figures["forget"] for entry in earlier if entry.kind == "request"}
    return {
        name: max(_share(_number(now[name]) - _number(of["after"]), of["start"]), 0.0)
        for name, of in then.items()
        if name in now
    }


def _number(value: float | None) -> float:
    """What is no number was written as none, and passes no gate."""
    return float("nan") if value is None else value


def _share(value: float | None, of: float | None) -> float:
    whole = _number(of)
    # What was not known at the start cannot be lost, nor come back as a share of it.
    return _number(value) / whole if whole != 0 else float(_number(value) > 0)
