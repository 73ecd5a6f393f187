from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

from typing_extensions import override

from lightning_unlearn.data.records._reading import read_rows
from lightning_unlearn.data.records._records import Records


class FileRecords(Records):
    """Rows of files, of a set that comes with the package, or of a Hugging Face data set.

    - JSON (``.json``, ``.jsonl``, ``.ndjson``): a list of objects, an object per line, or one object with a list of them.
    - Tables (``.csv``, ``.tsv``): every value is the string that stands there, also ``007``, ``NA`` and nothing.
    - ``.parquet`` and ``.arrow`` files, and folders that ``datasets`` has saved.
    - ``.txt``: a document is one row, with ``text`` and the name of its ``file`` in the folder, for :class:`TextData`.

    Each may be compressed (``.gz``, ``.bz2``, ``.xz``, ``.zst``, ``.zip``). Text is UTF-8. Local files are read into memory;
    nothing is written beside them or in a cache. Parquet, arrow, zst and the hub need
    ``pip install "lightning-unlearn[data]"``.

    Args:
        path: A file, a folder of files, a pattern (``data/*.jsonl``), ``bundled:people``, or the id of a Hugging Face data
            set (``owner/name``), which is downloaded to Hugging Face's own cache. A ``Path``, or a name with the suffix of
            a file, is never looked up online; ``hf://datasets/owner/name`` always is.
        subset: Configuration of a Hugging Face data set.
        split: Split of a Hugging Face data set, or of a folder whose files name splits (``train-0.parquet``).
        field: Of a JSON file that is one object, the field with the rows; found by itself if there is one list of objects.
        **kwargs: As in :class:`Records`: ``question``, ``answer``, ``chat``, ``answers``, ``entity``,
            ``paraphrase``, ``image``, ``where``, ``rows``.

    Example:
        >>> records = FileRecords("bundled:people", entity="entity", where={"group": "forget"})
        >>> sorted({row.entity for row in records.questions()})
        ['Maribel Okonvane', 'Renzo Dappleworth', 'Ysolde Tamarisk']
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        subset: str | None = None,
        split: str = "train",
        field: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not str(path).strip():
            raise ValueError(f"`path` should name a file, a folder or a data set. Found `path = {path!r}`.")
        self.path = path if isinstance(path, str) else Path(path)
        self.subset = subset
        self.split = split
        self.field = field

    @property
    @override
    def name(self) -> str:
        return str(self.path)

    @property
    @override
    def folder(self) -> Path:
        path = Path(self.path)
        return path if path.is_dir() else path.parent

    @override
    def read(self) -> Iterable[Any]:
        return read_rows(self.path, subset=self.subset, split=self.split, field=self.field)
