"""Rows of files, bundled sets and Hugging Face data sets, as they are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning_unlearn.bundled import bundled_path


def read_rows(path: str, *, subset: str | None = None, split: str = "train") -> Iterable[Any]:
    """Read all rows of a file, of a bundled set or of a Hugging Face data set.

    Args:
        path: A ``.json`` file (a list of objects), a ``.jsonl`` file (an object per line), ``bundled:people``, or the
            id of a Hugging Face data set.
        subset: Configuration of a Hugging Face data set.
        split: Split of a Hugging Face data set.

    Example:
        >>> next(iter(read_rows("bundled:people")))["entity"]
        'Maribel Okonvane'
    """
    if path.startswith("bundled:"):
        path = str(bundled_path(path.removeprefix("bundled:")))
    reader = {".json": _read_json, ".jsonl": _read_json_lines}.get(Path(path).suffix)
    return _read_hub(path, subset, split) if reader is None else reader(path)


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
        raise TypeError(f"`{path}` should hold a list of objects. Found `{type(rows).__name__}`.")
    return rows


def _read_json_lines(path: str) -> Iterator[Any]:
    # Not `splitlines`: it also cuts at U+2028 and similar line separators, which JSON strings may hold.
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
    return list(datasets.load_dataset(path, subset, split=split, trust_remote_code=False))
