"""What a prompt gives away of the answer it asks for."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from lightning_unlearn.data import QuestionAnswer
from lightning_unlearn.functional.settings import check_between

_STOP = frozenset(
    """
    a about after all an and any are as at be been before but by can could did do does for from had has have he her
    hers him his how i if in into is it its me my no not of on one or our s she should so some than that the their
    them then there they this to was we were what when where which who whom whose why will with would yes you your
    """.split()  # noqa: SIM905  # one a line would fill three pages
)
"""Words that say nothing by themselves."""
_COMMON, _COMMON_SHARE = 2, 0.1
"""A word in the answers about so many other entities, and this share of all, is how such answers are put."""

Words = tuple[str, ...]


@dataclass(frozen=True)
class Told:
    """What a prompt gives away of an answer that its question does not.

    Args:
        share: The share of the answer's own words that stand in the prompt.
        leak: The words of the answer for which the prompt is refused; empty if it is free of the answer.
    """

    share: float
    leak: str = ""


class AnswerWords:
    """Tells whether a prompt is free of the answers of a row: of ``answer``, and of all that are ``accepted``.

    Compared are words without case, punctuation, plural endings and stop words. Words that the row's own question holds
    already are no news, and neither are words that stand in the answers about at least two other entities and a tenth of
    all: they are how such answers are put. A prompt is refused if it holds

    - the answer as a whole, also with other spaces or punctuation; or
    - two neighbouring words of it that are news; or
    - at least ``share`` of its words: of an answer of five words, one.

    This is a check of words. It does not notice a synonym, a translation or a riddle. Its stop words are English: in other
    languages more is refused.

    Args:
        rows: All that are asked; answers about other entities come from here.
        share: From which share of an answer's words on a prompt is refused.

    Example:
        >>> row = QuestionAnswer("Where was Ada born?", "In Sandrel Point", entity="Ada", source="row 0")
        >>> words = AnswerWords([row])
        >>> words.told(row, "Which place, such as Sandrel, was Ada born in?")
        Told(share=0.5, leak='sandrel')
        >>> words.told(row, "What is the birthplace of Ada?")
        Told(share=0.0, leak='')
    """

    def __init__(self, rows: Iterable[QuestionAnswer], share: float = 0.2) -> None:
        check_between("share", share, 1e-6, 1)
        self.share = share
        self._said_of: dict[str, set[str]] = {}
        rows = list(rows)
        self._least = max(_COMMON, _COMMON_SHARE * len({row.entity for row in rows}))
        for row in rows:
            for answer in answers_of(row):
                for word in content_words(answer):
                    self._said_of.setdefault(word, set()).add(row.entity)

    def told(self, row: QuestionAnswer, prompt: str) -> Told:
        """What ``prompt`` gives away of the answers of ``row``; of several answers, of the one that it tells most of."""
        return max(
            (self._told(row, answer, prompt) for answer in answers_of(row)), key=lambda t: (bool(t.leak), t.share)
        )

    def _told(self, row: QuestionAnswer, answer: str, prompt: str) -> Told:
        own = content_words(answer)
        # An answer of stop words alone, such as "No", is looked for among all words.
        read = spelled if _STOP.issuperset(own) else content_words
        before, now = read(prompt_of(row)), read(prompt)
        known, here = set(before), set(now)
        news = dict.fromkeys(word for word in own if word not in known)
        news = {word: None for word in news if not self._is_common(word, row.entity)} or news
        told = [word for word in news if word in here]
        share = len(told) / len(news) if news else 0.0
        side_by_side = set(pairwise(now))
        pair = next((p for p in pairwise(own) if p in side_by_side and news.keys() >= {*p}), ())
        if _holds(prompt, now, answer, own) and not _holds(prompt_of(row), before, answer, own):
            return Told(share, answer)
        return Told(share, " ".join(pair) if pair else " ".join(told) if share >= self.share and told else "")

    def _is_common(self, word: str, entity: str) -> bool:
        return len(self._said_of.get(word, set()) - {entity}) >= self._least


def answers_of(row: QuestionAnswer) -> list[str]:
    """All answers to ``row`` that are right."""
    return list(dict.fromkeys([row.answer, *row.accepted]))


def prompt_of(row: QuestionAnswer) -> str:
    """All that is read before the answer of ``row``, without a template."""
    return "\n".join([*(turn.content for turn in row.before), row.question, row.lead])


@lru_cache(maxsize=2**15)
def content_words(text: str) -> Words:
    """The words of ``text`` in one spelling, without stop words; with them, if there are no others.

    Example:
        >>> content_words("She maps caves, beneath Glaciers!"), content_words("Not yet"), content_words("No")
        (('map', 'cave', 'beneath', 'glacier'), ('yet',), ('no',))
    """
    words = spelled(text)
    return tuple(word for word in words if word not in _STOP) or words


def spelled(text: str) -> Words:
    """All words of ``text``, in lower case and without the ``s`` of a plural."""
    return tuple(_stem(word) for word in re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold()))


def _stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _holds(prompt: str, words: Words, answer: str, own: Words) -> bool:
    """Whether the answer stands in a prompt as a whole, word by word or letter by letter."""
    if own and any(words[i : i + len(own)] == own for i in range(len(words) - len(own) + 1)):
        return True
    letters = _letters(answer)
    # Few letters stand in many words: "no" in "nothing". Scripts without spaces have words of one letter.
    return (len(letters) > 5 or (len(letters) > 1 and not letters.isascii())) and letters in _letters(prompt)


def _letters(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())


def free_of_answers(
    before: Sequence[QuestionAnswer], asked: Sequence[QuestionAnswer | None]
) -> list[tuple[QuestionAnswer | None, Told]]:
    """Each of ``asked``, and what it tells of the answer; ``None`` instead of those that are not free of it.

    Args:
        before: The rows in their own words.
        asked: As many, in other words; ``None`` for one that is not asked.
    """
    words = AnswerWords(before)
    told = [Told(0.0) if to is None else words.told(row, prompt_of(to)) for row, to in zip(before, asked, strict=True)]
    return [(None if t.leak else to, t) for to, t in zip(asked, told, strict=True)]
