from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_unlearn.data.records._picture import Picture
from lightning_unlearn.data.records._values import is_blank, is_null, spelled
from lightning_unlearn.functional.text import visible

_SHOWN = 20
"""So many fields are named in a message."""


@dataclass(frozen=True)
class Turn:
    """One turn of a chat.

    Args:
        role: Who speaks: ``"system"``, ``"user"``, ``"assistant"``, ``"tool"``.
        content: What is said.
    """

    role: str
    content: str


@dataclass(frozen=True)
class QuestionAnswer:
    """A question and its answer.

    Args:
        question: What is asked.
        answer: What is answered, not blank.
        entity: Whom or what it is about; rows of one entity are known or forgotten together.
        source: Where it was read, for messages: ``"row 3 of `people.jsonl`"``.
        before: The turns of the chat before the question, such as a system prompt; read, and never supervised.
        accepted: All answers that are right, where the data list several; ``answer`` is the first of them.
        paraphrases: The same question in other words.
        lead: Words that already stand where the answer begins, such as ``"Sure, the answer is:"``; read, never supervised.
        image: What the question is about, for :class:`ImageEncoding`.
    """

    question: str
    answer: str
    entity: str
    source: str
    before: tuple[Turn, ...] = ()
    accepted: tuple[str, ...] = ()
    paraphrases: tuple[str, ...] = ()
    lead: str = ""
    image: Picture | None = None


@dataclass(frozen=True)
class MarkedAnswer(QuestionAnswer):
    """A question and its answer, of which only marked parts are supervised.

    Args:
        spans: The marked parts, as half-open ranges of characters of ``answer``.
        hidden: Parts of them that are read and never supervised: no token that holds one of their characters is.
    """

    spans: tuple[tuple[int, int], ...] = ()
    hidden: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Record:
    """One row as it was read.

    Args:
        fields: Its values by name.
        index: Its number among all rows, counting from 0.
        source: Where it was read, for messages.
        turn: Of a chat, the number of the turn that is the answer; by default the last that may be.
    """

    fields: Mapping[str, Any]
    index: int
    source: str
    turn: int | None = None

    def __getitem__(self, field: str) -> Any:
        if not isinstance(self.fields, Mapping):
            raise TypeError(f"{self.source} should be an object with named fields. Found {kind(self.fields)}.")
        if field not in self.fields:
            raise ValueError(f"{self.source} should have the field `{field}`. It has {self.names}.")
        return self.fields[field]

    @property
    def names(self) -> str:
        """The names of its fields, for messages."""
        found = [f"`{visible(str(name))}`" for name in self.fields]
        more = [f"{len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        return ", ".join(found[:_SHOWN] + more) or "none"

    def text(self, field: str) -> str:
        """The string in ``field``."""
        value = self[field]
        if not isinstance(value, str):
            raise TypeError(f"`{field}` of {self.source} should be a string. Found {kind(value)}.")
        return value

    def texts(self, field: str) -> tuple[str, ...]:
        """The strings in ``field``, each once: none, one, or a list of them.

        Example:
            >>> Record({"other": ["Who?", "Who then?", "Who?"]}, 0, "row 0").texts("other")
            ('Who?', 'Who then?')
        """
        value = self[field]
        texts = value if isinstance(value, list | tuple) else [] if is_null(value) else [value]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError(f"`{field}` of {self.source} should be a string or a list of strings. Found {value!r}.")
        return tuple(dict.fromkeys(text for text in texts if text.strip()))

    def has(self, *fields: str) -> bool:
        """Whether all these fields are there, and not null."""
        known = self.fields if isinstance(self.fields, Mapping) else {}
        return all(field in known and not is_null(known[field]) for field in fields)

    def about(self, entity: int | str | None) -> str:
        """Whom or what it is about: see ``entity`` of :class:`Records`.

        Example:
            >>> Record({"who": "Ann"}, 7, "row 7").about("who"), Record({"who": None}, 7, "row 7").about("who")
            ('Ann', 'row 7')
        """
        if isinstance(entity, str):
            # Rows about nobody known are not about the same one.
            return f"row {self.index}" if is_blank(self[entity]) else spelled(self[entity])
        # By count: `entity` consecutive rows share one; without, each row is an entity of its own.
        return str(self.index // (entity or 1))


def kind(value: object) -> str:
    """The type of a value, for messages."""
    return f"`{type(value).__name__}`"
