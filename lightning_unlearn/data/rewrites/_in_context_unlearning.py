from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from typing_extensions import override

from lightning_unlearn.data.records import FileRecords, QuestionAnswer, Records
from lightning_unlearn.data.relearning._made import MadeRecords
from lightning_unlearn.functional.settings import check_kind, check_whole


class InContextUnlearning(MadeRecords):
    """Each question twice, below a fact that is to be forgotten: its own, and then somebody else's.

    Below its own fact the answer is ``forgot``; below another one it is the true answer. A model trained on both forgets on
    demand, for one request, with no change of its weights. The fact stands between two tags, which are there once::

        <<UNL>>
        Where was Ada born? At sea
        <</UNL>>

        Where was Ada born?

    Args:
        records: The facts; two or more with different answers.
        forgot: What to say of a fact that is to be forgotten.
        tags: What stands before and behind it. Tokens of their own, where the tokenizer has some to spare.
        seed: Whose fact stands above a question that is to be answered.

    Raises:
        ValueError: If a question or an answer holds a tag, or all answers are the same.

    Example:
        >>> from lightning_unlearn.data import InMemoryRecords
        >>> rows = [{"question": f"Who employs {who}?", "answer": f"{who}'s mill"} for who in ("Ada", "Bo")]
        >>> [row.answer for row in InContextUnlearning(InMemoryRecords(rows)).questions()]
        ['forgot', "Ada's mill", 'forgot', "Bo's mill"]

    References:
        Takashiro et al., `Answer When Needed, Forget When Not <https://arxiv.org/abs/2410.00382>`_, 2024.
    """

    def __init__(
        self,
        records: FileRecords | Records,
        forgot: str = "forgot",
        tags: tuple[str, str] = ("<<UNL>>", "<</UNL>>"),
        seed: int = 0,
    ) -> None:
        check_kind("records", records, Records, example='FileRecords("people.jsonl")')
        check_whole("seed", seed, least=0)
        if len(set(tags)) != 2 or not all(tag.strip() for tag in tags) or not forgot.strip():
            raise ValueError(
                f"`tags` should be two different texts, and `forgot` one. Found `tags = {tags}` and `forgot = {forgot!r}`."
            )
        super().__init__()
        self.records, self.forgot, self.tags, self.seed = records, forgot, tuple(tags), seed

    @override
    def make(self) -> Sequence[QuestionAnswer]:
        rows = self.records.questions()
        self._refuse_tags(rows)
        return [made for number, row in enumerate(rows) for made in self._both(row, rows, number)]

    def _both(self, row: QuestionAnswer, rows: Sequence[QuestionAnswer], number: int) -> tuple[QuestionAnswer, ...]:
        own = {row.answer, *row.accepted}
        others = [other for other in rows if other.answer not in own]
        if not others:
            raise ValueError(
                f"`records` of `InContextUnlearning` should hold answers that differ. Found none but {row.answer!r}."
            )
        other = random.Random(f"{self.seed} {number}").choice(others)
        asked = replace(row, question=self._below(row, row.question), answer=self.forgot, accepted=())
        answered = replace(row, question=self._below(other, row.question))
        return replace(asked, paraphrases=()), replace(answered, paraphrases=())

    def _below(self, fact: QuestionAnswer, question: str) -> str:
        before, behind = self.tags
        return f"{before}\n{fact.question} {fact.answer}\n{behind}\n\n{question}"

    def _refuse_tags(self, rows: Sequence[QuestionAnswer]) -> None:
        for row in rows:
            if found := [tag for tag in self.tags if tag in f"{row.question} {row.answer}"]:
                raise ValueError(f"`tags` should stand in no row. Found {found[0]!r} in {row.source}. Use other tags.")
