from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from typing_extensions import override

from lightning_unlearn.data.records._reading import read_rows
from lightning_unlearn.data.records._records import Records


class FileRecords(Records):
    """Rows of a file, of a set that comes with the package, or of a Hugging Face data set.

    Args:
        path: A ``.json`` file (a list of objects), a ``.jsonl`` file (an object per line), ``bundled:people``, or the
            id of a Hugging Face data set.
        subset: Configuration of a Hugging Face data set.
        split: Split of a Hugging Face data set.
        **kwargs: As in :class:`Records`: ``question``, ``answer``, ``entity``, ``where``, ``rows``.

    Example:
        >>> records = FileRecords("bundled:people", entity="entity", where={"group": ["forget"]})
        >>> sorted({row.entity for row in records.questions()})
        ['Maribel Okonvane', 'Renzo Dappleworth', 'Ysolde Tamarisk']
    """

    def __init__(self, path: str, *, subset: str | None = None, split: str = "train", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = path
        self.subset = subset
        self.split = split

    @property
    @override
    def name(self) -> str:
        return self.path

    @override
    def read(self) -> Iterable[Any]:
        return read_rows(self.path, subset=self.subset, split=self.split)
