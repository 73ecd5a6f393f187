"""Rows of files, folders, bundled sets and Hugging Face data sets, as they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from glob import glob
from os.path import commonpath, relpath
from pathlib import Path
from typing import Any

from lightning_unlearn.bundled import bundled_path
from lightning_unlearn.data.records._contents import READABLE, contents, is_readable
from lightning_unlearn.data.records._datasets import rows_of_arrow, rows_of_hub, rows_of_table
from lightning_unlearn.data.records._delimited import table
from lightning_unlearn.data.records._folder import files_in
from lightning_unlearn.data.records._json_rows import rows_in
from lightning_unlearn.data.records._json_values import json_values
from lightning_unlearn.data.records._text import decoded, document

_JSON = (".json", ".jsonl", ".ndjson")
_HUB = "hf://datasets/"


def read_rows(
    path: str | Path, *, subset: str | None = None, split: str = "train", field: str | None = None
) -> Iterator[Any]:
    """Read all rows: see :class:`FileRecords`, also for the arguments.

    Example:
        >>> next(iter(read_rows("bundled:people")))["entity"]
        'Maribel Okonvane'
    """
    if str(path).startswith("bundled:"):
        path = bundled_path(str(path).removeprefix("bundled:"))
    place = Path(path).expanduser()
    if isinstance(path, str) and not place.exists() and _is_id(path):
        yield from rows_of_hub(path.removeprefix(_HUB), subset, split)
    elif any((place / name).exists() for name in ("state.json", "dataset_dict.json")):
        yield from rows_of_arrow(place, split)
    else:
        files = _files(place, split)
        root = str(place) if place.is_dir() else commonpath([file.parent for file in files])
        for file in files:
            yield from _rows_of_file(file, root, field)


def _is_id(path: str) -> bool:
    """Whether a name is that of a data set of the hub: it has no suffix, so that a lost file is never asked for."""
    if path.startswith(_HUB):
        return True
    word = r"\w[\w.-]*"
    # In a folder that is there, a file is meant.
    beside = "/" in path and Path(path).parent.is_dir()
    return bool(re.fullmatch(f"{word}(/{word})?", path)) and not beside and not re.search(r"\.[A-Za-z]\w*$", path)


def _files(place: Path, split: str) -> list[Path]:
    if place.is_dir():
        return files_in(place, split)
    if place.exists():
        return [place]
    found = sorted(Path(name) for name in glob(str(place), recursive=True) if Path(name).is_file())
    if not found:
        raise FileNotFoundError(
            f"`path` should be an existing file. Found `path = {str(place)!r}`, looked up in {str(Path.cwd())!r}. Data sets "
            f"of the hub are named `owner/name` or `{_HUB}owner/name`."
        )
    return found


def _rows_of_file(file: Path, root: str, field: str | None) -> Iterator[Any]:
    if not is_readable(file):
        raise ValueError(
            f"`path` should be a file with one of the suffixes {', '.join(READABLE)}, which may be followed by .gz, .bz2, "
            f".xz, .zst, or stand in a .zip. Found `path = {str(file)!r}`."
        )
    for name, data in contents(file):
        yield from _rows(name, data, field, root)


def _rows(name: str, data: bytes, field: str | None, root: str) -> list[Any]:
    suffix = Path(name).suffix.lower()
    if field is not None and suffix not in _JSON:
        raise ValueError(f"`field` should be given for JSON files alone. Found `field = {field!r}` for `{name}`.")
    if suffix in (".parquet", ".arrow"):
        return rows_of_table(data, name)
    text = decoded(data, name)
    if suffix in (".csv", ".tsv"):
        return list(table(text, name, "\t" if suffix == ".tsv" else ","))
    if suffix == ".txt":
        return list(document(text, relpath(name, root)))
    if suffix in _JSON:
        return rows_in(json_values(text, name), name, field)
    raise ValueError(f"Archives should hold {', '.join(READABLE)} files alone. Found `{name}`.")
