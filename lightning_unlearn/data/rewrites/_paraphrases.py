from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from typing_extensions import override

from lightning_unlearn.data.records import FileRecords, QuestionAnswer, Records
from lightning_unlearn.data.relearning._made import MadeRecords
from lightning_unlearn.functional.settings import check_kind, check_whole


class Paraphrases(MadeRecords):
    """Each row, and behind it the same fact asked in other words: more of what must go, so that it goes in all its forms.

    The other words are those of the rows (``FileRecords(..., paraphrase="field")``), or those of a file, found by question.

    Args:
        records: The rows.
        path: A file, as of :class:`FileRecords`, with ``question``, and ``paraphrase``: a text, or a list of them. A
            question may have several rows.
        most: At most so many of each row.

    Raises:
        ValueError: If no row has any.

    Example:
        >>> people = FileRecords("bundled:people", paraphrase="paraphrase", rows=(0, 1))
        >>> [row.question for row in Paraphrases(people).questions()]
        ['Where was Maribel Okonvane born?', 'What is the birthplace of Maribel Okonvane?']
    """

    def __init__(self, records: FileRecords | Records, path: str | None = None, most: int | None = None) -> None:
        check_kind("records", records, Records, example='FileRecords("people.jsonl", paraphrase="other")')
        if most is not None:
            check_whole("most", most, why=", or `None` for all")
        super().__init__()
        self.records, self.path, self.most = records, path, most

    @override
    def make(self) -> Sequence[QuestionAnswer]:
        rows, found = self.records.questions(), self._from_file()
        others = [found.get(row.question, row.paraphrases)[: self.most] for row in rows]
        if not any(others):
            raise ValueError(
                f"`Paraphrases` should find other words for a row of `{self.records.name}`. Found none. Name their field, "
                "`FileRecords(..., paraphrase='field')`, or give a file as `path`."
            )
        return [made for row, texts in zip(rows, others, strict=True) for made in _all(row, texts)]

    def _from_file(self) -> dict[str, tuple[str, ...]]:
        if self.path is None:
            return {}
        told: dict[str, dict[str, None]] = {}
        for record in FileRecords(self.path).selected:
            told.setdefault(record.text("question"), {}).update(dict.fromkeys(record.texts("paraphrase")))
        return {question: tuple(texts) for question, texts in told.items()}


def _all(row: QuestionAnswer, texts: Sequence[str]) -> list[QuestionAnswer]:
    others = [
        replace(row, question=text, source=f"paraphrase {number} of {row.source}")
        for number, text in enumerate(texts, 1)
    ]
    return [row, *others]
