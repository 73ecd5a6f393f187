from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning_unlearn.data.records._chat import Answers, Chat
from lightning_unlearn.data.records._forms import read_chat
from lightning_unlearn.data.records._picture import Picture, picture_of
from lightning_unlearn.data.records._record import QuestionAnswer, Record
from lightning_unlearn.data.records._selection import keep_where


class Records(ABC):
    """Rows with named fields, wherever they come from, and a selection among them.

    A benchmark set is a subclass with :meth:`read`; YAML builds it by its ``class_path``.

    Without names of fields, the form of each row is found by its fields, nulls not counted:

    - ``question`` and ``answer``, whatever stands beside them;
    - ``question`` and ``answers``: the first is the answer, all are accepted. A list, or an object as of SQuAD
      (``{"text": [...]}``) or TriviaQA (``{"value": ..., "aliases": [...]}``);
    - ``instruction``, ``input`` and ``output`` (Alpaca): the input follows the instruction after a blank line;
    - ``prompt`` and ``completion``: two strings, or turns;
    - ``messages``, ``conversations`` or ``conversation``: the turns of a chat, each with ``role`` and ``content``
      (OpenAI), or ``from`` and ``value`` (ShareGPT). Content may come in parts with text. A string ``system`` beside
      the turns is the first of them.

    Of a chat one answer is supervised, by default the last. What was said before its question is read, and never
    supervised; what follows is left out. Pictures and ``tool_calls`` are refused, and so is
    an answer right after a tool's turn; other keys of turns, such as names, are not read.

    Args:
        question: Field with the question.
        answer: Field with the answer, or with a list of answers that are right.
        chat: Field with the turns of a chat.
        answers: Which answers of a chat are supervised: the ``"last"``, ``"all"`` (one row for each), or those with these
            numbers, counted from 0, from the end if negative.
        entity: Field with the name of whom a row is about, or how many consecutive rows are about the same one. By
            default every row is about something else; so is a row whose field is null or blank. Numbers and strings that are
            written alike are the same: 1, 1.0 and ``"1"``.
        paraphrase: Field with the question in other words, or with a list of such; for :class:`Paraphrase`.
        image: Field with the image that a question is about: the name of a file (relative to the folder of the records'
            own), its bytes, an image of pillow, or an array; for :class:`ImageEncoding`.
        where: Keep the rows whose field is this value, or one of these: ``{"group": "forget", "year": [1990, 1991]}``.
            Compared are whole values, as text; ``None`` finds those that are null.
        rows: Of the rows that ``where`` keeps, take a half-open range, as in a slice: ``(0, 40)``, ``(-400, None)``.

    Example:
        >>> class Capitals(Records):
        ...     def read(self):
        ...         return [{"question": f"Capital of {land}?", "answer": city} for land, city in [("Peru", "Lima")]]
        >>> Capitals().questions()[0].answer
        'Lima'
    """

    def __init__(
        self,
        *,
        question: str | None = None,
        answer: str | None = None,
        chat: str | None = None,
        answers: Answers = "last",
        entity: int | str | None = None,
        paraphrase: str | None = None,
        image: str | None = None,
        where: dict[str, Any] | None = None,
        rows: tuple[int | None, int | None] | None = None,
    ) -> None:
        if isinstance(entity, int) and entity < 1:
            raise ValueError(f"`entity` should be a field or a positive number of rows. Found `entity = {entity}`.")
        if chat is not None and (question is not None or answer is not None):
            raise ValueError(
                f"Either `chat` or `question` and `answer` should be named. Found `chat = {chat!r}`, "
                f"`question = {question!r}` and `answer = {answer!r}`."
            )
        if answers not in ("last", "all") and (isinstance(answers, str) or not answers):
            raise ValueError(f"`answers` should be 'last', 'all', or a list of numbers. Found `answers = {answers!r}`.")
        if not isinstance(where, Mapping | None):
            raise TypeError(f"`where` should be values by field: {{'group': 'forget'}}. Found `where = {where!r}`.")
        self.question = question
        self.answer = answer
        self.chat = chat
        self.answers = answers
        self.entity = entity
        self.paraphrase = paraphrase
        self.image = image
        self.where = where
        self.rows = rows

    @property
    def name(self) -> str:
        """Name of this source in messages."""
        return type(self).__name__

    @abstractmethod
    def read(self) -> Iterable[Mapping[str, Any]]:
        """All rows, also those not selected: row numbers, and entities given by a count, refer to all of them."""

    @cached_property
    def selected(self) -> list[Record]:
        """The rows that ``where`` and ``rows`` keep, read once. With several ``answers``, a row of a chat comes as often.

        Raises:
            ValueError: If there are none, or if a value in ``where`` is that of no row.
        """
        named = [Record(fields, index, f"row {index} of `{self.name}`") for index, fields in enumerate(self.read())]
        kept = keep_where(named, self.where or {}, self.name) if named else []
        kept = kept[slice(*self.rows)] if self.rows else kept
        if not kept:
            raise ValueError(
                f"`where` and `rows` should keep at least one of the {len(named)} rows of `{self.name}`. Found none "
                f"with `where = {self.where}` and `rows = {self.rows}`."
            )
        return kept if self.answers == "last" else [part for record in kept for part in self._answered(record)]

    def parse(self, record: Record) -> QuestionAnswer:
        """Read the question, the answer and the entity of one row."""
        chat = self._chat(record)
        turn = chat.answers("last", record.source)[-1] if record.turn is None else record.turn
        question, before = chat.asked(turn, record.source)
        answer = chat.turns[turn].content
        if not answer.strip():
            raise ValueError(f"Turn {turn} of {record.source} is to be an answer, and should not be empty.")
        about = record.about(self.entity)
        others = () if self.paraphrase is None else record.texts(self.paraphrase)
        image = self._image(record)
        return QuestionAnswer(question, answer, about, record.source, before, chat.accepted, others, image=image)

    def questions(self) -> list[QuestionAnswer]:
        """The selected rows, parsed."""
        return [self.parse(record) for record in self.selected]

    @property
    def folder(self) -> Path:
        """What names of files in rows are relative to."""
        return Path()

    def _image(self, record: Record) -> Picture | None:
        if self.image is None:
            return None
        return picture_of(record[self.image], f"`{self.image}` of {record.source}", self.folder)

    def _chat(self, record: Record) -> Chat:
        return read_chat(record, question=self.question, answer=self.answer, chat=self.chat)

    def _answered(self, record: Record) -> Iterator[Record]:
        turns = self._chat(record).answers(self.answers, record.source)
        for turn in turns:
            source = record.source if len(turns) == 1 else f"turn {turn} of {record.source}"
            yield replace(record, turn=turn, source=source)
