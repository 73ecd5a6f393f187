from __future__ import annotations

import json
import os
import warnings
from base64 import b64decode, b64encode
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from lightning_unlearn.runtime import PRIVATE, writable_folder

_FORMAT = 1


class CacheFile:
    """Likelihoods kept in a folder, under everything that decides their values: their ``origin``.

    At the start, all files of the same origin are read. Each writer adds to a new file of its own, made once there is
    something to add. No writer touches another's file, so several processes and several runs may share a folder. A file
    is text: a line with the origin, then one line per example, with a checksum. A last line that was cut off by an
    interruption is left out. Files that are damaged, not ours, or not to be read are named in a warning, and are not used.
    Only their owner may read what is written. If the folder fills up, values are kept in memory, with a warning.

    Args:
        folder: Where the files are.
        origin: What decides the values, as plain values. Another origin is another file.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with CacheFile(folder, {"weights": 1}) as file:
        ...         file.append({"key": torch.tensor([0.5, 2.0])})
        ...     CacheFile(folder, {"weights": 1}).known, CacheFile(folder, {"weights": 2}).known
        ({'key': tensor([0.5000, 2.0000])}, {})
    """

    def __init__(self, folder: str, origin: Mapping[str, Any]) -> None:
        self._head = json.dumps({"format": _FORMAT, **origin}, sort_keys=True)
        name = blake2b(self._head.encode(), digest_size=8).hexdigest()
        self._path = Path(folder).expanduser() / f"{name}-{os.urandom(4).hex()}.jsonl"
        self._file: int | None = None
        self._is_full = False
        self.known: dict[str, Tensor] = {}
        for path in sorted(self._path.parent.glob(f"{name}-*.jsonl")):
            self.known.update(self._read(path))

    def append(self, values: Mapping[str, Tensor]) -> None:
        """Add what is not known yet, ``[n]`` float32 by key. It is flushed to the operating system before this returns."""
        fresh = {key: value for key, value in values.items() if key not in self.known}
        self.known.update(fresh)
        if not fresh or self._is_full:
            return
        try:
            self._write("".join(_line(key, value) for key, value in fresh.items()))
        except OSError as error:
            self._is_full = True
            warnings.warn(
                f"Likelihoods should be kept in `{self._path.parent}` for other runs. Found {error} This run goes on with "
                "those in memory and in its checkpoints.",
                stacklevel=2,
            )

    def __enter__(self) -> CacheFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            os.close(self._file)

    def _write(self, lines: str) -> None:
        if self._file is None:
            self._file = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE)
            lines = f"{self._head}\n{lines}"
        content = lines.encode("ascii")
        while content:  # a system call may take less than it was given, and says so by a number only
            content = content[os.write(self._file, content) :]

    def _read(self, path: Path) -> dict[str, Tensor]:
        # Text after the last line break is a line whose writer was interrupted, or is still writing.
        try:
            lines = path.read_bytes().split(b"\n")[:-1]
        except OSError as error:
            warnings.warn(
                f"`{path}` should be a file of likelihoods. Found {error}: they are computed again. Remove it, or let it be "
                "read, to be rid of this warning.",
                stacklevel=2,
            )
            return {}
        # The file's name is a short hash of the origin; its first line proves that the whole origin is the same.
        trusted = lines[:1] == [self._head.encode()]
        values = dict(pair for line in lines[1:] if trusted and (pair := _parse(line)) is not None)
        if damaged := len(lines) - trusted - len(values):
            warnings.warn(
                f"`{path}` should hold likelihoods as they were written. Found {damaged} damaged lines: their values are "
                "computed again. Delete the file to be rid of this warning.",
                stacklevel=2,
            )
        return values


def make_writable(folder: str) -> None:
    """Make ``folder``, and prove that files can be written in it.

    Raises:
        OSError: If not.
    """
    try:
        writable_folder(folder)
    except OSError as error:
        raise OSError(
            f"{error} `CachedLogLikelihood()` keeps likelihoods in memory and in the checkpoint only."
        ) from error


def _line(key: str, value: Tensor) -> str:
    # Bytes, not decimals: a value is read back bit for bit, on machines of either byte order.
    content = b64encode(value.numpy().astype("<f4").tobytes()).decode()
    return json.dumps([key, content, _sum(key, content)]) + "\n"


def _parse(line: bytes) -> tuple[str, Tensor] | None:
    """Key and values of a line, or ``None`` if it is damaged."""
    try:
        key, content, expected = json.loads(line)
        if not isinstance(key, str) or _sum(key, content) != expected:
            return None
        return key, torch.from_numpy(np.frombuffer(b64decode(content), dtype="<f4").astype(np.float32))
    except (ValueError, TypeError, RecursionError):
        return None


def _sum(key: str, content: str) -> int:
    return crc32(f"{key} {content}".encode())
