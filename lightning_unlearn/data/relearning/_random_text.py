from __future__ import annotations

import random
from collections.abc import Sequence

from typing_extensions import override

from lightning_unlearn.data.records import QuestionAnswer
from lightning_unlearn.data.relearning._made import MadeRecords
from lightning_unlearn.functional.settings import check_whole


class RandomText(MadeRecords):
    """Questions and answers of syllables that mean nothing: what any training at all brings back.

    Args:
        count: How many rows.
        words: How many words a question has, and an answer.
        seed: Of all of them.

    Example:
        >>> rows = RandomText(count=2, words=3).questions()
        >>> [len(row.question.split()) for row in rows], rows == RandomText(count=2, words=3).questions()
        ([3, 3], True)
    """

    def __init__(self, count: int = 100, words: int = 8, seed: int = 0) -> None:
        check_whole("count", count)
        check_whole("words", words)
        super().__init__()
        self.count, self.words, self.seed = count, words, seed

    @override
    def make(self) -> Sequence[QuestionAnswer]:
        draw = random.Random(self.seed)  # no global random state is touched
        return [
            QuestionAnswer(f"{self._text(draw)}?", f"{self._text(draw)}.", f"row {row}", f"row {row} of `{self.name}`")
            for row in range(self.count)
        ]

    def _text(self, draw: random.Random) -> str:
        words = ["".join(_syllable(draw) for _ in range(draw.randint(1, 3))) for _ in range(self.words)]
        return " ".join(words).capitalize()


def _syllable(draw: random.Random) -> str:
    return draw.choice("bdfgklmnprstvz") + draw.choice("aeiou")
