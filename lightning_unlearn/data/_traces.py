from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from itertools import accumulate
from typing import Any

from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase
from typing_extensions import override

from lightning_unlearn.data._alternate import pad_pairs
from lightning_unlearn.data._question_answer import Batch, QuestionAnswerData, QuestionAnswerDataset
from lightning_unlearn.data._rows import QuestionAnswer, Record
from lightning_unlearn.data._spans import MarkedAnswer, SpanEncoding

Piece = tuple[str, "str | None"]
"""A piece of text, and what should stand instead of it; ``None`` if it may stay."""


class TraceDataset(QuestionAnswerDataset):
    """Encoded traces with their rewritten ones, each ``{"input_ids", "labels", "preferred": {...}}``.

    Args:
        rows: What must go, its forgotten spans marked.
        rewritten: What is to stand instead, its replacing spans marked, one per row.
        tokenizer: A fast Hugging Face tokenizer.
        encoding: Template, length and date.
    """

    def __init__(
        self,
        rows: Sequence[MarkedAnswer],
        rewritten: Sequence[MarkedAnswer],
        tokenizer: PreTrainedTokenizerBase,
        encoding: SpanEncoding = SpanEncoding(),  # noqa: B008  # frozen
    ) -> None:
        super().__init__(rows, tokenizer, encoding)
        self.rewritten = tuple(rewritten)
        self._preferred = [encoding(other, tokenizer) for _, other in zip(self.rows, self.rewritten, strict=True)]

    @override
    def __getitem__(self, index: int) -> Batch:
        return {**super().__getitem__(index), "preferred": self._preferred[index]}  # type: ignore[dict-item]  # nested


class TraceData(QuestionAnswerData):
    r"""Questions, each with a chain of thought some segments of which must go: for :class:`SpanPair`.

    A row is an object with a question, a trace, and an answer::

        {"question": "Where was Ada born?",
         "trace": [{"text": "Ada was "}, {"text": "born at sea", "replacement": "born somewhere"}, {"text": ", I think."}],
         "answer": "At sea", "replacement": "I cannot say"}

    A segment that must go has its ``replacement``; so has the row, if its answer must go. Segments are put together as they
    are, white space included, and the answer behind them. Who finds the segments, and who writes the replacements, is left
    to you.

    Batches are those of :class:`QuestionAnswerData`, but supervised on what must go alone: the rest of a trace is -100, is
    conditioned on, and neither learned nor forgotten. With two batches more beside, ``preferred``, the rewritten traces,
    supervised on the replacing spans alone, and ``dispreferred``, which is the plain one again. Whatever reads plain batches
    (teaching, probes, attacks) sees the forgotten spans in their trace. Which tokens belong to a span is said in
    :class:`SpanEncoding`.

    Args:
        path: As in :class:`QuestionAnswerData`, as are all further arguments.
        tokenizer: As in :class:`QuestionAnswerData`; a fast one.
        trace: Field with the segments.
        replacement: Field with what to answer instead.
        form: How trace and answer are put together: ``"<think>\n{trace}\n</think>\n\n{answer}"`` for models that think
            between tags.

    Raises:
        ValueError: If nothing is marked in a row, a replacement is blank, or a segment has other fields.
        TypeError: If a field is of another type.

    Example:
        >>> data = TraceData("bundled:traces", "bundled", entity="entity")
        >>> row, other = data.dataset.rows[0], data.dataset.rewritten[0]
        >>> [row.answer[slice(*span)] for span in row.spans]
        ['her birthplace is Sandrel Point', 'Sandrel Point']
        >>> [other.answer[slice(*span)] for span in other.spans]
        ['nothing is on record about where she was born', 'I cannot say']

    References:
        Le et al., `Selective Forgetting for Large Reasoning Models <https://arxiv.org/abs/2604.03571>`_, 2026, for replacing
        segments of a chain of thought; the form of the rows is ours.
    """

    encoding: SpanEncoding

    def __init__(
        self,
        path: str,
        tokenizer: str,
        *,
        trace: str = "trace",
        replacement: str = "replacement",
        form: str = "{trace} {answer}",
        **kwargs: Any,
    ) -> None:
        super().__init__(path, tokenizer, **kwargs)
        self.encoding = SpanEncoding(**vars(self.encoding))
        self.trace = trace
        self.replacement = replacement
        self.form = form
        before, _, rest = form.partition("{trace}")
        between, found, after = rest.partition("{answer}")
        if not found or form.count("{trace}") + form.count("{answer}") != 2:
            raise ValueError(
                f"`form` should hold `{{trace}}` and then `{{answer}}`, once each. Found `form = {form!r}`."
            )
        self._around = (before, between, after)

    @cached_property
    def dataset(self) -> TraceDataset:
        """The selected rows, encoded."""
        rows, rewritten = zip(*(self._read(record) for record in self._records), strict=True)
        return TraceDataset(rows, rewritten, self.loaded_tokenizer, self.encoding)

    def _read(self, record: Record) -> tuple[MarkedAnswer, MarkedAnswer]:
        """What must go, and what is to stand instead."""
        row = record.parse(question=self.question, answer=self.answer, entity=self.entity)
        pieces = self._pieces(record)
        if all(instead is None for _, instead in pieces):
            raise ValueError(
                f"A row should mark what must go: by `replacement` in a segment of `{self.trace}`, or by "
                f"`{self.replacement}` for its answer. Found neither in {record.source}."
            )
        rewritten = [(text if instead is None else instead, instead) for text, instead in pieces]
        return _joined(row, pieces), _joined(row, rewritten)

    def _pieces(self, record: Record) -> list[Piece]:
        segments = record[self.trace]
        if not isinstance(segments, list):
            raise TypeError(
                f"`{self.trace}` of {record.source} should be a list of segments. Found `{type(segments).__name__}`."
            )
        answer = {"text": record[self.answer]}
        if self.replacement in record.fields:
            answer["replacement"] = record[self.replacement]
        before, between, after = ((text, None) for text in self._around)
        numbered = enumerate(segments)
        thought = [_piece(segment, f"segment {i} of `{self.trace}` of {record.source}") for i, segment in numbered]
        return [before, *thought, between, _piece(answer, f"the answer of {record.source}"), after]

    @override
    def _loader(self, *, shuffle: bool) -> DataLoader[Batch]:
        loader = super()._loader(shuffle=shuffle)
        loader.collate_fn = partial(pad_pairs, pad=loader.collate_fn)
        return loader


def _piece(segment: Any, where: str) -> Piece:
    if not isinstance(segment, Mapping) or not {"text"} <= set(segment) <= {"text", "replacement"}:
        found = f"fields {sorted(segment)}" if isinstance(segment, Mapping) else repr(segment)
        raise ValueError(
            f"A segment should be an object with `text`, and `replacement` if it must go. Found {found} in {where}."
        )
    for field, value in segment.items():
        if not isinstance(value, str):
            raise TypeError(f"`{field}` of {where} should be a string. Found {value!r}.")
        if "replacement" in segment and not value.strip():
            raise ValueError(
                f"`{field}` of {where} should not be blank, since the segment must go. Found {value!r}. Write what a "
                "harmless trace would say."
            )
    return segment["text"], segment.get("replacement")


def _joined(row: QuestionAnswer, pieces: Sequence[Piece]) -> MarkedAnswer:
    """All ``pieces`` as one answer, those that are replaced, or replace, marked."""
    ends = list(accumulate(len(text) for text, _ in pieces))
    spans = tuple(
        (end - len(text), end) for (text, instead), end in zip(pieces, ends, strict=True) if instead is not None
    )
    return MarkedAnswer(row.question, "".join(text for text, _ in pieces), row.entity, row.source, spans)
