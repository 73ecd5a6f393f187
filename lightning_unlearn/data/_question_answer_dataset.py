from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset, Subset

from lightning_unlearn.data.encodings import Encoding, encode_rows
from lightning_unlearn.data.records import QuestionAnswer


class QuestionAnswerDataset(Dataset[dict[str, Any]]):
    """Encoded questions and answers, each ``{"input_ids": [T], "labels": [T]}`` with -100 where nothing is supervised.

    Args:
        rows: What to ask and to answer.
        encoding: How rows become tokens.

    Example:
        >>> rows = [QuestionAnswer("Who employs Ada?", "The post office", entity="Ada", source="row 0")]
        >>> QuestionAnswerDataset(rows, Encoding("bundled")).entities
        ['Ada']
    """

    def __init__(self, rows: Sequence[QuestionAnswer], encoding: Encoding) -> None:
        self.rows = tuple(rows)
        self.encoding = encoding
        self._examples = encode_rows(self.rows, encoding)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self._examples[index], **self.encoding.beside(self.rows[index])}

    @property
    def entities(self) -> list[str]:
        """The entity that each row is about."""
        return [row.entity for row in self.rows]

    @property
    def texts(self) -> list[str]:
        """Each row as it is read: question and answer."""
        return [f"{row.question} {row.answer}" for row in self.rows]


def questions_in(dataset: Any) -> tuple[Sequence[QuestionAnswer], Encoding] | None:
    """The rows of a data set, or of a subset of one, and how they are encoded; ``None`` if it has none in words."""
    if isinstance(dataset, QuestionAnswerDataset):
        return dataset.rows, dataset.encoding
    if not isinstance(dataset, Subset) or (found := questions_in(dataset.dataset)) is None:
        return None
    rows, encoding = found
    return [rows[index] for index in dataset.indices], encoding
