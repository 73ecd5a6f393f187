"""The files in a path: one, those in an archive, those in a folder, those of a pattern."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from lightning_unlearn.data.records._datasets import from_zst

READABLE = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".parquet", ".arrow")
"""What files may be, beneath compression."""
_UNPACK: dict[str, Callable[[bytes, str], bytes]] = {
    ".gz": lambda data, name: gzip.decompress(data),
    ".bz2": lambda data, name: bz2.decompress(data),
    ".xz": lambda data, name: lzma.decompress(data),
    ".zst": from_zst,
}
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file in one that may be compressed; names lose the suffix of the compression."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"`path` should be a readable file. Found `path = {str(path)!r}`: {error}.") from error
    yield from _unpacked(str(path), data)


def _unpacked(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    stem, suffix = name.removesuffix(Path(name).suffix), Path(name).suffix.lower()
    try:
        if suffix == ".zip":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                for member in sorted(m for m in archive.namelist() if not m.endswith("/") and not _is_beside(Path(m))):
                    yield from _unpacked(f"{name}/{member}", archive.read(member))
        elif suffix in _UNPACK:
            yield from _unpacked(stem, _UNPACK[suffix](data, name))
        else:
            yield name, data
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise ValueError(f"`{name}` should be compressed as its name says. It cannot be read: {error}.") from error


def is_readable(path: Path) -> bool:
    """Whether a name is that of a file with rows."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in _UNPACK:
        suffixes.pop()
    return bool(suffixes) and suffixes[-1] in (*READABLE, ".zip")


def files_in(folder: Path, split: str) -> list[Path]:
    """The files of one split in a folder, by name. Where no file names a split, all of them."""
    every = sorted(path for path in folder.rglob("*") if path.is_file() and not _is_beside(path.relative_to(folder)))
    if strange := [path for path in every if not is_readable(path)]:
        raise ValueError(
            f"The folder `{folder}` should hold {', '.join(READABLE)} files, compressed or not. Found "
            f"`{strange[0].relative_to(folder)}`: give a pattern, such as `path='{folder}/*.jsonl'`."
        )
    if not every:
        raise FileNotFoundError(f"The folder `{folder}` should hold {', '.join(READABLE)} files. Found none.")
    splits = {path: _split_of(path.relative_to(folder)) for path in every}
    named = sorted({str(name) for name in splits.values() if name is not None})
    if not named:
        return every
    if split not in named or None in splits.values():
        loose = next((f" and `{path.relative_to(folder)}` of none" for path, name in splits.items() if not name), "")
        raise ValueError(
            f"`split` should be one of those that the files in `{folder}` name, and each file should name one. Found "
            f"`split = {split!r}`, files of {', '.join(named)}{loose}. Or give a pattern: `path='{folder}/*'`."
        )
    return [path for path in every if splits[path] == split]


def _split_of(path: Path) -> str | None:
    """The split that a name tells, as `datasets` reads names: ``train-00000-of-00002.parquet``, ``data/test/a.csv``."""
    words = set(re.split(r"[^a-z]+", str(path).lower()))
    return next((split for split, spellings in _SPLITS.items() if words & set(spellings)), None)


def _is_beside(path: Path) -> bool:
    """Whether a file describes the data, and is none of them."""
    hidden = any(part.startswith((".", "__")) for part in path.parts)
    return hidden or path.name.startswith(("README", "LICENSE", "dataset_info"))
