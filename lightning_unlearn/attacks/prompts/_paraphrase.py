from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from typing_extensions import override

from lightning_unlearn.attacks.prompts._prompt_attack import PromptAttack
from lightning_unlearn.data import QuestionAnswer
from lightning_unlearn.functional.settings import check_whole


class Paraphrase(PromptAttack):
    """The paraphrases that come with the rows: ``FileRecords(..., paraphrase="paraphrase")``.

    A model that refuses only the words it was trained to refuse gives the answer here.

    Args:
        number: How many paraphrases of each row are asked, one after another. Rows with fewer are left out there.

    Raises:
        ValueError: When it asks, if no row of a split has a paraphrase.

    Example:
        >>> from lightning_unlearn import FileRecords
        >>> rows = FileRecords("bundled:people", entity="entity", paraphrase="paraphrase").questions()
        >>> Paraphrase().asks(rows, split="forget", point=1)[0].question
        'What is the birthplace of Maribel Okonvane?'

    References:
        Singh et al., `Unlearning That Lasts <https://arxiv.org/abs/2509.02820>`_, 2025: the worst of several paraphrases.
    """

    def __init__(self, number: int = 1) -> None:
        check_whole("number", number)
        self.number = number

    @property
    @override
    def points(self) -> Sequence[int]:
        return range(1, self.number + 1)

    @override
    def reword(self, row: QuestionAnswer, point: float) -> QuestionAnswer | None:
        place = int(point) - 1
        return replace(row, question=row.paraphrases[place]) if place < len(row.paraphrases) else None

    @override
    def reword_all(
        self, rows: Sequence[QuestionAnswer], *, split: str, point: float
    ) -> Sequence[QuestionAnswer | None]:
        if rows and not any(row.paraphrases for row in rows):
            raise ValueError(
                f"`Paraphrase` should find paraphrases in the rows of `{split}`. Found none. Name their field: "
                "`FileRecords(..., paraphrase='paraphrase')`, or use `Templates`."
            )
        return super().reword_all(rows, split=split, point=point)

    @override
    def wording(self, point: float) -> str:
        return f"Paraphrase {int(point)} of each question, as the data give it."
