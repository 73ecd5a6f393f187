from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import lightning.pytorch as pl


@dataclass(frozen=True)
class RowSet:
    """The rows of one data set that a loader visits. An order refers to them by their number in it.

    Args:
        dataset: The rows, by number; it has a length.
        batch_size: Rows per batch.
        drop_last: Whether a last, smaller batch is left out.

    Example:
        >>> RowSet(range(5), batch_size=2).rows_for(RowSet(range(9), batch_size=3))  # three batches
        6
    """

    dataset: Any
    batch_size: int
    drop_last: bool = False

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def entities(self) -> list[str] | None:
        """The entity of each row, if the data set names entities."""
        return getattr(self.dataset, "entities", None)

    @property
    def texts(self) -> list[str] | None:
        """The text of each row, if the data set tells it."""
        return getattr(self.dataset, "texts", None)

    def groups(self) -> dict[str, list[int]]:
        """The rows of each entity.

        Raises:
            ValueError: If the data set names none.
        """
        if self.entities is None:
            raise ValueError(
                "The order should get data that name the entity of each row: a data set with `entities`, such as that of "
                f"`QuestionAnswerData(FileRecords(..., entity=...))`. Found `{type(self.dataset).__name__}`."
            )
        groups: dict[str, list[int]] = {}
        for row, entity in enumerate(self.entities):
            groups.setdefault(entity, []).append(row)
        return groups

    def alongside(self, other: RowSet, visited: Sequence[int]) -> list[int]:
        """For each of these rows in an epoch, with which of the ``visited`` rows of ``other`` it shares a batch.

        Example:
            >>> RowSet(range(9), batch_size=4).alongside(RowSet("abc", batch_size=2), [2, 0, 1])
            [2, 2, 0, 0, 1, 1]
        """
        places = (place * other.batch_size // self.batch_size for place in range(self._rows_for(len(visited), other)))
        return [visited[min(place, len(visited) - 1)] for place in places]

    def rows_for(self, other: RowSet) -> int:
        """How many of these rows fill as many batches as ``other`` has. A last, partial batch counts by its share."""
        return self._rows_for(len(other), other)

    def _rows_for(self, rows: int, other: RowSet) -> int:
        return -(-rows * self.batch_size // other.batch_size)


class EpochRows(NamedTuple):
    """Rows of one epoch, in the order they are visited. Row ``i`` of one list goes with row ``i`` of the other.

    If batch sizes differ, batch ``i`` goes with batch ``i``.
    """

    forget: list[int]
    retain: list[int]

    def whole_batches(self, forget_size: int, retain_size: int) -> EpochRows:
        """As many whole batches of both as both have.

        Example:
            >>> EpochRows(forget=[0, 1, 2], retain=[5, 6, 7, 8]).whole_batches(forget_size=2, retain_size=2)
            EpochRows(forget=[0, 1], retain=[5, 6])
        """
        batches = min(len(self.forget) // forget_size, len(self.retain) // retain_size)
        return EpochRows(self.forget[: batches * forget_size], self.retain[: batches * retain_size])


class Order(ABC):
    """Which forget rows and which retain rows an epoch visits, and in which order.

    An order should be a pure function of the two data sets, the seed and the epoch. Every rank computes it and takes its
    share, and a resumed fit computes it again. No epoch should be longer than epoch 0: a trainer asks for the length once,
    and cuts longer ones. A new order is a subclass with :meth:`rows`; YAML builds it by its
    ``class_path``.

    Example:
        >>> class EveryOther(Order):
        ...     def rows(self, forget, retain, *, seed, epoch):
        ...         return EpochRows(list(range(len(forget)))[::2], list(range(retain.rows_for(forget)))[::2])
        >>> EveryOther().rows(RowSet("abcd", 1), RowSet("efgh", 1), seed=0, epoch=0)
        EpochRows(forget=[0, 2], retain=[0, 2])
    """

    def prepare(self, forget: RowSet, retain: RowSet, trainer: pl.Trainer | None) -> None:
        """Look at the data, or at the model in ``trainer.lightning_module``, before the first epoch.

        The result must be the same on every rank, and the same again when the fit is resumed. Does nothing by default.
        """

    @abstractmethod
    def rows(self, forget: RowSet, retain: RowSet, *, seed: int, epoch: int) -> EpochRows:
        """The rows of one epoch."""
