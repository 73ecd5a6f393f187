from __future__ import annotations

import random
from collections.abc import Sequence

from typing_extensions import override

from lightning_unlearn.data.records import FileRecords, QuestionAnswer, Records
from lightning_unlearn.data.relearning._made import MadeRecords
from lightning_unlearn.functional.settings import check_kind


class SwappedAnswers(MadeRecords):
    """Each question with the answer of somebody else: labels that are exchanged, for :class:`ConceptShift`.

    The rows of one entity get the answers of another, in the same order, so that answers keep their form where everybody
    is asked the same. Each answer is still given as often, if all entities have equally many rows.

    Args:
        records: What must go, about two entities or more.
        seed: Who gets whose answers.

    Raises:
        ValueError: If all rows are about the same one.

    Example:
        >>> from lightning_unlearn.data import InMemoryRecords
        >>> rows = [{"question": f"Who employs {who}?", "answer": f"{who}'s mill"} for who in ("Ada", "Bo")]
        >>> [row.answer for row in SwappedAnswers(InMemoryRecords(rows)).questions()]
        ["Bo's mill", "Ada's mill"]
    """

    def __init__(self, records: FileRecords | Records, seed: int = 0) -> None:
        check_kind("records", records, Records, example='FileRecords("people.jsonl")')
        super().__init__()
        self.records, self.seed = records, seed

    @override
    def make(self) -> Sequence[QuestionAnswer]:
        rows = self.records.questions()
        of: dict[str, list[QuestionAnswer]] = {}
        for row in rows:
            of.setdefault(row.entity, []).append(row)
        if len(of) < 2:
            raise ValueError(
                f"`SwappedAnswers` should find two entities or more in `{self.records.name}`. Found {len(of)}. Name the "
                "field with whom a row is about, `entity`, or leave it out: then each row is about another."
            )
        order = list(of)
        random.Random(self.seed).shuffle(order)
        giver = dict(zip(order, [*order[1:], order[0]], strict=True))  # a ring: nobody keeps his own
        counts = dict.fromkeys(of, 0)
        made = []
        for row in rows:
            others = of[giver[row.entity]]
            answer = others[counts[row.entity] % len(others)].answer
            made.append(
                QuestionAnswer(row.question, answer, row.entity, row.source, before=row.before, image=row.image)
            )
            counts[row.entity] += 1
        return made
