from __future__ import annotations

from collections.abc import Iterator

from typing_extensions import override

from lightning_unlearn.data.linting._finding import Finding
from lightning_unlearn.data.linting._lint_check import LintCheck, quoted
from lightning_unlearn.data.linting._linted_rows import Request, contains


class AnswerInQuestion(LintCheck):
    """Questions that must go and hold their answer: whoever reads them knows it, whatever was forgotten.

    Not counted: questions that offer a choice ("red or blue?"), and answers of one letter, which name one of several.

    Example:
        >>> from lightning_unlearn.data import QuestionAnswer
        >>> row = QuestionAnswer("Why is Ada at the post office?", "At the post office.", entity="Ada", source="row 0")
        >>> [finding.rows for finding in AnswerInQuestion()(Request([row], []))]
        [('row 0',)]
    """

    way_out = "Ask without the answer, or leave these rows out: no method passes on them, and copying is not knowing."

    @override
    def __call__(self, request: Request) -> Iterator[Finding]:
        for (question, answer), row in zip(request.forget.facts, request.forget.rows, strict=True):
            names_one = len(answer) == 1 and len(answer[0]) == 1
            if not names_one and "or" not in question and contains(question, answer):
                yield self.found(f"{quoted(row.question)} holds its answer, {quoted(row.answer)}.", [row])
