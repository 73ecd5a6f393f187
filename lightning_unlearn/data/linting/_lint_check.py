from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from lightning_unlearn.data.linting._finding import Finding
from lightning_unlearn.data.linting._linted_rows import Request
from lightning_unlearn.data.records import QuestionAnswer

_LISTED = 20
"""So many rows are listed in one finding."""


class LintCheck(ABC):
    """One way in which a request for forgetting can be wrong.

    A new one is a subclass with :meth:`__call__`; YAML builds it by its ``class_path``. Its cost should be linear in the
    number of rows.

    Attributes:
        way_out: What to do about what it finds, a sentence or two.

    Example:
        >>> class Shouting(LintCheck):
        ...     way_out = "Write it in small letters."
        ...     def __call__(self, request):
        ...         loud = [row for row in request.forget.rows if row.question.isupper()]
        ...         return [self.found(f"{row.question} is loud.", [row]) for row in loud]
        >>> row = QuestionAnswer("WHO EMPLOYS ADA?", "The post office", entity="Ada", source="row 0")
        >>> Shouting()(Request([row], []))[0].says
        'WHO EMPLOYS ADA? is loud.'
    """

    way_out: ClassVar[str]

    @abstractmethod
    def __call__(self, request: Request) -> Iterable[Finding]:
        """What is found, in the order of the rows."""

    def found(self, says: str, rows: Iterable[QuestionAnswer]) -> Finding:
        """A finding of this check."""
        sources = tuple(row.source for row in rows)
        return Finding(type(self).__name__, says, sources[:_LISTED], self.way_out, len(sources))


def quoted(text: str, most: int = 80) -> str:
    """A text for a message, shortened.

    Example:
        >>> quoted("Who employs Ada?"), quoted("Who employs Ada?", most=8)
        ('"Who employs Ada?"', '"Who e..."')
    """
    flat = " ".join(text.split())
    return f'"{flat}"' if len(flat) <= most else f'"{flat[: most - 3]}..."'
