from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from typing_extensions import override

from lightning_unlearn.data.records._records import Records


class InMemoryRecords(Records):
    """Rows that are there already: a list of mappings, a Hugging Face data set, the records of a data frame.

    Args:
        source: The rows. Of a pandas frame give ``frame.to_dict("records")``.
        **kwargs: As in :class:`Records`: ``question``, ``answer``, ``entity``, ``where``, ``rows``.

    Example:
        >>> InMemoryRecords([{"question": "Who employs Ada?", "answer": "The post office"}]).questions()[0].answer
        'The post office'
    """

    def __init__(self, source: Iterable[Mapping[str, Any]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source

    @override
    def read(self) -> Iterable[Mapping[str, Any]]:
        return self.source
