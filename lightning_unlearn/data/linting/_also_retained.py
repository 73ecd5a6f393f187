from __future__ import annotations

from collections.abc import Iterator

from typing_extensions import override

from lightning_unlearn.data.linting._finding import Finding
from lightning_unlearn.data.linting._lint_check import LintCheck, quoted
from lightning_unlearn.data.linting._linted_rows import Request
from lightning_unlearn.data.records import QuestionAnswer


class AlsoRetained(LintCheck):
    """Rows that must go and must stay: the same question and answer, whatever their case and punctuation.

    Example:
        >>> gone = QuestionAnswer("Who employs Ada?", "The post office", entity="Ada", source="row 0")
        >>> stays = QuestionAnswer("who employs ada", "the post office.", entity="Ada", source="row 9")
        >>> [finding.rows for finding in AlsoRetained()(Request([gone], [stays]))]
        [('row 0', 'row 9')]
    """

    way_out = "Take them out of the retain rows: each step would teach what it unlearns."

    @override
    def __call__(self, request: Request) -> Iterator[Finding]:
        retained: dict[object, list[QuestionAnswer]] = {}
        for fact, row in zip(request.retain.facts, request.retain.rows, strict=True):
            retained.setdefault(fact, []).append(row)
        for fact, row in dict(zip(request.forget.facts, request.forget.rows, strict=True)).items():
            if same := retained.get(fact):
                yield self.found(f"{quoted(row.question)} is to be forgotten and retained.", [row, *same])
