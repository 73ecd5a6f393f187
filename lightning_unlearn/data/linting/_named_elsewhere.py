from __future__ import annotations

from collections.abc import Iterator

from typing_extensions import override

from lightning_unlearn.data.linting._finding import Finding
from lightning_unlearn.data.linting._lint_check import LintCheck
from lightning_unlearn.data.linting._linted_rows import Request, words
from lightning_unlearn.data.records import QuestionAnswer
from lightning_unlearn.functional.overlap import ONE_WORD, stands_without_spaces


class NamedElsewhere(LintCheck):
    """Retain rows about others that name somebody who must go: they may tell of them. It needs rows that name theirs.

    A name is found as it is written, with its capitals.

    Example:
        >>> gone = QuestionAnswer("Who employs Ada?", "The post office", entity="Ada", source="row 0")
        >>> stays = QuestionAnswer("Who employs Bo?", "Ada of the post office does", entity="Bo", source="row 9")
        >>> [finding.rows for finding in NamedElsewhere()(Request([gone], [stays]))]
        [('row 9',)]
    """

    way_out = "Read these rows: leave out those that tell what must go. Those that only mention the name may stay."

    @override
    def __call__(self, request: Request) -> Iterator[Finding]:
        names = dict.fromkeys(name for name in request.forget.names if name is not None)
        by_first: dict[str, list[tuple[str, ...]]] = {}
        spelled = {tuple(ONE_WORD.findall(name)): name for name in names}
        for parts in spelled:
            if len(parts) == 1 and stands_without_spaces(parts[0]):
                continue  # one letter, which is in many words
            by_first.setdefault(parts[0], []).append(parts)
        own = {words(name) for name in names}
        found: dict[str, list[QuestionAnswer]] = {}
        for row, name in zip(request.retain.rows, request.retain.names, strict=True):
            if name is None or words(name) not in own:  # its own rows are found by `SharedEntities`
                for parts in dict.fromkeys(_named(row, by_first)):
                    found.setdefault(spelled[parts], []).append(row)
        for name, rows in found.items():
            count = f"{len(rows)} rows that stay" if len(rows) > 1 else "a row that stays"
            yield self.found(f"`{name}` must go, and is named in {count}.", rows)


def _named(row: QuestionAnswer, by_first: dict[str, list[tuple[str, ...]]]) -> Iterator[tuple[str, ...]]:
    read = ONE_WORD.findall(f"{row.question} {row.answer}")
    for place, word in enumerate(read):
        for parts in by_first.get(word, ()):
            if tuple(read[place : place + len(parts)]) == parts:
                yield parts
