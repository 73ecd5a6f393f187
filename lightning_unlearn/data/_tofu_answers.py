from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from typing_extensions import override

from lightning_unlearn.data._tofu_files import TOFUFiles
from lightning_unlearn.data._tofu_split import TOFUSplit
from lightning_unlearn.data.records import Records

ENDINGS = {"": "answer", "_paraphrased": "paraphrased_answer", "_perturbed": "perturbed_answer"}
"""How splits of the same questions with other answers end, and the field that they are from."""


class TOFUAnswers(Records):
    """The questions of one part of TOFU, with one kind of answer to each, or with several one after the other.

    Args:
        files: Where they are.
        split: Which authors.
        name: ``"forget"``, ``"retain"``, ``"real_authors"`` or ``"world_facts"``, and ``_paraphrased`` or ``_perturbed``.
    """

    def __init__(self, files: TOFUFiles, split: TOFUSplit, name: str) -> None:
        super().__init__(entity="entity")
        self.files, self.split, self.asked = files, split, name

    @property
    @override
    def name(self) -> str:
        return f"{self.asked} of {self.files.hub or self.files.folder}"

    @override
    def read(self) -> Iterable[Any]:
        ending = next(ending for ending in reversed(ENDINGS) if self.asked.endswith(ending))
        part = self.asked.removesuffix(ending)
        told = part in ("forget", "retain", "holdout")
        rows = self.files.perturbed(self.split, part) if told else self.files.world(part)
        for number, row in enumerate(rows):
            answers = row[ENDINGS[ending]]
            entity = f"{part} {number // 20}" if told else f"{part} {number}"
            for answer in answers if isinstance(answers, list) else [answers]:
                yield {"question": row["question"], "answer": answer, "entity": entity}
