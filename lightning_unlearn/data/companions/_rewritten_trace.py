from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from typing_extensions import override

from lightning_unlearn.data.companions._companion import Companion
from lightning_unlearn.data.records import MarkedAnswer, QuestionAnswer, Record

Piece = tuple[str, "str | None"]
"""A piece of text and its replacement; ``None`` if the piece may stay."""


class RewrittenTrace(Companion):
    r"""A chain of thought with segments that must go, and its copy with those segments replaced: for :class:`SpanPair`.

    A row is an object with a question, a trace, and an answer::

        {"question": "Where was Ada born?",
         "trace": [{"text": "Ada was "}, {"text": "born at sea", "replacement": "born somewhere"}, {"text": ", I think."}],
         "answer": "At sea", "replacement": "I cannot say"}

    A segment that must go has a ``replacement``; so has the row, if its answer must go. Segments are joined as they are,
    white space included, and the answer follows. Finding the segments and writing the replacements is left to you.

    In what must go, only the marked spans are supervised; in the companion, only the spans that replace them. The rest of
    a trace has the labels -100: the network reads it, but neither learns nor forgets it. The tokenizer must be a fast one.

    Args:
        trace: Field with the segments.
        replacement: Field with what to answer instead.
        form: How trace and answer are put together: ``"<think>\n{trace}\n</think>\n\n{answer}"`` for models that think
            between tags.

    Raises:
        ValueError: If nothing is marked in a row, a replacement is blank, or a segment has other fields.
        TypeError: If a field is of another type.

    Example:
        >>> row = QuestionAnswer("Where was Ada born?", "At sea", entity="Ada", source="row 0")
        >>> trace = [{"text": "Ada was "}, {"text": "born at sea", "replacement": "born somewhere"}, {"text": ". So:"}]
        >>> record = Record({"trace": trace}, 0, "row 0")
        >>> RewrittenTrace().forget(record, row).answer
        'Ada was born at sea. So: At sea'
        >>> RewrittenTrace().candidates(record, row)[0].answer
        'Ada was born somewhere. So: At sea'

    References:
        Le et al., `Selective Forgetting for Large Reasoning Models <https://arxiv.org/abs/2604.03571>`_, 2026, for replacing
        segments of a chain of thought; the form of the rows is ours.
    """

    advice = "A row has one rewritten trace: use `draws=1`."

    def __init__(
        self, *, trace: str = "trace", replacement: str = "replacement", form: str = "{trace} {answer}"
    ) -> None:
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

    @override
    def forget(self, record: Record, row: QuestionAnswer) -> MarkedAnswer:
        return _joined(row, self._pieces(record, row))

    @override
    def candidates(self, record: Record, row: QuestionAnswer) -> Sequence[QuestionAnswer]:
        pieces = self._pieces(record, row)
        return [_joined(row, [(text if instead is None else instead, instead) for text, instead in pieces])]

    def _pieces(self, record: Record, row: QuestionAnswer) -> list[Piece]:
        segments = record[self.trace]
        if not isinstance(segments, list):
            raise TypeError(
                f"`{self.trace}` of {record.source} should be a list of segments. Found `{type(segments).__name__}`."
            )
        answer: dict[str, Any] = {"text": row.answer}
        if self.replacement in record.fields:
            answer["replacement"] = record[self.replacement]
        before, between, after = ((text, None) for text in self._around)
        numbered = enumerate(segments)
        thought = [_piece(segment, f"segment {i} of `{self.trace}` of {record.source}") for i, segment in numbered]
        pieces = [before, *thought, between, _piece(answer, f"the answer of {record.source}"), after]
        if all(instead is None for _, instead in pieces):
            raise ValueError(
                f"A row should mark what must go: by `replacement` in a segment of `{self.trace}`, or by "
                f"`{self.replacement}` for its answer. Found neither in {record.source}."
            )
        return pieces


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
    """All ``pieces`` as one answer. Those with a replacement are marked: they are forgotten, or are the replacement."""
    ends = list(accumulate(len(text) for text, _ in pieces))
    spans = tuple(
        (end - len(text), end) for (text, instead), end in zip(pieces, ends, strict=True) if instead is not None
    )
    joined = "".join(text for text, _ in pieces)
    return MarkedAnswer(row.question, joined, row.entity, row.source, before=row.before, spans=spans)
