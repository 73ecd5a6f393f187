from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_unlearn.functional.text import visible


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
        accepted: Other answers that are right, too.
    """

    question: str
    answer: str
    entity: str
    source: str
    before: tuple[Turn, ...] = ()
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True)
class MarkedAnswer(QuestionAnswer):
    """A question and its answer, of which only marked parts are supervised.

    Args:
        spans: The marked parts, as half-open ranges of characters of ``answer``.
    """

    spans: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Record:
    """One row as it was read: its fields, its number counting from 0, and where it was read, for messages."""

    fields: Mapping[str, Any]
    index: int
    source: str

    def __getitem__(self, field: str) -> Any:
        if not isinstance(self.fields, Mapping):
            raise TypeError(f"{self.source} should be an object with named fields. Found {_kind(self.fields)}.")
        if field not in self.fields:
            found = ", ".join(f"`{visible(str(name))}`" for name in self.fields)
            raise ValueError(f"{self.source} should have the field `{field}`. It has {found or 'none'}.")
        return self.fields[field]

    def text(self, field: str) -> str:
        """The string in ``field``."""
        value = self[field]
        if not isinstance(value, str):
            raise TypeError(f"`{field}` of {self.source} should be a string. Found {_kind(value)}.")
        return value

    def parse(self, *, question: str, answer: str, entity: int | str | None) -> QuestionAnswer:
        """Read the fields that matter."""
        if not self.text(answer).strip():
            raise ValueError(f"`{answer}` of {self.source} should not be empty. Found {self[answer]!r}.")
        # By count: `entity` consecutive rows share one; without, each row is an entity of its own.
        about = self[entity] if isinstance(entity, str) else self.index // (entity or 1)
        return QuestionAnswer(self.text(question), self.text(answer), str(about), self.source)


def _kind(value: object) -> str:
    return f"`{type(value).__name__}`"
