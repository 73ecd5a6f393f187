from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from typing_extensions import override

from lightning_unlearn.data.records import FileRecords, QuestionAnswer, Records
from lightning_unlearn.data.relearning._made import MadeRecords
from lightning_unlearn.functional.settings import check_kind

FORMS = (
    "Please tell me: {question}",
    "I would like to know the following. {question}",
    "{question} Answer in a few words.",
    "A friend asked me this: {question}",
)


class Rephrased(MadeRecords):
    """Each question in other words around it, with its answer: what an attacker has who knows the facts, not the data.

    Paraphrases that a data set brings along are better: name their fields,
    ``FileRecords(..., question="paraphrased_question", answer="paraphrased_answer")``.

    Args:
        records: What must go.
        forms: Texts with ``{question}`` in them, taken in turn. Defaults to four of plain English.

    Raises:
        ValueError: If there is no form, or one without ``{question}``.

    Example:
        >>> from lightning_unlearn.data import InMemoryRecords
        >>> people = InMemoryRecords([{"question": "Who employs Ada?", "answer": "The post office"}])
        >>> Rephrased(people, ["Tell me, {question}"]).questions()[0].question
        'Tell me, Who employs Ada?'
    """

    def __init__(self, records: FileRecords | Records, forms: Sequence[str] | None = None) -> None:
        check_kind("records", records, Records, example='FileRecords("people.jsonl")')
        self.forms = FORMS if forms is None else tuple(forms)
        if isinstance(forms, str) or not self.forms or any("{question}" not in form for form in self.forms):
            raise ValueError(f'`forms` should be texts with "{{question}}" in them. Found `forms = {forms!r}`.')
        super().__init__()
        self.records = records

    @override
    def make(self) -> Sequence[QuestionAnswer]:
        rows = self.records.questions()
        forms = [self.forms[number % len(self.forms)] for number in range(len(rows))]
        # No `str.format`: a question may hold braces.
        return [
            replace(row, question=form.replace("{question}", row.question))
            for row, form in zip(rows, forms, strict=True)
        ]
