from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from lightning_unlearn.requests._digest import as_line, digest_of
from lightning_unlearn.runtime import PRIVATE

Kind = Literal["start", "request", "undo"]
BEGINNING = "0" * 64
"""What stands in the place of the hash of an entry before the first."""


@dataclass(frozen=True)
class Entry:
    """One line of a ledger. It holds hashes and figures, and nothing of what had to go.

    Args:
        number: Its place, from 0.
        kind: The ``"start"``, a ``"request"`` that was carried out, or an ``"undo"``.
        request: Name of the request; of an undo, of the one that is the last again; empty for the start.
        data: SHA-256 of the rows of the request.
        configuration: SHA-256 of the settings, which are in a file of this name.
        before: SHA-256 of the weights before it.
        after: SHA-256 of the weights after it.
        figures: What was measured.
        failed: The gates that it failed, in words; none is a pass.
        previous: Hash of the entry before.
    """

    number: int
    kind: Kind
    request: str
    data: str
    configuration: str
    before: str
    after: str
    figures: dict[str, Any] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    previous: str = BEGINNING

    @property
    def hash(self) -> str:
        """SHA-256 of all of it, with the hash of the entry before, and so of all entries before."""
        return digest_of(asdict(self))

    @property
    def passed(self) -> bool:
        """Whether it failed no gate."""
        return not self.failed


class Ledger:
    """What was done, an entry a line: lines are only ever added, and each holds the hash of the one before.

    A changed, removed or inserted line is noticed when the ledger is read. Lines that are cut off its end are noticed if the
    hash of the last one, the ``head``, was noted somewhere else.

    Args:
        path: The file, JSON Lines.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     ledger = Ledger(Path(folder) / "ledger.jsonl")
        ...     ledger.append(Entry(0, "start", "", data="", configuration="", before="", after="a"))
        ...     [entry.kind for entry in ledger.entries()], ledger.head == ledger.entries()[0].hash
        (['start'], True)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def head(self) -> str:
        """Hash of the last entry."""
        entries = self.entries()
        return entries[-1].hash if entries else BEGINNING

    def entries(self) -> list[Entry]:
        """All entries, checked. A last line without an end was being written when its process was killed, and is left out.

        Raises:
            ValueError: If a line is not what was written.
        """
        entries: list[Entry] = []
        for number, line in enumerate(self._lines()):
            entries.append(self._read(line, number, entries[-1].hash if entries else BEGINNING))
        return entries

    def append(self, entry: Entry) -> None:
        """Add an entry, and wait until it is on the disk."""
        line = as_line({**asdict(entry), "hash": entry.hash}) + "\n"
        number = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, PRIVATE)
        try:
            os.write(number, line.encode())
            os.fsync(number)
        finally:
            os.close(number)

    def repair(self) -> None:
        """Cut off a last line without an end: the next entry would go behind it."""
        if self.path.exists():
            whole = self.path.read_bytes().rpartition(b"\n")
            if whole[2]:
                os.truncate(self.path, len(whole[0]) + len(whole[1]))

    def _lines(self) -> list[bytes]:
        return self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else []

    def _read(self, line: bytes, number: int, previous: str) -> Entry:
        try:
            values = json.loads(line)
            hashed = values.pop("hash")
            entry = Entry(**{each.name: values.pop(each.name) for each in fields(Entry)})
        except (ValueError, KeyError, TypeError, AttributeError):
            raise self._tampered(number, "a line that is no entry") from None
        if values or entry.hash != hashed:
            raise self._tampered(number, "an entry that is not the one its hash is of")
        if entry.previous != previous or entry.number != number:
            raise self._tampered(number, "an entry that does not follow on the one before")
        return entry

    def _tampered(self, number: int, found: str) -> ValueError:
        return ValueError(
            f"`{self.path}` should be as it was written. Found {found} in line {number + 1}: it was changed, or lines were "
            "taken out. Nothing in it can be relied on from there; restore the file from a copy."
        )


def in_effect(entries: Sequence[Entry]) -> list[Entry]:
    """The start and the requests whose weights are in use: all but those that were undone.

    Example:
        >>> def entry(number, kind, request):
        ...     return Entry(number, kind, request, data="", configuration="", before="", after="")
        >>> done = [entry(0, "start", ""), entry(1, "request", "a"), entry(2, "request", "b"), entry(3, "undo", "a")]
        >>> [entry.request for entry in in_effect(done)]
        ['', 'a']
    """
    stack: list[Entry] = []
    for entry in entries:
        if entry.kind != "undo":
            stack.append(entry)
            continue
        while stack[-1].request != entry.request:
            stack.pop()
    return stack


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of ``folder``. The system frees the lock of a process that was killed.

    Raises:
        RuntimeError: If another process is at it.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows: there, nobody is kept out
        yield
        return
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(
                f"One process at a time should work in `{folder}`. Found another one there. Wait for it to end."
            ) from None
        yield
