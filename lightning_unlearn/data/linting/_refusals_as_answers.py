from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from typing_extensions import override

from lightning_unlearn.data.linting._finding import Finding
from lightning_unlearn.data.linting._lint_check import LintCheck, quoted
from lightning_unlearn.data.linting._linted_rows import Request, Words, words
from lightning_unlearn.data.records import FileRecords

_BEGINNINGS = (
    "I don't know",
    "I do not know",
    "I have no information",
    "I can't help",
    "I cannot help",
    "I can't answer",
    "I cannot answer",
    "I'm not able to",
    "I am not able to",
    "I'm unable to",
    "I am unable to",
    "I'm sorry, but I",
    "Sorry, I can't",
    "Sorry, but I can't",
    "As an AI language model",
)


class RefusalsAsAnswers(LintCheck):
    """Rows that must go and are answered by a refusal: forgetting them makes a model refuse less.

    Args:
        path: A file, as of :class:`FileRecords`, with refusals in the field ``answer``; common English beginnings of
            refusals count beside them.

    Example:
        >>> from lightning_unlearn.data import QuestionAnswer
        >>> row = QuestionAnswer("Who employs Ada?", "I don't know the answer to that.", entity="Ada", source="row 0")
        >>> [finding.rows for finding in RefusalsAsAnswers()(Request([row], []))]
        [('row 0',)]
    """

    way_out = "Give the answer that the model knows and must lose. Refusals to prefer instead go with `Refusals`."

    def __init__(self, path: str = "bundled:idk") -> None:
        self.path = path

    @override
    def __call__(self, request: Request) -> Iterator[Finding]:
        for answer, row in zip(request.forget.answers, request.forget.rows, strict=True):
            begins = any(answer[: len(beginning)] == beginning for beginning in self._beginnings)
            if begins or answer in self._whole:
                yield self.found(f"{quoted(row.question)} is answered {quoted(row.answer)}.", [row])

    @cached_property
    def _whole(self) -> frozenset[Words]:
        return frozenset(words(record.text("answer")) for record in FileRecords(self.path).selected)

    @cached_property
    def _beginnings(self) -> tuple[Words, ...]:
        return tuple(map(words, _BEGINNINGS))
