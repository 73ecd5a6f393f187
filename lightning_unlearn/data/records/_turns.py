"""The turns of a chat, as OpenAI or ShareGPT write them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from lightning_unlearn.data.records._record import Turn, kind

_ROLES = {
    "system": ("system", "developer"),
    "user": ("user", "human"),
    "assistant": ("assistant", "gpt", "chatgpt", "bing", "bard", "model", "function_call"),
    "tool": ("tool", "function", "ipython", "observation", "function_response"),
}
ROLE_OF = {spelling: role for role, spellings in _ROLES.items() for spelling in spellings}
"""Our name for who speaks, by the spellings found in files."""


def read_turns(value: Any, where: str) -> list[Turn]:
    """Read the turns of one chat: ``role`` and ``content`` as OpenAI writes them, or ShareGPT's ``from`` and ``value``.

    Args:
        value: A list of turns, or, as some tables hold it, one object of two lists.
        where: Where they stand, for messages.

    Example:
        >>> read_turns([{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Ada"}], "`chat` of row 0")
        [Turn(role='user', content='Who?'), Turn(role='assistant', content='Ada')]
    """
    value = listed(value)
    if isinstance(value, Mapping) and (columns := equal_lists(value)):
        value = [dict(zip(columns, turn, strict=True)) for turn in zip(*columns.values(), strict=True)]
    if not isinstance(value, list):
        raise TypeError(f"{where} should be a list of turns. Found {kind(value)}.")
    return [_turn(turn, f"turn {number} in {where}") for number, turn in enumerate(value)]


def listed(value: Any) -> Any:
    """A list where something like one is given: pandas reads lists of parquet files as arrays."""
    if isinstance(value, str) or not isinstance(value, Collection):  # a string of numpy is also an array
        return value
    return list(value) if isinstance(value, tuple) or hasattr(value, "tolist") else value


def equal_lists(columns: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The values of an object as lists, if all of them are, equally long; else nothing."""
    lists = {name: listed(column) for name, column in columns.items()}
    alike = all(isinstance(column, list) for column in lists.values()) and len({*map(len, lists.values())}) == 1
    return lists if alike else {}


def _turn(turn: Any, where: str) -> Turn:
    found = turn if isinstance(turn, Mapping) else {}
    keys = next((keys for keys in (("role", "content"), ("from", "value")) if found.get(keys[0]) is not None), None)
    if keys is None:
        fields = f"fields {[str(name) for name in turn]}" if isinstance(turn, Mapping) else kind(turn)
        raise ValueError(
            f"{where} should be an object with `role` and `content`, or `from` and `value`. Found {fields}."
        )
    role = ROLE_OF.get(str(found[keys[0]]).lower())
    if role is None:
        raise ValueError(
            f"`{keys[0]}` of {where} should be one of {', '.join(ROLE_OF)}. Found {found[keys[0]]!r}. Rename it, or leave "
            "the row out."
        )
    return Turn(role, _content(found.get(keys[1]), found, where))


def _content(content: Any, turn: Mapping[str, Any], where: str) -> str:
    # Each template writes them in a way of its own, and a turn has no place for them: they would be lost without a word.
    if calls := next((name for name in ("tool_calls", "function_call") if listed(turn.get(name))), None):
        raise ValueError(f"{where} should hold text alone. Found `{calls}`: leave chats with calls of tools out.")
    if isinstance(content, str):
        return content
    if not isinstance(parts := listed(content), list):
        raise TypeError(f"The content of {where} should be text, or a list of parts with text. Found {kind(content)}.")
    return "".join(_part(part, where) for part in parts)


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    text = part.get("text") if isinstance(part, Mapping) else None
    if not isinstance(text, str):
        found = f"a part of type {part.get('type')!r}" if isinstance(part, Mapping) else kind(part)
        raise ValueError(f"The content of {where} should hold parts with text alone. Found {found}.")
    return text
