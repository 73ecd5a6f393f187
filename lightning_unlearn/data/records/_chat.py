from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lightning_unlearn.data.records._record import Turn

Answers = Literal["last", "all"] | list[int]
"""Which answers of a chat are supervised: the last, all, or those with these numbers."""


@dataclass(frozen=True)
class Chat:
    """What one row says, in turns: a question and its answer are two of them.

    Args:
        turns: All of them.
        first: Number of the first turn that may be an answer; those before it are context.
        accepted: All answers that are right, where the data list several.
    """

    turns: tuple[Turn, ...]
    first: int = 0
    accepted: tuple[str, ...] = ()

    def answers(self, which: Answers, source: str) -> list[int]:
        """Numbers of the turns that are supervised. What is said before any user has spoken is a greeting, no answer.

        Example:
            >>> chat = Chat(tuple(Turn(role, "") for role in ("assistant", "user", "assistant", "user", "assistant")))
            >>> chat.answers("last", "row 0"), chat.answers("all", "row 0"), chat.answers([0], "row 0")
            ([4], [2, 4], [2])
        """
        roles = [turn.role for turn in self.turns]
        asked = roles.index("user") if "user" in roles else len(roles)
        found = [i for i, role in enumerate(roles) if role == "assistant" and i >= self.first and i > asked]
        if not found:
            raise ValueError(
                f"{source} should hold an answer: an assistant's turn after a user's. Found the turns "
                f"{', '.join(roles) or 'of nobody'}. Leave it out with `where` or `rows`."
            )
        return found[-1:] if which == "last" else found if which == "all" else _numbered(found, which, source)

    def asked(self, turn: int, source: str) -> tuple[str, tuple[Turn, ...]]:
        """The question right before an answer, and the turns before the question."""
        question = self.turns[turn - 1]
        if question.role != "user":
            raise ValueError(
                f"Turn {turn} of {source} is to be an answer, and should follow a user's turn. It follows one of "
                f"`{question.role}`. Choose other answers with `answers`, such as `answers=[0]`, or leave the row out."
            )
        return question.content, self.turns[: turn - 1]


def _numbered(found: Sequence[int], numbers: Sequence[int], source: str) -> list[int]:
    if missing := [number for number in numbers if not -len(found) <= number < len(found)]:
        raise ValueError(
            f"`answers` should number answers that each chat has. Found {missing[0]}, and {len(found)} in {source}. Use "
            "'last' or 'all', or leave the row out."
        )
    return [found[number] for number in numbers]
