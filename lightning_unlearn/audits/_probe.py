from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.data import in_order, shared_batches
from lightning_unlearn.readouts import Exchange, Readout


@dataclass(frozen=True, eq=False)
class Probe:
    """Data on which knowledge is observed.

    Args:
        batches: This process's share: a batch, the number of each of its examples in the whole data, and whether it counts
            here. Each process has equally many, because a sharded network must run equally often everywhere. A batch that
            does not count makes up the number; it counts on another process.
        entities: The entity of each example of the whole data; empty if the data set names none.
        content_hash: Of all examples, in order.
        size: Number of examples of the whole data.
        exchanges: Question and answer of each example of the whole data; ``None`` if the readout does not give them.
    """

    batches: list[tuple[Any, Tensor, bool]]
    entities: list[str]
    content_hash: str
    size: int
    exchanges: list[Exchange] | None = None

    @property
    def clusters(self) -> list[str]:
        """The entity of each example; without entities, each example is its own."""
        named = len(self.entities) == self.size
        return self.entities if named else [f"example {index}" for index in range(self.size)]


def load_probe(loader: Iterable[Any], readout: Readout, rank: int = 0, world_size: int = 1) -> Probe:
    """Take this rank's share of ``loader``. Each example counts on one rank only.

    Args:
        loader: Batches; a ``DataLoader`` is gone through in order, whatever its sampler. Its data set may name
            ``entities``, one per example.
        readout: What reads the batches.
        rank: Number of this process.
        world_size: Number of processes.

    Example:
        >>> from lightning_unlearn import ClassificationReadout
        >>> probe = load_probe([(torch.zeros(2, 3), torch.tensor([0, 1]))], ClassificationReadout())
        >>> probe.size, [index.tolist() for _, index, _ in probe.batches]
        (2, [[0, 1]])
    """
    keys: list[str] = []
    numbered = []
    exchanges: list[Exchange] | None = []
    # Every rank reads all batches: numbers, keys and exchanges are of the whole data. Only the forward passes are shared.
    for batch in in_order(loader):
        start = len(keys)
        keys += readout.keys(batch)
        numbered.append((batch, torch.arange(start, len(keys))))
        told = None if exchanges is None else readout.exchanges(batch)
        exchanges = None if exchanges is None or told is None else [*exchanges, *told]
    shared = [(batch, index, own) for (batch, index), own in shared_batches(numbered, rank, world_size)]
    entities = list(getattr(getattr(loader, "dataset", None), "entities", []))
    return Probe(shared, entities, blake2b("".join(keys).encode(), digest_size=8).hexdigest(), len(keys), exchanges)
