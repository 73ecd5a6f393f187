from __future__ import annotations

from typing import Literal, get_args

from typing_extensions import override

from lightning_unlearn.data.records import FileRecords, Record, Records
from lightning_unlearn.data.relearning._chosen import ChosenRecords, text_of
from lightning_unlearn.data.relearning._similarity import Similarity, TfIdf
from lightning_unlearn.functional.overlap import contained_share, words_of
from lightning_unlearn.functional.settings import check_kind, check_whole

Level = Literal["high", "middle", "low"]


class Related(ChosenRecords):
    """Benign rows of graded relevance: near to what must go, but without its answers.

    The rows of a pool that hold no answer of ``target`` word by word are ordered by how alike each is to the target that it
    is most like, and cut into three parts of equal size. So attacks on all three read equally much.

    Args:
        pool: Questions and answers, or texts.
        target: What must go.
        level: The part: most, less or least alike.
        similarity: By what they are ordered. Defaults to :class:`TfIdf`.
        most: No more rows than this: the most alike of the high part, the least alike of the low one, and the middle of the
            middle one.
        text: Field with the text, where rows are no questions and answers.

    Raises:
        ValueError: If no row is left.

    Example:
        >>> from lightning_unlearn.data import InMemoryRecords
        >>> target = InMemoryRecords([{"question": "Who employs Ada?", "answer": "The post office"}])
        >>> texts = ["Who employs Ada, and why?", "The post office employs Ada.", "Ada keeps a heron.", "It rains."]
        >>> pool = InMemoryRecords([{"text": text} for text in texts])
        >>> [Related(pool, target, level).selected[0].text("text") for level in ("high", "middle", "low")]
        ['Who employs Ada, and why?', 'Ada keeps a heron.', 'It rains.']

    References:
        The three levels are those of Hu et al., `BLUR: A Benchmark for LLM Unlearning Robust to Forget-Retain Overlap
        <https://arxiv.org/abs/2506.15699>`_, 2025.
    """

    def __init__(
        self,
        pool: FileRecords | Records,
        target: FileRecords | Records,
        level: Level = "high",
        similarity: Similarity | None = None,
        most: int | None = None,
        text: str = "text",
    ) -> None:
        for name, given in (("pool", pool), ("target", target)):
            check_kind(name, given, Records, example='FileRecords("people.jsonl")')
        if level not in get_args(Level):
            raise ValueError(f"`level` should be one of {get_args(Level)}. Found `level = {level!r}`.")
        if most is not None:
            check_whole("most", most, why=", or `None` for the whole part")
        super().__init__(pool)
        self.target, self.level, self.most, self.text = target, level, most, text
        self.similarity = TfIdf() if similarity is None else similarity

    @override
    def choose(self, records: list[Record]) -> list[Record]:
        targets = self.target.questions()
        answers = [words_of(row.answer) for row in targets]
        told = [(record, text_of(self.pool, record, self.text)) for record in records]
        benign = [(record, text) for record, text in told if not _holds_one(text, answers)]
        if len(benign) < 3:
            raise ValueError(
                f"`Related` should find three rows or more without an answer of what must go in `{self.pool.name}`. Found "
                f"{len(benign)} of {len(records)}. Give a larger `pool`."
            )
        wanted = [f"{row.question} {row.answer}" for row in targets]
        nearness = self.similarity([text for _, text in benign], wanted).max(1).values
        ordered = [benign[place][0] for place in nearness.argsort(descending=True, stable=True).tolist()]
        return self._part(ordered)

    def _part(self, ordered: list[Record]) -> list[Record]:
        size, left = divmod(len(ordered), 3)
        # What is left over, one row or two, stands between the middle part and the low one.
        start = {"high": 0, "middle": size, "low": 2 * size + left}[self.level]
        spare = max(0, size - (self.most or size))
        first = start + {"high": 0, "middle": spare // 2, "low": spare}[self.level]
        return ordered[first : first + size - spare]


def _holds_one(text: str, answers: list[tuple[str, ...]]) -> bool:
    words = words_of(text)
    return any(contained_share([answer], [words]) for answer in answers)
