from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from lightning_unlearn.data.records import QuestionAnswer, Record


class Companion(ABC):
    """What goes with each row that must go: another answer to prefer, or another question whose answer must stay.

    A new one is a subclass with :meth:`candidates`; YAML builds it by its ``class_path``. :class:`PairedData` draws among
    the candidates.

    Attributes:
        advice: The way out if a row has too few candidates, a sentence.

    Example:
        >>> from dataclasses import replace
        >>> class Silence(Companion):
        ...     def candidates(self, record, row):
        ...         return [replace(row, answer="...")]
        >>> row = QuestionAnswer("Who employs Ada?", "The post office", entity="Ada", source="row 0")
        >>> Silence().candidates(Record({}, 0, "row 0"), row)[0].answer
        '...'
    """

    advice: ClassVar[str] = "Leave these rows out with `where` or `rows`, or take fewer `draws`."

    def forget(self, record: Record, row: QuestionAnswer) -> QuestionAnswer:
        """The part of ``record`` that must go. Defaults to its whole answer: the parsed ``row``."""
        return row

    @abstractmethod
    def candidates(self, record: Record, row: QuestionAnswer) -> Sequence[QuestionAnswer]:
        """All possible companions of ``record``, without duplicates; ``row`` is its parsed question and answer."""
