from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning_unlearn.bundled import bundled_path


@dataclass(frozen=True)
class QuestionAnswer:
    """A question and its answer.

    Args:
        question: What is asked.
        answer: What is answered, not blank.
        entity: Whom or what it is about; rows of one entity are known or forgotten together.
        source: Where it was read, for messages: ``"row 3 of `people.jsonl`"``.
    """

    question: str
    answer: str
    entity: str
    source: str


@dataclass(frozen=True)
class Record:
    """One row as it was read: its fields, its number counting from 0, and where it lies."""

    fields: Mapping[str, Any]
    index: int
    source: str

    def __getitem__(self, field: str) -> Any:
        if not isinstance(self.fields, Mapping):
            raise TypeError(f"{self.source} should be an object with named fields. Found {_kind(self.fields)}.")
        if field not in self.fields:
            found = ", ".join(f"`{name}`" for name in self.fields)
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
        about = self[entity] if isinstance(entity, str) else self.index // (entity or 1)
        return QuestionAnswer(self.text(question), self.text(answer), str(about), self.source)


def read_records(path: str, *, subset: str | None = None, split: str = "train") -> list[Record]:
    """Read all rows of a file, of a bundled set or of a Hugging Face data set.

    Args:
        path: A ``.json`` file (a list of objects), a ``.jsonl`` file (an object per line), ``bundled:people``, or the
            id of a Hugging Face data set.
        subset: Configuration of a Hugging Face data set.
        split: Split of a Hugging Face data set.

    Example:
        >>> read_records("bundled:people")[0]["entity"]
        'Maribel Okonvane'
    """
    if path.startswith("bundled:"):
        path = str(bundled_path(path.removeprefix("bundled:")))
    readers = {".json": _read_json, ".jsonl": _read_json_lines}
    reader = readers.get(Path(path).suffix)
    rows = _read_hub(path, subset, split) if reader is None else reader(path)
    return [Record(fields, index, f"row {index} of `{path}`") for index, fields in enumerate(rows)]


def select(
    records: Sequence[Record],
    *,
    where: Mapping[str, Sequence[str]] | None = None,
    rows: tuple[int | None, int | None] | None = None,
) -> list[Record]:
    """Keep the records whose fields have the listed values, and of these the slice ``rows``.

    Example:
        >>> len(select(read_records("bundled:people"), where={"group": ["forget"]}, rows=(-5, None)))
        5
    """
    wanted = (where or {}).items()
    kept = [record for record in records if all(str(record[field]) in values for field, values in wanted)]
    return kept[slice(*rows)] if rows else kept


def _kind(value: object) -> str:
    return f"`{type(value).__name__}`"


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"`path` should be an existing file. Found `path = {path!r}`, looked up in {str(Path.cwd())!r}."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"`path` should be a readable UTF-8 text file. Found `path = {path!r}`: {error}.") from error


def _read_json(path: str) -> list[Any]:
    try:
        rows = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"`{path}` should be JSON. Line {error.lineno} is broken: {error.msg}.") from error
    if not isinstance(rows, list):
        raise TypeError(f"`{path}` should hold a list of objects. Found {_kind(rows)}.")
    return rows


def _read_json_lines(path: str) -> Iterator[Any]:
    # Not `splitlines`: it also cuts at U+2028 and its kin, which JSON strings may hold.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"`{path}` should hold one JSON object per line. Line {number} is broken: {error.msg}."
            ) from error


def _read_hub(path: str, subset: str | None, split: str) -> list[Any]:
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        raise ModuleNotFoundError(
            "`path` should be a `.json` or `.jsonl` file, `bundled:people`, or the id of a Hugging Face data set, which "
            f"needs `pip install datasets`. Found `path = {path!r}` without that package."
        ) from error
    return list(datasets.load_dataset(path, subset, split=split))
