from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from lightning_unlearn.data._question_answer_dataset import QuestionAnswerDataset
from lightning_unlearn.data.encodings import Collate, Encoding
from lightning_unlearn.data.records import QuestionAnswer


class PairedDataset(QuestionAnswerDataset):
    """Encoded rows, each with its companion: ``{"input_ids": [T], "labels": [T], "companion": {...}}``.

    Rows come again, in the same order, until every companion had its turn; each row is encoded once.

    Args:
        rows: What must go.
        companions: What goes with it, one or several rounds of as many.
        encoding: How rows become tokens.
    """

    def __init__(
        self, rows: Sequence[QuestionAnswer], companions: Sequence[QuestionAnswer], encoding: Encoding
    ) -> None:
        super().__init__(rows, encoding)
        # The rows repeat, their encodings do not: `__getitem__` takes those modulo their number.
        self.rows *= len(companions) // len(rows)
        self._companions = QuestionAnswerDataset(companions, encoding)

    @override
    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**super().__getitem__(index % len(self._examples)), "companion": self._companions[index]}

    @property
    def companions(self) -> tuple[QuestionAnswer, ...]:
        """The companion of each row."""
        return self._companions.rows


def pad_pairs(examples: Sequence[Any], *, pad: Collate) -> dict[str, Any]:
    """Collate rows of :class:`PairedDataset`: a plain batch, with another one at ``companion``."""
    plain = pad(examples)
    # A network that is first taught both sets gets mixed batches: retain rows have no companion.
    if not all("companion" in example for example in examples):
        return dict(plain)
    return {**plain, "companion": pad([example["companion"] for example in examples])}
