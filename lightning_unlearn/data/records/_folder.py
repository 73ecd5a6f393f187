"""The files in a folder that hold the rows of one split."""

from __future__ import annotations

import re
from pathlib import Path

from lightning_unlearn.data.records._contents import READABLE, is_beside, is_readable

_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def files_in(folder: Path, split: str) -> list[Path]:
    """The files of one split in a folder, by name. Where no file names a split, all of them."""
    every = sorted(path for path in folder.rglob("*") if path.is_file() and not is_beside(path.relative_to(folder)))
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
