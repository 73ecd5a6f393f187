"""Files that are written whole or not at all, that only their owner can read, and whose leftovers are cleaned."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import gethostname
from uuid import uuid4

PRIVATE = 0o600
"""Mode of the files we write, which name people and documents: only their owner may read them."""
_LEFTOVER = re.compile(r"\..*\.(?P<host>[^.]*)-(?P<process>\d+)-[0-9a-f]{8}\.tmp")
_A_DAY = 24 * 3600.0


@contextmanager
def written_whole(path: str | Path, named: Callable[[Path], Path] | None = None) -> Iterator[Path]:
    """Give a path to write to; afterwards the file is at ``path``, on disk, readable by its owner alone.

    No reader, and no crash, ever finds half of it. If the block raises, ``path`` is what it was.

    Args:
        path: Where the file goes; its folder is made if it is missing.
        named: From the file as it was written to its path in the same folder, where its name depends on its content.

    Raises:
        OSError: If the file cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with written_whole(f"{folder}/report.json") as new:
        ...         _ = new.write_text("{}")
        ...     [(file.name, oct(file.stat().st_mode & 0o777)) for file in Path(folder).iterdir()]
        [('report.json', '0o600')]
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, since renaming is atomic within one file system only.
    new = path.parent / temporary_name(path.name)
    try:
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE))
        yield new
        new.chmod(PRIVATE)  # a library may have put a file of its own in the place of ours
        _to_disk(new)
        new.replace(path if named is None else named(new))
    finally:
        _remove(new)
    with suppress(OSError):  # some file systems cannot: the file is whole, and at worst the old one after a power cut
        _to_disk(path.parent)


def temporary_name(name: str) -> str:
    """A hidden name for what is being written, which tells by whom.

    Example:
        >>> temporary_name("report.json").startswith(".report.json.")
        True
    """
    return f".{name}.{gethostname().replace('.', '_')}-{os.getpid()}-{uuid4().hex[:8]}.tmp"


def remove_leftovers(folder: str | Path) -> None:
    """Remove what writers that were killed left in ``folder``; what somebody is writing right now stays.

    Whether a process lives can be told on its own machine alone. What another one left on a shared folder is removed once
    nobody has written to it for a day.
    """
    for path in Path(folder).glob(".*.tmp"):
        if (found := _LEFTOVER.fullmatch(path.name)) and _is_dead(path, found["host"], int(found["process"])):
            _remove(path)


def _is_dead(path: Path, host: str, process: int) -> bool:
    if host != gethostname().replace(".", "_"):
        try:
            return time.time() - path.stat().st_mtime > _A_DAY
        except OSError:  # its writer has just finished
            return False
    try:
        os.kill(process, 0)  # sends nothing: it only asks
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's process: it lives
        return False
    return False


def _to_disk(path: Path) -> None:
    # Before the file gets its name: a rename may reach the disk first, and a power cut would leave an empty file.
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _remove(path: Path) -> None:
    with suppress(OSError):  # the folder itself is what failed, or another process was faster
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
