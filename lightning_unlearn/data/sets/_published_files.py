from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_unlearn.data.records import FileRecords

HUB = "hf://datasets/"
_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".txt")


class PublishedFiles:
    """The files of a benchmark set, in a folder or on the hub, found by part and split.

    In a folder, ``part`` and ``split`` may be written ``part/split.jsonl``, ``part_split.jsonl``, ``part.jsonl`` or
    ``split.jsonl``, or as the hub's ``part/split-00000-of-00001.parquet``; ``.json``, ``.parquet``, ``.csv`` and ``.txt``
    will do, and a folder ``data`` around them. Only a place that begins with ``hf://datasets/`` is downloaded.

    Args:
        place: A folder, or ``hf://datasets/owner/name``.
        name: Of the set, for messages.
        address: Where it is published.

    Example:
        >>> PublishedFiles("hf://datasets/muse-bench/MUSE-News", "MUSE", "").records("knowmem", "forget_qa").split
        'forget_qa'
    """

    def __init__(self, place: str | Path, name: str, address: str) -> None:
        self.place, self.name, self.address = str(place), name, address

    def records(self, part: str, split: str = "train", **options: Any) -> FileRecords:
        """Rows of one split of one part.

        Raises:
            FileNotFoundError: If there is no such file.
        """
        if self.place.startswith(HUB):
            return FileRecords(self.place, subset=part, split=split, **options)
        if (found := self._found(part, split)) is None:
            there = ", ".join(sorted(path.name for path in Path(self.place).glob("*"))[:10]) or "nothing"
            raise FileNotFoundError(
                f"`folder` should hold `{part}/{split}` of {self.name}, as `{part}/{split}.json` or `{part}_{split}.jsonl`. "
                f"Found {there} in `{self.place}`. The files are published at {self.address}; `folder` may also be a data "
                f"set of the hub, `{HUB}owner/name`, which is downloaded."
            )
        return FileRecords(found, **options)

    def has(self, part: str, split: str = "train") -> bool:
        """Whether such a file is there; of the hub it is taken for granted."""
        return self.place.startswith(HUB) or self._found(part, split) is not None

    def _found(self, part: str, split: str) -> Path | None:
        return next(
            (path for path in self._possible(part, split) if path.parent.is_dir() and any(_matching(path))), None
        )

    def _possible(self, part: str, split: str) -> Iterator[Path]:
        names = (f"{part}/{split}", f"{part}_{split}", part, split)
        for folder in (Path(self.place), Path(self.place) / "data"):
            for name in names:
                yield from (folder / f"{name}{suffix}" for suffix in _SUFFIXES)
            yield folder / part / f"{split}-*.parquet"


def _matching(path: Path) -> Iterator[Path]:
    return path.parent.glob(path.name)
