from __future__ import annotations

from collections.abc import Iterator

from typing_extensions import override

from lightning_unlearn.data.linting._finding import Finding
from lightning_unlearn.data.linting._lint_check import LintCheck
from lightning_unlearn.data.linting._linted_rows import LintedRows, Request, Words, words
from lightning_unlearn.data.records import QuestionAnswer


class SharedEntities(LintCheck):
    """Entities that some rows must forget and others must keep. It needs rows that name theirs.

    Example:
        >>> gone = QuestionAnswer("Who employs Ada?", "The post office", entity="Ada", source="row 0")
        >>> stays = QuestionAnswer("Where was Ada born?", "At sea", entity="Ada", source="row 9")
        >>> [finding.says for finding in SharedEntities()(Request([gone], [stays]))]
        ['`Ada` must go in 1 row and stay in 1.']
    """

    way_out = (
        "If all of it must go, move these retain rows to the forget rows. If some facts of one entity must stay, leave this "
        "check out: a report by entity will mix them."
    )

    @override
    def __call__(self, request: Request) -> Iterator[Finding]:
        forget, retain = _by_name(request.forget), _by_name(request.retain)
        for name, rows in forget.items():
            if kept := retain.get(name):
                number = f"{len(rows)} row{'s' * (len(rows) > 1)}"
                says = f"`{rows[0].entity}` must go in {number} and stay in {len(kept)}."
                yield self.found(says, [rows[0], *kept])


def _by_name(side: LintedRows) -> dict[Words, list[QuestionAnswer]]:
    rows: dict[Words, list[QuestionAnswer]] = {}
    for name, row in zip(side.names, side.rows, strict=True):
        if name is not None:
            rows.setdefault(words(name), []).append(row)
    return rows
