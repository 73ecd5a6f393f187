from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import Any

from typing_extensions import override

from lightning_unlearn.attacks._base import BatchLoss
from lightning_unlearn.attacks._relearn import Relearn


class RelearnInTurn(Relearn):
    """Fine-tunes in turn on the attacker's data and on other data beside them. A subclass says whose turn it is.

    Args:
        beside: The other data: ``"retain"``, what the fit keeps, or a name in ``RecoveryCheck(attack_data={...})``.
        **kwargs: As in :class:`Relearn`. ``batches`` limits the attacker's own.
    """

    def __init__(self, beside: str = "retain", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beside = beside
        self.needs_data = "both"

    @abstractmethod
    def has_turn(self, step: int) -> bool:
        """Whether the attacker's own data are trained on in this step, counted from 0."""

    @override
    def stream(self, batches: Iterable[Any], loss: BatchLoss | None) -> Iterator[Any]:
        """In turn, each data in its own order, from its start again when it is through.

        Args:
            batches: A mapping: the attacker's as ``"attack"``, the others as ``"beside"``.
            loss: See :class:`Relearn`.
        """
        given: Mapping[str, Iterable[Any]] = batches if isinstance(batches, Mapping) else {"attack": batches}
        own = super().stream(given["attack"], loss)
        others = _over_and_over(given.get("beside", ()), self.beside)
        return (next(own if self.has_turn(step) else others) for step in count())


def _over_and_over(batches: Iterable[Any], name: str) -> Iterator[Any]:
    """One by one, and never kept: this may be all that a fit trains on."""
    for number in count():
        found = False
        for batch in batches:
            found = True
            yield batch
        if not found:
            passes = "any" if number == 0 else "a second pass over the"
            raise ValueError(
                f"The data `{name}` beside the attacker's should have batches. Found none in {passes} data. Give a "
                "`DataLoader`, as `RecoveryCheck(attack_data={...})` or as what the fit trains on."
            )
