from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_unlearn.data._loaders import batch_size_of, in_order, rows_of, visited
from lightning_unlearn.data._question_answer_dataset import QuestionAnswerDataset, questions_in
from lightning_unlearn.data._stream import shared_batches
from lightning_unlearn.data.encodings import Encoding
from lightning_unlearn.data.records import QuestionAnswer
from lightning_unlearn.readouts import Exchange, Readout


@dataclass(frozen=True, eq=False)
class Probe:
    """Data on which knowledge is observed.

    Args:
        batches: This process's share: a batch, the number of each of its examples in the whole data, and whether it counts
            here. Each process has equally many, because a sharded network must run equally often everywhere. A batch that
            does not count makes up the number; it counts on another process.
        entities: The entity of each example of the whole data; empty if the data set names none, or if it is not known in
            which order the loader visits its rows.
        content_hash: Of all examples, in order.
        size: Number of examples of the whole data.
        exchanges: Question and answer of each example of the whole data; ``None`` if the readout does not give them.
        loader: Where the batches came from.
        readout: What read them.
        rank: Number of this process.
        world_size: Number of processes.
    """

    batches: list[tuple[Any, Tensor, bool]]
    entities: list[str]
    content_hash: str
    size: int
    exchanges: list[Exchange] | None = None
    loader: Any = None
    readout: Readout | None = None
    rank: int = 0
    world_size: int = 1

    @property
    def rows(self) -> Sequence[QuestionAnswer] | None:
        """Each example's question and answer in words.

        ``None`` if the data set is no :class:`QuestionAnswerDataset`, or if it is not known in which order the loader
        visits its rows.
        """
        return None if self._words is None else self._words[0]

    @cached_property
    def _words(self) -> tuple[Sequence[QuestionAnswer], Encoding] | None:
        return None if rows_of(self.loader) is None else questions_in(visited(self.loader))

    def asked(self, rows: Sequence[QuestionAnswer]) -> Probe:
        """The same probe with other words: as many rows, in the same order, encoded in the same way.

        Raises:
            ValueError: If the probe has no rows of its own, or another number of them; if other words leave less room for an
                answer.
        """
        if self._words is None or self.readout is None:
            raise ValueError(
                "A probe should hold questions and answers in words to be asked in other words. Found "
                f"`{type(self.loader).__name__}` over `{type(getattr(self.loader, 'dataset', None)).__name__}`. Give it as "
                "`QuestionAnswerData`, or by a loader whose order is known."
            )
        own, encoding = self._words
        if len(rows) != len(own):
            raise ValueError(f"A probe of {len(own)} rows should be asked in as many. Found {len(rows)}.")
        dataset = QuestionAnswerDataset(rows, encoding)
        _refuse_cut_answers(own, dataset)
        loader = DataLoader(dataset, batch_size_of(self.loader), collate_fn=self.loader.collate_fn)
        return load_probe(loader, self.readout, self.rank, self.world_size)

    @property
    def clusters(self) -> list[str]:
        """The entity of each example; without entities, each example is its own."""
        named = len(self.entities) == self.size
        return self.entities if named else [f"example {index}" for index in range(self.size)]


def _refuse_cut_answers(before: Sequence[QuestionAnswer], asked: QuestionAnswerDataset) -> None:
    encoding = asked.encoding
    for number, (own, row) in enumerate(zip(before, asked.rows, strict=True)):
        # Only a full row can have been cut; encoding it again tells.
        full = len(asked[number]["input_ids"]) >= encoding.max_length
        if full and encoding.encode(row).cut > encoding.encode(own).cut:
            raise ValueError(
                f"`max_length` should leave room for the whole answer of {row.source} in other words, or its scores could "
                f"not be compared. Found `max_length = {encoding.max_length}` and {encoding.encode(row).length} tokens."
            )


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
    for batch in (ordered := in_order(loader)):
        start = len(keys)
        keys += readout.keys(batch)
        numbered.append((batch, torch.arange(start, len(keys))))
        told = None if exchanges is None else readout.exchanges(batch)
        exchanges = None if exchanges is None or told is None else [*exchanges, *told]
    shared = [(batch, index, own) for (batch, index), own in shared_batches(numbered, rank, world_size)]
    entities = list(getattr(getattr(ordered, "dataset", None), "entities", []))
    content_hash = blake2b("".join(keys).encode(), digest_size=8).hexdigest()
    return Probe(shared, entities, content_hash, len(keys), exchanges, loader, readout, rank, world_size)
