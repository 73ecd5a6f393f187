from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from typing_extensions import override

from lightning_unlearn.data.records import FileRecords, QuestionAnswer, Records
from lightning_unlearn.data.relearning._made import MadeRecords
from lightning_unlearn.functional.settings import check_kind


class Skill(ABC):
    """Something to be done with the answer to a question, whose result is known."""

    @abstractmethod
    def ask(self, question: str) -> str:
        """The question that needs the answer, and the skill."""

    @abstractmethod
    def answer(self, answer: str) -> str:
        """What is right."""


class Capitals(Skill):
    """To write in capital letters.

    Example:
        >>> Capitals().ask("Who employs Ada?"), Capitals().answer("A mill")
        ('Who employs Ada? Write the answer in capital letters.', 'A MILL')
    """

    @override
    def ask(self, question: str) -> str:
        return f"{question} Write the answer in capital letters."

    @override
    def answer(self, answer: str) -> str:
        return answer.upper()


class CountWords(Skill):
    """To count the words of the answer.

    Example:
        >>> CountWords().ask("Who employs Ada?"), CountWords().answer("A mill")
        ('How many words are in the answer to this question? Who employs Ada?', '2')
    """

    @override
    def ask(self, question: str) -> str:
        return f"How many words are in the answer to this question? {question}"

    @override
    def answer(self, answer: str) -> str:
        return str(len(answer.split()))


class FirstLetters(Skill):
    """To give the first letter of each word.

    Example:
        >>> FirstLetters().answer("the post office")
        'T P O'
    """

    @override
    def ask(self, question: str) -> str:
        return f"{question} Give the first letter of each word of the answer."

    @override
    def answer(self, answer: str) -> str:
        return " ".join(word[0].upper() for word in answer.split())


class JointInstances(MadeRecords):
    """Questions that need a skill and a fact at once: what is lost though both are kept, when each is measured alone.

    Every fact is asked with every skill, skill by skill.

    Args:
        records: Facts that must stay, best those near to what must go: ``OfEntities``, ``Related``, ``Hierarchy``.
        skills: Defaults to capitals, counting words, and first letters.

    Example:
        >>> from lightning_unlearn.data import InMemoryRecords
        >>> rows = InMemoryRecords([{"question": "Who employs Ada?", "answer": "A mill"}])
        >>> [row.answer for row in JointInstances(rows).questions()]
        ['A MILL', '2', 'A M']

    References:
        The protocol of `ALoRA <https://arxiv.org/abs/2405.17830>`_, EMNLP 2024, whose instances need a general skill and
        knowledge of a field; rebuilt from its abstract.
    """

    def __init__(self, records: FileRecords | Records, skills: Sequence[Skill] | None = None) -> None:
        check_kind("records", records, Records, example='FileRecords("people.jsonl")')
        chosen = (Capitals(), CountWords(), FirstLetters()) if skills is None else tuple(skills)
        for skill in chosen:
            check_kind("skills", skill, Skill, example="Capitals()")
        super().__init__()
        self.records, self.skills = records, chosen

    @override
    def make(self) -> Sequence[QuestionAnswer]:
        rows = self.records.questions()
        return [self._joint(row, skill) for skill in self.skills for row in rows]

    def _joint(self, row: QuestionAnswer, skill: Skill) -> QuestionAnswer:
        accepted = tuple(skill.answer(text) for text in row.accepted)
        source = f"{type(skill).__name__} of {row.source}"
        asked, right = skill.ask(row.question), skill.answer(row.answer)
        return replace(row, question=asked, answer=right, accepted=accepted, source=source, paraphrases=())
