from __future__ import annotations

from collections.abc import Iterator

from typing_extensions import override

from lightning_unlearn.data.linting._finding import Finding
from lightning_unlearn.data.linting._lint_check import LintCheck, quoted
from lightning_unlearn.data.linting._linted_rows import Request
from lightning_unlearn.data.records import QuestionAnswer


class RepeatedRows(LintCheck):
    """Rows that must go and come more than once: they are forgotten harder than the others, and counted twice.

    Example:
        >>> row = QuestionAnswer("Who employs Ada?", "The post office", entity="Ada", source="row 0")
        >>> [finding.count for finding in RepeatedRows()(Request([row, row], []))]
        [2]
    """

    way_out = "Keep one of them. If some rows should weigh more, say so by an order, not by copies."

    @override
    def __call__(self, request: Request) -> Iterator[Finding]:
        same: dict[object, list[QuestionAnswer]] = {}
        for fact, row in zip(request.forget.facts, request.forget.rows, strict=True):
            same.setdefault(fact, []).append(row)
        for rows in same.values():
            if len(rows) > 1:
                yield self.found(f"{quoted(rows[0].question)} comes {len(rows)} times.", rows)
