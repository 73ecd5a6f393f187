"""What is in one file, which may be compressed or an archive."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
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
                for member in sorted(m for m in archive.namelist() if not m.endswith("/") and not is_beside(Path(m))):
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


def is_beside(path: Path) -> bool:
    """Whether a file describes the data, and is none of them."""
    hidden = any(part.startswith((".", "__")) for part in path.parts)
    return hidden or path.name.startswith(("README", "LICENSE", "dataset_info"))
