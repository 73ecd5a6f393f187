from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from typing_extensions import override

from lightning_unlearn.attacks.prompts._prompt_attack import PromptAttack
from lightning_unlearn.data import QuestionAnswer

_SLOT = re.compile(r"\{(question|entity)\}")


class Templates(PromptAttack):
    """Questions inside of given words, one wording for each template.

    Args:
        templates: Texts with ``{question}``, where the question as it is goes, and perhaps ``{entity}``, the name of whom it
            is about. Rows about nobody who is named are left out where a template has the latter.

    Raises:
        ValueError: If there is none, or one has no ``{question}``.

    Example:
        >>> row = QuestionAnswer("Who employs Ada?", "The post office", entity="Ada", source="row 0")
        >>> attack = Templates(["Think of {entity}. {question}"])
        >>> attack.asks([row], split="forget", point=1)[0].question
        'Think of Ada. Who employs Ada?'
    """

    default: ClassVar[tuple[str, ...]] = ()

    def __init__(self, templates: Sequence[str] | None = None) -> None:
        self.templates = checked_wordings("templates", self.default if templates is None else templates)
        for template in self.templates:
            if "{question}" not in template:
                raise ValueError(f"Each of `templates` should have a place for the `{{question}}`. Found {template!r}.")

    @property
    @override
    def points(self) -> Sequence[int]:
        return range(1, len(self.templates) + 1)

    @override
    def reword(self, row: QuestionAnswer, point: float) -> QuestionAnswer | None:
        text = filled(self.templates[int(point) - 1], row)
        return None if text is None else replace(row, question=text)

    @override
    def wording(self, point: float) -> str:
        return self.templates[int(point) - 1]


def filled(template: str, row: QuestionAnswer) -> str | None:
    """``template`` with the question and the name; ``None`` if it needs a name and there is none.

    Example:
        >>> filled("{question} ({entity})", QuestionAnswer("Who?", "She", entity="7", source="row 7"))
    """
    if "{entity}" in template and not is_named(row):
        return None
    return _SLOT.sub(lambda slot: str(getattr(row, slot[1])), template)


def is_named(row: QuestionAnswer) -> bool:
    """Whether its entity is a name. Without one, records number their entities."""
    return re.fullmatch(r"(row )?\d+", row.entity) is None


def checked_wordings(name: str, given: Sequence[str]) -> tuple[str, ...]:
    """The texts, if there are any.

    Raises:
        TypeError: If it is one text, or holds something else.
        ValueError: If there is none, or one is blank.
    """
    if isinstance(given, str) or not all(isinstance(text, str) for text in given):
        raise TypeError(f"`{name}` should be a list of texts. Found `{name} = {given!r}`.")
    if not given or not all(text.strip() for text in given):
        raise ValueError(f"`{name}` should hold at least one text, and none that is blank. Found `{name} = {given!r}`.")
    return tuple(given)
