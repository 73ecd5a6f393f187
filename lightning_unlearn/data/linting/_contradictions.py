from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from typing_extensions import override

from lightning_unlearn.data.linting._finding import Finding
from lightning_unlearn.data.linting._lint_check import LintCheck, quoted
from lightning_unlearn.data.linting._linted_rows import LintedRows, Request, Words, contains, words
from lightning_unlearn.data.records import QuestionAnswer
from lightning_unlearn.functional.settings import check_whole

Answered = tuple[QuestionAnswer, Words]


class Contradictions(LintCheck):
    """One question with answers that differ, among the rows that must go, those that must stay, or both.

    Not counted: answers of which one holds the other, answers that a row accepts, too, the same question asked about
    different entities, and questions with many answers, which are no questions of fact.

    Args:
        most: A question with more different answers than this has no right one: "Tell me a joke".

    Example:
        >>> one = QuestionAnswer("Who employs Ada?", "The post office", entity="Ada", source="row 0")
        >>> other = QuestionAnswer("Who employs Ada?", "A mill", entity="Ada", source="row 9")
        >>> [finding.says for finding in Contradictions()(Request([one], [other]))]
        ['"Who employs Ada?" is answered "The post office" and "A mill".']
    """

    way_out = "Find out which is right, and leave out the rows with the other one: no model can hold both."

    def __init__(self, most: int = 5) -> None:
        check_whole("most", most, least=2)
        self.most = most

    @override
    def __call__(self, request: Request) -> Iterator[Finding]:
        for rows in _by_question(request.forget, request.retain):
            differing = list({answer: row for row, answer in reversed(rows)}.items())
            if 1 < len(differing) <= self.most:
                (first, one), *others = reversed(differing)
                against = [row for answer, row in others if not _agree((one, first), (row, answer))]
                if against:
                    said = " and ".join(quoted(row.answer, 60) for row in (one, against[0]))
                    yield self.found(f"{quoted(one.question)} is answered {said}.", [one, *against])


def _by_question(*sides: LintedRows) -> Iterator[Sequence[Answered]]:
    """Rows that ask the same about the same, with the words of their answers."""
    groups: dict[Words, dict[str | None, list[Answered]]] = {}
    for side in sides:
        for question, name, row, answer in zip(side.questions, side.names, side.rows, side.answers, strict=True):
            groups.setdefault(question, {}).setdefault(name, []).append((row, answer))
    for by_name in groups.values():
        # Rows without a name may be about any: if all others are about one entity, about that.
        nameless = by_name.pop(None, []) if len(by_name) == 2 and None in by_name else []
        yield from (rows + nameless for rows in by_name.values())


def _agree(one: Answered, other: Answered) -> bool:
    ours, theirs = ({answer, *map(words, row.accepted)} for row, answer in (one, other))
    pairs = chain(((a, b) for a in ours for b in theirs), ((b, a) for a in ours for b in theirs))
    return any(contains(whole, part) for whole, part in pairs)
