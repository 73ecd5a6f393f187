from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from typing_extensions import override

from lightning_unlearn.data.records._records import Records
from lightning_unlearn.data.records._tables import rows_of


class InMemoryRecords(Records):
    """Rows that are there already.

    Args:
        source: The rows: a list of mappings, columns by name, one split of Hugging Face's ``datasets``, a frame of pandas or
            polars, a table of pyarrow, or a torch data set whose items are mappings.
        **kwargs: As in :class:`Records`: ``question``, ``answer``, ``chat``, ``answers``, ``entity``, ``image``,
            ``where``, ``rows``.

    Example:
        >>> InMemoryRecords([{"question": "Who employs Ada?", "answer": "The post office"}]).questions()[0].answer
        'The post office'
    """

    def __init__(self, source: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source

    @override
    def read(self) -> Iterable[Any]:
        return rows_of(self.source)
