"""What only `datasets`, an extra of this package, and its pyarrow read."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from lightning_unlearn.data.records._tables import rows_of


def extra(module: str, path: object) -> Any:
    """Import what the extra brings."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ModuleNotFoundError(
            "`path` should be a file or folder of JSON, CSV, TSV or text, uncompressed or as gz, bz2, xz or zip. Parquet, "
            'arrow, zst and data sets of the hub need `pip install "lightning-unlearn[data]"`. Found '
            f"`path = {str(path)!r}` without that package."
        ) from error


def rows_of_hub(name: str, subset: str | None, split: str) -> list[Any]:
    """Rows of a data set of the hub, kept in the cache of Hugging Face (``HF_HOME``), and found there when offline."""
    datasets = extra("datasets", name)
    try:
        return list(datasets.load_dataset(name, subset, split=split, trust_remote_code=False))
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"`path` should be an existing file or folder, or a data set of the hub. Found `path = {name!r}`, nothing of "
            f"that name in {str(Path.cwd())!r}, and on the hub: {error}"
        ) from error


def rows_of_arrow(folder: Path, split: str) -> list[Any]:
    """Rows of a folder that ``save_to_disk`` has written."""
    found = extra("datasets", folder).load_from_disk(str(folder))
    if isinstance(found, dict) and split not in found:
        raise ValueError(f"`split` should be one of {', '.join(found)}. Found `split = {split!r}` for `{folder}`.")
    return list(rows_of(found[split] if isinstance(found, dict) else found))


def rows_of_table(data: bytes, name: str) -> list[Any]:
    """Rows of a parquet or an arrow file."""
    pyarrow = extra("pyarrow", name)
    buffer = pyarrow.BufferReader(data)
    try:
        if name.endswith(".parquet"):
            return list(import_module("pyarrow.parquet").read_table(buffer).to_pylist())
        # `save_to_disk` writes streams, others files; those begin with their name.
        ipc = import_module("pyarrow.ipc")
        opened = ipc.open_file(buffer) if data.startswith(b"ARROW1") else ipc.open_stream(buffer)
        return list(opened.read_all().to_pylist())
    except pyarrow.ArrowException as error:
        raise ValueError(f"`{name}` should be written as its name says. It cannot be read: {error}.") from error


def from_zst(data: bytes, name: str) -> bytes:
    """The content of a file that was compressed by ``zstd``."""
    pyarrow = extra("pyarrow", name)
    with pyarrow.CompressedInputStream(pyarrow.BufferReader(data), "zstd") as stream:
        return bytes(stream.read())
