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
from lightning_unlearn.data._rows import QuestionAnswer, Record, read_records


class PairedAnswerDataset(QuestionAnswerDataset):
    """Encoded questions with their answer and another one, each ``{"input_ids", "labels", "preferred": {...}}``.

    Args:
        rows: What to ask, and the answer that must go.
        alternates: The answer to prefer, one per row.
        tokenizer: Any Hugging Face tokenizer.
        encoding: Template, length and date.
    """

    def __init__(
        self,
        rows: Sequence[QuestionAnswer],
        alternates: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        encoding: Encoding = Encoding(),  # noqa: B008  # frozen
    ) -> None:
        super().__init__(rows, tokenizer, encoding)
        self.alternates = tuple(alternates)
        preferred = (replace(row, answer=other) for row, other in zip(self.rows, self.alternates, strict=True))
        self._preferred = [encoding(row, tokenizer) for row in preferred]

    @override
    def __getitem__(self, index: int) -> Batch:
        return {**super().__getitem__(index), "preferred": self._preferred[index]}  # type: ignore[dict-item]  # nested


class PairedAnswerData(QuestionAnswerData):
    """Questions with two answers each: the one that must go, and one to prefer.

    Batches are those of :class:`QuestionAnswerData`, so that whatever reads plain batches sees the answer that must go,
    with two batches more beside: ``preferred``, and ``dispreferred``, which is the plain one again.
    :class:`PairedReadout` reads both, :class:`PreferredReadout` the preferred answers alone.

    Which alternates a question gets is a function of ``seed`` and of its row. With several ``draws`` every question comes
    as often, with another alternate each time: all of them are known before the first step, so they can be cached.

    Args:
        path: As in :class:`QuestionAnswerData`, as are all further arguments.
        tokenizer: As in :class:`QuestionAnswerData`.
        draws: How many different alternates each question gets.
    """

    def __init__(self, path: str, tokenizer: str, *, draws: int = 1, **kwargs: Any) -> None:
        super().__init__(path, tokenizer, **kwargs)
        if draws < 1:
            raise ValueError(f"`draws` should be at least 1. Found `draws = {draws}`.")
        self.draws = draws

    @abstractmethod
    def alternates(self, records: Sequence[Record]) -> list[list[str]]:
        """What may be answered instead, of each record, at least one each."""

    @cached_property
    def dataset(self) -> PairedAnswerDataset:
        """The selected rows, encoded, ``draws`` times each."""
        rows = super().dataset.rows
        alternates_of = zip(self.alternates(self._records), self._records, strict=True)
        drawn = [self._draw(known, record) for known, record in alternates_of]
        # Draw by draw, so that all questions had their turn before one comes again.
        alternates = [one[draw] for draw in range(self.draws) for one in drawn]
        return PairedAnswerDataset(rows * self.draws, alternates, self.loaded_tokenizer, self.encoding)

    def _draw(self, known: Sequence[str], record: Record) -> list[str]:
        if len(known) < self.draws:
            raise ValueError(
                f"`draws` should be at most the number of different alternates of each question. Found "
                f"`draws = {self.draws}` and {len(known)} for {record.source}."
            )
        generator = torch.Generator().manual_seed(hash_of(self.seed, record.index))
        order = torch.randperm(len(known), generator=generator).tolist()
        return [known[i] for i in order[: self.draws]]

    @override
    def _loader(self, *, shuffle: bool) -> DataLoader[Batch]:
        loader = super()._loader(shuffle=shuffle)
        loader.collate_fn = partial(pad_pairs, pad=loader.collate_fn)
        return loader


class RefusalData(PairedAnswerData):
    """Questions whose answers must go, and refusals to prefer: "I don't know".

    For :class:`DPO` with :class:`PairedReadout` ("IdkDPO"), or :class:`CrossEntropy` with :class:`PreferredReadout`.

    Args:
        path: As in :class:`QuestionAnswerData`, as are all further arguments.
        tokenizer: As in :class:`QuestionAnswerData`.
        refusals: A ``.json`` or ``.jsonl`` file with refusals in the field ``answer``.
        draws: How many different refusals each question gets.

    Example:
        >>> data = RefusalData("bundled:people", "bundled", where={"group": ["forget"]})
        >>> data.dataset.alternates[0]
        "I'm not sure about that."
        >>> sorted(next(iter(data.train_dataloader())))
        ['attention_mask', 'dispreferred', 'input_ids', 'labels', 'preferred']

    References:
        Maini et al., `TOFU <https://arxiv.org/abs/2401.06121>`_, 2024, whose code draws a refusal anew at each visit.
    """

    def __init__(
        self, path: str, tokenizer: str, *, refusals: str = "bundled:idk", draws: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(path, tokenizer, draws=draws, **kwargs)
        self.refusals = refusals

    @override
    def alternates(self, records: Sequence[Record]) -> list[list[str]]:
        """All refusals, for every record."""
        known = list(dict.fromkeys(record.text("answer") for record in read_records(self.refusals)))
        return [known] * len(records)


class AlternateAnswerData(PairedAnswerData):
    """Questions whose answers must go, and other answers to prefer, made beforehand: for :class:`DPO` ("AltPO").

    Args:
        path: As in :class:`QuestionAnswerData`, as are all further arguments.
        tokenizer: As in :class:`QuestionAnswerData`.
        alternate: Field with the other answer, or a list of them.
        alternates: Another file that has this field, whose rows are found by their question. Defaults to the rows
            themselves.
        draws: How many different alternates each question gets.

    Raises:
        ValueError: If a question has no alternate, or fewer than ``draws``.

    Example:
        >>> data = AlternateAnswerData("bundled:people", "bundled", alternate="paraphrase", rows=(0, 2))
        >>> data.dataset.alternates[0]
        'What is the birthplace of Maribel Okonvane?'

    References:
        Mekala et al., `Alternate Preference Optimization <https://arxiv.org/abs/2409.13474>`_, 2024.
    """

    def __init__(
        self,
        path: str,
        tokenizer: str,
        *,
        alternate: str = "alternate",
        alternates: str | None = None,
        draws: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(path, tokenizer, draws=draws, **kwargs)
        self.alternate = alternate
        self.alternates_path = alternates

    @override
    def alternates(self, records: Sequence[Record]) -> list[list[str]]:
        """Those of each record, without repetitions."""
        if self.alternates_path is None:
            found = [_texts(record, self.alternate) for record in records]
        else:
            of_question: dict[str, list[str]] = {}
            for record in read_records(self.alternates_path):
                of_question.setdefault(record.text(self.question), []).extend(_texts(record, self.alternate))
            found = [of_question.get(record.text(self.question), []) for record in records]
        if missing := [record.source for record, texts in zip(records, found, strict=True) if not texts]:
            named = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise ValueError(
                f"Every question should have an alternate answer in `{self.alternate}`"
                f"{f' of `{self.alternates_path}`' if self.alternates_path else ''}. Found none for {len(missing)} of "
                f"{len(records)}: {named}. Add them, or leave these rows out with `where` or `rows`."
            )
        return [list(dict.fromkeys(texts)) for texts in found]


def pad_pairs(examples: Sequence[Any], *, pad: Callable[[Any], Any]) -> dict[str, Any]:
    """Collate rows of :class:`PairedAnswerDataset`: a plain batch, with ``preferred`` and ``dispreferred`` beside."""
    plain = pad(examples)
    # Where the network is taught, rows of the retain data, which have one answer, stand among them.
    if not all("preferred" in example for example in examples):
        return dict(plain)
    return {**plain, "preferred": pad([example["preferred"] for example in examples]), "dispreferred": plain}


def _texts(record: Record, field: str) -> list[str]:
    """What stands in ``field``: nothing, a text, or several."""
    value = record.fields.get(field)
    texts = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"`{field}` of {record.source} should be a string or a list of strings. Found {value!r}.")
    return [text for text in texts if text.strip()]
