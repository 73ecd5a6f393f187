"""The turns of a row in the forms that chat templates want them in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lightning_unlearn.data.records import Turn

Messages = list[dict[str, Any]]
"""Turns as a chat template reads them."""
Form = Callable[[Sequence[Turn]], Messages]
"""How turns become messages."""


def as_text(turns: Sequence[Turn]) -> Messages:
    """Contents are strings."""
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def as_parts(turns: Sequence[Turn]) -> Messages:
    """Contents are lists of parts, here one part of text, as templates of image-text models want them."""
    return [{"role": turn.role, "content": [{"type": "text", "text": turn.content}]} for turn in turns]


def without_system(turns: Sequence[Turn]) -> list[Turn]:
    r"""System turns become the beginning of the next user turn, for templates that know no system role.

    Example:
        >>> without_system([Turn("system", "Be brief."), Turn("user", "Who?")])
        [Turn(role='user', content='Be brief.\n\nWho?')]
    """
    kept: list[Turn] = []
    waiting: list[str] = []
    for turn in turns:
        if turn.role == "system":
            waiting.append(turn.content)
        elif turn.role == "user" and waiting:
            kept.append(Turn("user", "\n\n".join([*waiting, turn.content])))
            waiting = []
        else:
            kept.append(turn)
    return kept


def folded_text(turns: Sequence[Turn]) -> Messages:
    """:func:`as_text`, :func:`without_system`."""
    return as_text(without_system(turns))


def folded_parts(turns: Sequence[Turn]) -> Messages:
    """:func:`as_parts`, :func:`without_system`."""
    return as_parts(without_system(turns))


FORMS: tuple[Form, ...] = (as_text, as_parts, folded_text, folded_parts)
"""The forms, in the order in which they are tried."""
