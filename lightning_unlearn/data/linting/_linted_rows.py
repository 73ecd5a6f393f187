from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cached_property

from lightning_unlearn.data.records import QuestionAnswer

Words = tuple[str, ...]
# Words, and signs that change what is said: `2+2` is not `2-2`. Marks of punctuation say nothing here.
_PARTS = re.compile(r"""\w+|[^\w\s.,;:!?"'\u2018\u2019\u201c\u201d\u2026]""")


def words(text: str) -> Words:
    """A text without what does not change its meaning: case, punctuation, white space, and forms of one character.

    Example:
        >>> words("Who employs  ADA?") == words("who employs Ada"), words("2 + 2?")
        (True, ('2', '+', '2'))
    """
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return tuple(_PARTS.findall(plain.casefold())) or (text.strip(),)


def name_of(row: QuestionAnswer) -> str | None:
    """The entity of a row if it is a name; none if it is a number that stands for one."""
    entity = row.entity
    if re.fullmatch(r"row \d+", entity) or not any(c.isalpha() for c in entity):
        return None
    return entity


def contains(text: Words, part: Words) -> bool:
    """Whether ``part`` stands in ``text`` word by word.

    Example:
        >>> contains(("born", "at", "sea"), ("at", "sea")), contains(("at", "sea"), ("sea", "at"))
        (True, False)
    """
    # Words hold no white space, so that joined ones are found where, and only where, whole words are.
    return f" {' '.join(part)} " in f" {' '.join(text)} "


def _seen(row: QuestionAnswer) -> Words:
    return () if row.image is None else (row.image.key,)


class LintedRows:
    """Rows of one side of a request, with their words, which several checks need.

    Args:
        rows: Questions and answers.
    """

    def __init__(self, rows: Sequence[QuestionAnswer]) -> None:
        self.rows = tuple(rows)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def questions(self) -> list[Words]:
        """The words of what is asked, turns before it included, and a word for the image that it is asked of."""
        asked = (words(" ".join([*(turn.content for turn in row.before), row.question])) for row in self.rows)
        return [(*said, *_seen(row)) for said, row in zip(asked, self.rows, strict=True)]

    @cached_property
    def answers(self) -> list[Words]:
        """The words of each answer."""
        return [words(row.answer) for row in self.rows]

    @cached_property
    def names(self) -> list[str | None]:
        """The entity of each row, where it is a name."""
        return [name_of(row) for row in self.rows]

    @cached_property
    def facts(self) -> list[tuple[Words, Words]]:
        """Question and answer of each row, in words."""
        return list(zip(self.questions, self.answers, strict=True))


class Request:
    """What must go, and what must stay.

    Args:
        forget: Rows that must go.
        retain: Rows that must stay.

    Example:
        >>> row = QuestionAnswer("Who employs Ada?", "The post office", entity="Ada", source="row 0")
        >>> Request([row], []).forget.answers
        [('the', 'post', 'office')]
    """

    def __init__(self, forget: Sequence[QuestionAnswer], retain: Sequence[QuestionAnswer]) -> None:
        self.forget, self.retain = LintedRows(forget), LintedRows(retain)
