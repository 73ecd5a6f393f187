from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from typing_extensions import override

from lightning_unlearn.data.records import FileRecords, MarkedAnswer, QuestionAnswer, Record, Records
from lightning_unlearn.data.relearning._chosen import ChosenRecords
from lightning_unlearn.functional.settings import check_kind


class BlacklistSpans(ChosenRecords):
    """Rows whose sensitive terms are read and never learnt: fine-tuning that does not memorise them.

    In an answer, the labels of each token that holds a character of a term are -100; the term itself stays in the text, so
    that what follows has its context. Terms are found as whole words, in any case, with any white space between them. Rows
    without a term are as they were; those whose whole answer is a term are left out. In rows with a term the end of the turn
    is not supervised.

    Args:
        records: The rows to train on.
        terms: The terms, or the path of a file with one in a line.

    Raises:
        ValueError: If there are no terms.

    Example:
        >>> from lightning_unlearn.data import InMemoryRecords
        >>> rows = InMemoryRecords([{"question": "Who is ill?", "answer": "Ada Reed of the post office"}])
        >>> row = BlacklistSpans(rows, ["ada reed"]).questions()[0]
        >>> [row.answer[slice(*span)] for span in row.hidden]
        ['Ada Reed']

    References:
        SANI, `arXiv 2510.21322 <https://arxiv.org/abs/2510.21322>`_, 2025, whose repair trains so.
    """

    def __init__(self, records: FileRecords | Records, terms: Sequence[str] | str) -> None:
        check_kind("records", records, Records, example='FileRecords("notes.jsonl")')
        super().__init__(records)
        given = Path(terms).read_text(encoding="utf-8").splitlines() if isinstance(terms, str) else terms
        self.terms = tuple(dict.fromkeys(term.strip() for term in given if term.strip()))
        if not self.terms:
            raise ValueError(f"`terms` should hold a term or more. Found `terms = {terms!r}`.")
        # The longest first: of two that begin alike, it is the one that is meant.
        words = (r"\s+".join(map(re.escape, term.split())) for term in sorted(self.terms, key=len, reverse=True))
        self._pattern = re.compile(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)", re.IGNORECASE)

    @property
    @override
    def name(self) -> str:
        return self.pool.name

    @override
    def choose(self, records: list[Record]) -> list[Record]:
        return [record for record in records if self._says_more(self.pool.parse(record).answer)]

    @override
    def parse(self, record: Record) -> QuestionAnswer:
        row = self.pool.parse(record)
        if not (hidden := tuple(found.span() for found in self._pattern.finditer(row.answer))):
            return row
        whole = ((0, len(row.answer)),)
        return MarkedAnswer(row.question, row.answer, row.entity, row.source, row.before, spans=whole, hidden=hidden)

    def _says_more(self, answer: str) -> bool:
        return any(letter.isalnum() for letter in self._pattern.sub("", answer))
