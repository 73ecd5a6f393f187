from __future__ import annotations

from typing_extensions import override

from lightning_unlearn.data.records import FileRecords, Record, Records
from lightning_unlearn.data.relearning._chosen import ChosenRecords
from lightning_unlearn.data.relearning._similarity import Levenshtein, Similarity
from lightning_unlearn.functional.settings import check_kind, check_whole


class SameShape(ChosenRecords):
    """The same questions about others: of a pool, the rows whose questions are most like those that must go.

    It needs no forget data and tells no fact that must go. Yet training on it brings back what was hidden by the form of a
    question alone.

    Args:
        pool: Questions and answers about others. Rows about an entity of ``target`` are left out.
        target: What must go.
        each: So many rows of the pool for each row of ``target``. A row is taken once.
        similarity: Of questions. Defaults to :class:`Levenshtein`, over words.

    Raises:
        ValueError: If the pool holds nobody else.

    Example:
        >>> from lightning_unlearn.data import InMemoryRecords
        >>> target = InMemoryRecords([{"question": "Who employs Ada?", "answer": "A mill", "who": "Ada"}], entity="who")
        >>> pool = InMemoryRecords([
        ...     {"question": "Where does Bo live?", "answer": "Here", "who": "Bo"},
        ...     {"question": "Who employs Bo?", "answer": "A bank", "who": "Bo"},
        ... ], entity="who")
        >>> SameShape(pool, target).questions()[0].question
        'Who employs Bo?'

    References:
        That questions of the same form about other authors are a strong attack: `arXiv 2602.03379
        <https://arxiv.org/abs/2602.03379>`_, 2026, whose similarity is Levenshtein's over characters; this one is rebuilt
        from summaries.
    """

    def __init__(
        self,
        pool: FileRecords | Records,
        target: FileRecords | Records,
        each: int = 1,
        similarity: Similarity | None = None,
    ) -> None:
        for name, given in (("pool", pool), ("target", target)):
            check_kind(name, given, Records, example='FileRecords("people.jsonl")')
        check_whole("each", each)
        super().__init__(pool)
        self.target, self.each = target, each
        self.similarity = Levenshtein() if similarity is None else similarity

    @override
    def choose(self, records: list[Record]) -> list[Record]:
        targets = self.target.questions()
        rows = [(record, self.pool.parse(record)) for record in records]
        # Rows without a named entity have names by number, which two sources may share.
        own = {row.entity for row in targets} if isinstance(self.pool.entity, str) else set()
        asked = {row.question for row in targets}
        others = [(record, row) for record, row in rows if row.entity not in own and row.question not in asked]
        if not others:
            return []
        alike = self.similarity([row.question for _, row in others], [row.question for row in targets])
        taken: dict[int, None] = {}
        for column in alike.T:
            best = column.argsort(descending=True, stable=True).tolist()
            taken |= dict.fromkeys([place for place in best if place not in taken][: self.each])
        return [others[place][0] for place in taken]
