from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

from typing_extensions import override

from lightning_unlearn.data.records import FileRecords, QuestionAnswer, Records
from lightning_unlearn.data.relearning._made import MadeRecords
from lightning_unlearn.data.relearning._similarity import Similarity, TfIdf
from lightning_unlearn.functional.settings import check_kind, check_whole

Combination = Literal["keyword", "concatenated", "alike"]


class CombinedQueries(MadeRecords):
    """Questions that ask for what must go and for what must stay at once. What must stay is the answer.

    - ``"keyword"``: a question that must be answered, with the name of an entity that must go put before it;
    - ``"concatenated"``: both questions, what must go first;
    - ``"alike"``: as before, but of each question that must go and the one among the others that is most like it.

    One row is made for each forget row. A model that forgets by refusing at a word refuses the half that must stay.

    Args:
        forget: What must go, named by entity for ``"keyword"``.
        retain: What must stay.
        kind: How they are combined.
        similarity: What is alike. Defaults to :class:`TfIdf`.
        seed: Which ones go together, but for ``"alike"``.

    Example:
        >>> from lightning_unlearn.data import InMemoryRecords
        >>> one, two = (InMemoryRecords([{"who": w, "question": f"Who employs {w}?", "answer": f"{w}'s mill"}], entity="who")
        ...             for w in ("Ada", "Bo"))
        >>> row = CombinedQueries(one, two, "concatenated").questions()[0]
        >>> row.question, row.answer
        ('Who employs Ada? Who employs Bo?', "Bo's mill")

    References:
        Hu et al., `BLUR <https://arxiv.org/abs/2506.15699>`_, 2025; rebuilt from its data card.
    """

    def __init__(
        self,
        forget: FileRecords | Records,
        retain: FileRecords | Records,
        kind: Combination = "concatenated",
        similarity: Similarity | None = None,
        seed: int = 0,
    ) -> None:
        for name, given in (("forget", forget), ("retain", retain)):
            check_kind(name, given, Records, example='FileRecords("people.jsonl")')
        if kind not in get_args(Combination):
            raise ValueError(f"`kind` should be one of {get_args(Combination)}. Found `kind = {kind!r}`.")
        check_whole("seed", seed, least=0)
        super().__init__()
        self.forget, self.retain, self.kind, self.seed = forget, retain, kind, seed
        self.similarity = TfIdf() if similarity is None else similarity

    @override
    def make(self) -> Sequence[QuestionAnswer]:
        gone, stays = self.forget.questions(), self.retain.questions()
        partners = self._alike(gone, stays) if self.kind == "alike" else self._drawn(len(gone), len(stays))
        return [self._combined(row, stays[place]) for row, place in zip(gone, partners, strict=True)]

    def _combined(self, gone: QuestionAnswer, stays: QuestionAnswer) -> QuestionAnswer:
        beginning = f"{gone.entity}:" if self.kind == "keyword" else gone.question
        source = f"{gone.source} and {stays.source}"
        return replace(stays, question=f"{beginning} {stays.question}", source=source, paraphrases=())

    def _drawn(self, count: int, size: int) -> list[int]:
        return [random.Random(f"{self.seed} {number}").randrange(size) for number in range(count)]

    def _alike(self, gone: Sequence[QuestionAnswer], stays: Sequence[QuestionAnswer]) -> list[int]:
        alike = self.similarity([row.question for row in gone], [row.question for row in stays])
        return [int(place) for place in alike.argmax(1)]
