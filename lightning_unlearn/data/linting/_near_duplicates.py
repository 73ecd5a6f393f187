from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from typing_extensions import override

from lightning_unlearn.data.linting._finding import Finding
from lightning_unlearn.data.linting._lint_check import LintCheck, quoted
from lightning_unlearn.data.linting._linted_rows import LintedRows, Request
from lightning_unlearn.functional.near_duplicates import Parts, near_duplicates
from lightning_unlearn.functional.settings import check_between, check_whole


class NearDuplicates(LintCheck):
    """Retain rows that say nearly the same as a row that must go: they would be forgotten with it, or bring it back.

    Alike are rows that share their rare words and runs of two words: see
    :func:`~lightning_unlearn.functional.near_duplicates.near_duplicates`. A row in quite other words is not found.

    Args:
        least: How alike two rows are, from 0 to 1.
        most: So many retain rows with a rare word in common are compared with a row that must go.

    Example:
        >>> from lightning_unlearn.data import QuestionAnswer
        >>> gone = QuestionAnswer("Who employs Ada today?", "The old post office", entity="Ada", source="row 0")
        >>> stays = QuestionAnswer("Who employs Ada today?", "The old post office there", entity="Ada", source="row 9")
        >>> other = QuestionAnswer("Who employs Bo today?", "A mill", entity="Bo", source="row 8")
        >>> [finding.rows for finding in NearDuplicates(least=0.5)(Request([gone], [other, stays]))]
        [('row 0', 'row 9')]
    """

    way_out = (
        "Leave these retain rows out, or let them be forgotten, too. To protect what is near and must stay, use rows about "
        "other facts."
    )

    def __init__(self, least: float = 0.6, most: int = 50) -> None:
        check_between("least", least, 0.01, 1)
        check_whole("most", most)
        self.least, self.most = least, most

    @override
    def __call__(self, request: Request) -> Iterator[Finding]:
        forget, retain = request.forget, request.retain
        pairs = near_duplicates(_parts(forget), _parts(retain), self.least, self.most)
        near: dict[int, list[tuple[int, float]]] = {}
        for gone, stays, alike in pairs:
            same_image = forget.rows[gone].image == retain.rows[stays].image
            if same_image and forget.facts[gone] != retain.facts[stays]:  # equal ones are found by `AlsoRetained`
                near.setdefault(gone, []).append((stays, alike))
        for gone, found in near.items():
            nearest, alike = max(found, key=lambda pair: pair[1])
            row, other = forget.rows[gone], retain.rows[nearest]
            says = f"{quoted(row.question)} must go, and {quoted(other.question)} stay: {alike:.0%} alike."
            yield self.found(says, [row, *(retain.rows[place] for place, _ in found)])


def _parts(side: LintedRows) -> list[Parts]:
    whole = [(*question, *answer) for question, answer in side.facts]
    return [(*text, *pairwise(text)) for text in whole]
