from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from typing_extensions import override

from lightning_unlearn.data._hashing import shuffled
from lightning_unlearn.data.orders._order import EpochRows, Order, RowSet
from lightning_unlearn.data.orders._random_order import drawn
from lightning_unlearn.functional.settings import check_kind
from lightning_unlearn.prediction import IGNORED


class Difficulty(ABC):
    """How hard each forget row is, known before the fit.

    It does not ask the model: a fit that is resumed has other weights, and would get another order.
    """

    @abstractmethod
    def __call__(self, forget: RowSet) -> Sequence[float]:
        """One number per row; larger is harder."""


class AnswerLength(Difficulty):
    """By the number of supervised tokens: long answers have more to be forgotten.

    Example:
        >>> import torch
        >>> rows = [{"labels": torch.tensor([-100, 5, 6])}, {"labels": torch.tensor([-100, -100, 7])}]
        >>> AnswerLength()(RowSet(rows, 1))
        [2.0, 1.0]
    """

    @override
    def __call__(self, forget: RowSet) -> Sequence[float]:
        return [float(forget.dataset[row]["labels"].ne(IGNORED).sum()) for row in range(len(forget))]


class GivenScores(Difficulty):
    """By numbers that were found before, such as the loss of the original model on each row.

    Args:
        scores: One per row, or the path of a JSON file with a list of them.
    """

    def __init__(self, scores: list[float] | str) -> None:
        self.scores = scores

    @override
    def __call__(self, forget: RowSet) -> Sequence[float]:
        given = json.loads(Path(self.scores).read_text()) if isinstance(self.scores, str) else self.scores
        if len(given) != len(forget):
            raise ValueError(
                f"`scores` should hold one number for each of the {len(forget)} forget rows. Found {len(given)}."
            )
        return [float(score) for score in given]


class DifficultyOrder(Order):
    """Every forget row once, the easiest first, or the hardest; retain rows are drawn as by :class:`RandomOrder`.

    Rows that are alike come in another order in each epoch.

    Args:
        difficulty: What is hard. Defaults to :class:`AnswerLength`.
        hardest_first: The other way round.

    Example:
        >>> order = DifficultyOrder(GivenScores([0.3, 0.1, 0.2]))
        >>> order.rows(RowSet("abc", 1), RowSet("de", 1), seed=0, epoch=0).forget
        [1, 2, 0]
    """

    def __init__(self, difficulty: Difficulty | None = None, hardest_first: bool = False) -> None:
        if difficulty is not None:
            check_kind("difficulty", difficulty, Difficulty, example="AnswerLength()")
        self.difficulty = AnswerLength() if difficulty is None else difficulty
        self.hardest_first = hardest_first

    @override
    def rows(self, forget: RowSet, retain: RowSet, *, seed: int, epoch: int) -> EpochRows:
        scores = self.difficulty(forget)
        sign = -1 if self.hardest_first else 1
        visited = sorted(shuffled(len(forget), seed, 2 * epoch), key=lambda row: sign * scores[row])
        return EpochRows(visited, drawn(len(retain), retain.rows_for(forget), seed, 2 * epoch + 1))
