from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_unlearn.data._tofu_split import AUTHORS, QUESTIONS, TOFUSplit
from lightning_unlearn.data.records import FileRecords
from lightning_unlearn.data.sets._published_files import HUB

Rows = list[dict[str, Any]]
TOFU_ADDRESS = "https://huggingface.co/datasets/locuslab/TOFU"
# Of which authors the file holds paraphrased and perturbed answers.
_PERTURBED = {"retain_perturbed": (0, 20), "forget10_perturbed": (AUTHORS - 20, AUTHORS)}


class TOFUFiles:
    """The files of TOFU in a folder or on the hub, read by part.

    Args:
        folder: With ``full.jsonl``, ``*_perturbed.jsonl``, as published, or ``hf://datasets/locuslab/TOFU``, which is
            downloaded.

    Raises:
        FileNotFoundError: If there is no such file, when it is read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.hub = str(folder) if str(folder).startswith(HUB) else None
        self.folder = Path(folder)

    def path(self, name: str) -> str:
        """Of ``name.jsonl``, or ``name.json`` as it is called in TOFU's own repository."""
        paths = [self.folder / f"{name}{suffix}" for suffix in (".jsonl", ".json")]
        found = next((path for path in paths if path.is_file()), None)
        if found is None:
            there = ", ".join(sorted(path.name for path in self.folder.glob("*.json*"))) or "none of its files"
            raise FileNotFoundError(
                f"`folder` should hold `{name}.jsonl` of TOFU. Found {there} in `{self.folder}`. Download the files from "
                f"{TOFU_ADDRESS} into one folder, and give it as `folder`. `{HUB}locuslab/TOFU` is downloaded."
            )
        return str(found)

    def records(self, name: str, **options: Any) -> FileRecords:
        """The rows of a file."""
        if self.hub is not None:
            return FileRecords(self.hub, subset=name, split="train", **options)
        return FileRecords(self.path(name), **options)

    def perturbed(self, split: TOFUSplit, part: str) -> Rows:
        """The rows of a part with ``paraphrased_question``, ``paraphrased_answer`` and ``perturbed_answer``.

        Of authors without any, none: TOFU has them of the first and of the last twenty.

        Raises:
            ValueError: If TOFU has them of none of these authors.
        """
        first, last = (row // QUESTIONS for row in split.rows(part))
        found: Rows = []
        for name, (low, high) in self._overlaps(split, part).items():
            start = _PERTURBED[name][0]
            found += self._read(name)[QUESTIONS * (low - start) : QUESTIONS * (high - start)]
        if not found:
            raise ValueError(
                f"`{part}` should hold authors of whom TOFU has perturbed answers: 0 to 19, or 180 to 199. Found "
                f"`{part} = ({first}, {last})`."
            )
        return found

    def has_perturbed(self, split: TOFUSplit, part: str) -> bool:
        """Whether TOFU has such answers of any of these authors."""
        return bool(self._overlaps(split, part))

    def _overlaps(self, split: TOFUSplit, part: str) -> dict[str, tuple[int, int]]:
        first, last = (row // QUESTIONS for row in split.rows(part))
        both = {name: (max(first, start), min(last, stop)) for name, (start, stop) in _PERTURBED.items()}
        return {name: (low, high) for name, (low, high) in both.items() if low < high}

    def world(self, name: str) -> Rows:
        """``real_authors`` or ``world_facts``, with wrong answers as ``perturbed_answer``."""
        return self._read(f"{name}_perturbed")

    def _read(self, name: str) -> Rows:
        rows: list[Mapping[str, Any]] = list(self.records(name).read())
        return [dict(row) for row in rows]
