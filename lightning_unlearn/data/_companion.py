from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase
from typing_extensions import override

from lightning_unlearn.data._encoding import Encoding
from lightning_unlearn.data._pairing import hash_of
from lightning_unlearn.data._question_answer import Batch, QuestionAnswerData, QuestionAnswerDataset
from lightning_unlearn.data._rows import QuestionAnswer, read_records, select


class CompanionDataset(QuestionAnswerDataset):
    """Encoded questions with another one beside each, each ``{"input_ids", "labels", "companion": {...}}``.

    Args:
        rows: What must go.
        others: What stands beside, one per row.
        tokenizer: Any Hugging Face tokenizer.
        encoding: Template, length and date.
    """

    def __init__(
        self,
        rows: Sequence[QuestionAnswer],
        others: Sequence[QuestionAnswer],
        tokenizer: PreTrainedTokenizerBase,
        encoding: Encoding = Encoding(),  # noqa: B008  # frozen
    ) -> None:
        super().__init__(rows, tokenizer, encoding)
        self.others = tuple(others)
        self._beside = [encoding(other, tokenizer) for _, other in zip(self.rows, self.others, strict=True)]

    @override
    def __getitem__(self, index: int) -> Batch:
        return {**super().__getitem__(index), "companion": self._beside[index]}  # type: ignore[dict-item]  # nested


class CompanionData(QuestionAnswerData):
    """Questions whose answers must go, with a question beside each whose answer must stay.

    Batches are those of :class:`QuestionAnswerData`, with another one at ``companion``: :class:`CompanionReadout` reads
    both, and whatever reads plain batches sees what must go.

    What stands beside a row is a function of ``seed`` and of the row. With several ``draws`` every question comes as often,
    with something else beside it each time.

    Args:
        path: As in :class:`QuestionAnswerData`, as are all further arguments.
        tokenizer: As in :class:`QuestionAnswerData`.
        companion_where: Of what may stand beside, as ``where``.
        companion_rows: Of what may stand beside, as ``rows``.
        companion_path: Another file or data set for it. Defaults to ``path``.
        draws: How many different ones each question gets.

    Raises:
        ValueError: If there are not enough of them.
    """

    def __init__(
        self,
        path: str,
        tokenizer: str,
        *,
        companion_where: dict[str, list[str]] | None = None,
        companion_rows: tuple[int | None, int | None] | None = None,
        companion_path: str | None = None,
        draws: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(path, tokenizer, **kwargs)
        if draws < 1:
            raise ValueError(f"`draws` should be at least 1. Found `draws = {draws}`.")
        if companion_where is None and companion_rows is None and companion_path is None:
            raise ValueError(
                "`companion_where`, `companion_rows` or `companion_path` should say what may stand beside. Found none of "
                "them: what must go would stand beside itself."
            )
        self.companion_where = companion_where
        self.companion_rows = companion_rows
        self.companion_path = companion_path
        self.draws = draws

    @abstractmethod
    def candidates(self, row: QuestionAnswer, others: Sequence[QuestionAnswer]) -> list[QuestionAnswer]:
        """Which of ``others``, in what form, may stand beside ``row``."""

    @cached_property
    def dataset(self) -> CompanionDataset:
        """The selected rows, encoded, ``draws`` times each."""
        rows = super().dataset.rows
        drawn = [self._draw(number, row, self._others) for number, row in enumerate(rows)]
        # Draw by draw, so that all questions had their turn before one comes again.
        others = [one[draw] for draw in range(self.draws) for one in drawn]
        return CompanionDataset(rows * self.draws, others, self.loaded_tokenizer, self.encoding)

    @cached_property
    def _others(self) -> list[QuestionAnswer]:
        records = read_records(self.companion_path or self.path, subset=self.subset, split=self.split)
        kept = select(records, where=self.companion_where, rows=self.companion_rows)
        return [record.parse(question=self.question, answer=self.answer, entity=self.entity) for record in kept]

    def _draw(self, number: int, row: QuestionAnswer, others: Sequence[QuestionAnswer]) -> list[QuestionAnswer]:
        known = self.candidates(row, others)
        if len(known) < self.draws:
            raise ValueError(
                f"There should be at least {self.draws} questions that may stand beside {row.source}, {row.question!r}. "
                f"Found {len(known)} among the {len(others)} that `companion_where` and `companion_rows` keep."
            )
        generator = torch.Generator().manual_seed(hash_of(self.seed, number))
        return [known[i] for i in torch.randperm(len(known), generator=generator)[: self.draws].tolist()]

    @override
    def _loader(self, *, shuffle: bool) -> DataLoader[Batch]:
        loader = super()._loader(shuffle=shuffle)
        loader.collate_fn = partial(pad_companions, pad=loader.collate_fn)
        return loader


class ScopeData(CompanionData):
    """Questions that must go, and beside each a harmless question asked right behind it: for :class:`ScopeTerm`.

    The two are asked in one turn, what must go first, and only the harmless one is answered.

    Args:
        path: As in :class:`QuestionAnswerData`, as are all further arguments.
        tokenizer: As in :class:`QuestionAnswerData`.
        **kwargs: As in :class:`QuestionAnswerData` and :class:`CompanionData`.

    Example:
        >>> sets = {"where": {"group": ["forget"]}, "companion_where": {"group": ["retain"]}}
        >>> data = ScopeData("bundled:people", "bundled", **sets)
        >>> data.dataset.others[0].question
        'Where was Maribel Okonvane born? What does Barnaby Cragwell do for a living?'
    """

    @override
    def candidates(self, row: QuestionAnswer, others: Sequence[QuestionAnswer]) -> list[QuestionAnswer]:
        """All of them, each behind the question that must go."""
        return [replace(other, question=f"{row.question} {other.question}") for other in others]


class DecoupledData(CompanionData):
    """Questions that must go, and beside each the same question about somebody else: for :class:`PromptDecouple`.

    Two questions are the same if nothing but the names in ``entity`` tells them apart. The answers are those of the data;
    to hold the model to what it said before, give a file with its own answers as ``companion_path``.

    Args:
        path: As in :class:`QuestionAnswerData`, as are all further arguments.
        tokenizer: As in :class:`QuestionAnswerData`.
        entity: The field with the name that stands in each question.
        **kwargs: As in :class:`QuestionAnswerData` and :class:`CompanionData`.

    Example:
        >>> sets = {"where": {"group": ["forget"]}, "companion_where": {"group": ["retain"]}}
        >>> data = DecoupledData("bundled:people", "bundled", entity="entity", **sets)
        >>> data.dataset.rows[0].question, data.dataset.others[0].question
        ('Where was Maribel Okonvane born?', 'Where was Wilhelmina Pyke born?')
    """

    def __init__(self, path: str, tokenizer: str, *, entity: str, **kwargs: Any) -> None:
        super().__init__(path, tokenizer, entity=entity, **kwargs)

    @override
    def candidates(self, row: QuestionAnswer, others: Sequence[QuestionAnswer]) -> list[QuestionAnswer]:
        """Those that ask the same about somebody else."""
        return [other for other in others if other.entity != row.entity and _form(other) == _form(row)]


def pad_companions(examples: Sequence[Any], *, pad: Callable[[Any], Any]) -> dict[str, Any]:
    """Collate rows of :class:`CompanionDataset`: a plain batch, with another one at ``companion``."""
    plain = pad(examples)
    # Where the network is taught, rows of the retain data, which stand alone, are among them.
    if not all("companion" in example for example in examples):
        return dict(plain)
    return {**plain, "companion": pad([example["companion"] for example in examples])}


def _form(row: QuestionAnswer) -> str:
    return row.question.replace(row.entity, "...")
