from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from typing_extensions import override

from lightning_unlearn.data import QuestionAnswer, Record, Records
from lightning_unlearn.functional.overlap import stands_without_spaces, words_of
from lightning_unlearn.requests._request import Request

_COPIED = ("question", "answer", "chat", "answers", "entity", "paraphrase", "where", "rows")
_SHORTEST = 3
"""Letters of a name that is looked for in texts: shorter ones, and numbers, stand in texts about anybody."""

_SHORTEST_WITHOUT_SPACES = 2
"""The same in scripts of whose letters many are a word, such as Chinese."""


_Question = tuple[str, str | None]
"""In words, and the image that it is asked of."""


class Unnamed(Records):
    """Those rows that no request names: a retain set without what must go.

    Left out are rows about an entity of a request (where both have a field with entities), rows that ask what a request
    asks (of the same image, and after no other turns), and rows with the name of such an entity in them: in the question,
    in an answer, in the turns before. Case, punctuation and forms of one character make no difference. Requests that are
    still to come count as well: what is retained today would have to be forgotten tomorrow. Near duplicates in other words
    stay.

    Args:
        records: The rows.
        requests: All requests.

    Raises:
        ValueError: When it is read, if no row is left.

    Example:
        >>> from lightning_unlearn.data import FileRecords
        >>> people = FileRecords("bundled:people", entity="entity")
        >>> request = Request("1", FileRecords("bundled:people", entity="entity", where={"group": "forget"}))
        >>> len(people.questions()), len(Unnamed(people, [request]).questions())
        (120, 102)
    """

    def __init__(self, records: Records, requests: Sequence[Request]) -> None:
        super().__init__(**{name: getattr(records, name) for name in _COPIED})
        self.records = records
        asked = [(row, request.records) for request in requests for row in request.records.questions()]
        self._questions: dict[_Question, set[str]] = {}
        for row, _ in asked:
            for question in _asked(row):
                self._questions.setdefault(question, set()).add(_said_before(row))
        self._entities = {_plain(row.entity) for row, of in asked if isinstance(of.entity, str)}
        self._names = {f" {name} " for name in self._entities if _is_a_name(name)}

    @property
    @override
    def name(self) -> str:
        return self.records.name

    @override
    def read(self) -> Iterable[Any]:
        return self.records.read()

    @override
    def parse(self, record: Record) -> QuestionAnswer:
        return self.records.parse(record)

    @cached_property
    @override
    def selected(self) -> list[Record]:
        kept = [record for record in self.records.selected if not self.names(self.parse(record))]
        if not kept:
            raise ValueError(
                f"Retain data should have rows that no request names. Found none among the {len(self.records.selected)} of "
                f"`{self.name}`. Give retain data about others."
            )
        return kept

    def names(self, row: QuestionAnswer) -> bool:
        """Whether a request names this row."""
        if isinstance(self.entity, str) and _plain(row.entity) in self._entities:
            return True
        before = (turn.content for turn in row.before)
        read = (*before, row.question, row.lead, row.answer, *row.accepted, *row.paraphrases)
        said = f" {' . '.join(map(_plain, read))} "
        return self._is_asked(row) or any(name in said for name in self._names)

    def _is_asked(self, row: QuestionAnswer) -> bool:
        own = _said_before(row)
        after = (self._questions.get(question, set()) for question in _asked(row))
        # What is asked without turns before it can be understood without them.
        return any(said and (not own or not said.isdisjoint({own, ""})) for said in after)


def _asked(row: QuestionAnswer) -> set[_Question]:
    """The question in all its words, each with its image; of a plain text, which has none, the text."""
    asked = {_plain(row.question) or _plain(row.answer), *map(_plain, row.paraphrases)}
    return {(question, None if row.image is None else row.image.key) for question in asked}


def _said_before(row: QuestionAnswer) -> str:
    """The turns before, without a system's, which ask nothing."""
    return " . ".join(_plain(turn.content) for turn in row.before if turn.role != "system")


def _plain(text: str) -> str:
    # What is no word, such as `+`, stays as it is.
    return " ".join(words_of(unicodedata.normalize("NFKC", text))) or text.strip()


def _is_a_name(text: str) -> bool:
    shortest = _SHORTEST_WITHOUT_SPACES if stands_without_spaces(text) else _SHORTEST
    return sum(letter.isalpha() for letter in text) >= shortest
