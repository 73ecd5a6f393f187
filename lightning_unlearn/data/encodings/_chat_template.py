from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date as Date
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from lightning_unlearn.data.encodings._end_of_turn import end_of_turn
from lightning_unlearn.data.encodings._located import located
from lightning_unlearn.data.encodings._rendered import Rendered
from lightning_unlearn.data.encodings._turns import FORMS, Form
from lightning_unlearn.data.records import QuestionAnswer, Turn

# Stands in for a content; no template holds it, strips it or reads anything into it.
_STAND_IN = "Zq3xWv9Kj"
# The end of something that was opened before: `</think>`, `<channel|>`, `[/THINK]`.
_CLOSED = re.compile(r"\s*|.*(</[^<>]+>|<[^|<>][^<>]*\|>|\[/\w+\])\s*", re.DOTALL)


class ChatTemplate:
    """The chat template of a tokenizer, and where answers stand in what it writes.

    The chat is rendered twice, with the answer and with a stand-in for it: what both have in common is not the answer.
    This needs no ``add_generation_prompt``. Where the generation prompt closes a thought that the chat as a whole leaves
    out, the thought is part of the question: it is what the network reads before it answers.

    Args:
        tokenizer: Whose template it is.
        date: What it gets as today's date.
        arguments: What it gets besides, such as ``enable_thinking``.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, date: str, arguments: Mapping[str, Any]) -> None:
        self._tokenizer = tokenizer
        self._today = Date.fromisoformat(date)
        self._arguments = arguments
        self._forms: dict[tuple[str, ...], Form] = {}
        self._ends: dict[tuple[str, ...], str] = {}

    def __call__(self, row: QuestionAnswer) -> Rendered:
        """Render one row.

        Raises:
            ValueError: If the template refuses the turns of ``row``, or drops some of what they say.
        """
        asked, answered = [*row.before, Turn("user", row.question)], Turn("assistant", row.answer)
        form = self._form([*asked, answered], row)
        before, after = self._around([*asked, _in_place(answered)], form, row)
        found = located(self._render(form([*asked, answered]), row), before, after, row.answer)
        if found is None:
            raise ValueError(
                f"The chat template should leave the answer of {row.source} as it is, or it cannot be supervised. Found "
                f"{self._render(form([*asked, answered]), row)!r}: some templates drop what was thought. Use "
                "`template='plain'`, or leave the thought out of the answer."
            )
        end = self._end(found.after, [*asked, _in_place(answered)], form)
        opened = found.before + self._closed_thought(found.before, asked, form)
        return Rendered(opened, found.answer, end, found.after.removeprefix(end))

    def _form(self, turns: Sequence[Turn], row: QuestionAnswer) -> Form:
        """The first form of messages of which the template writes every turn; known by the roles."""
        roles = tuple(turn.role for turn in turns)
        if roles not in self._forms:
            self._forms[roles] = self._find_form(roles, row)
        return self._forms[roles]

    def _find_form(self, roles: Sequence[str], row: QuestionAnswer) -> Form:
        turns = [Turn(role, f"{_STAND_IN}{number}") for number, role in enumerate(roles)]
        problems = []
        for form in FORMS:
            try:
                text = self._render(form(turns), row)
            except ValueError as error:
                problems.append(error)
                continue
            dropped = [turn.role for turn in turns if turn.content not in text]
            if not dropped:
                return form
            problems.append(
                ValueError(
                    f"The chat template of `{self._name}` should write every turn of {row.source}. Found that it drops "
                    f"those of {', '.join(f'`{role}`' for role in dropped)}: use `template='plain'`, or another template."
                )
            )
        raise problems[0]

    def _around(self, turns: Sequence[Turn], form: Form, row: QuestionAnswer) -> tuple[str, str]:
        """What the template writes before and after the stand-in, which is the last turn."""
        before, _, after = self._render(form(turns), row).rpartition(_STAND_IN)
        return before, after

    def _end(self, after: str, turns: Sequence[Turn], form: Form) -> str:
        key = (after, *(turn.role for turn in turns))
        if key not in self._ends:
            self._ends[key] = end_of_turn(after, lambda: self._between(turns, form), self._tokenizer)
        return self._ends[key]

    def _between(self, turns: Sequence[Turn], form: Form) -> str | None:
        """What stands between an answer and the next question, and that question."""
        try:
            return self._render(form([*turns, Turn("user", "?"), Turn("assistant", "!")])).rpartition(_STAND_IN)[2]
        except ValueError:
            return None

    def _closed_thought(self, before: str, asked: Sequence[Turn], form: Form) -> str:
        try:
            prompt = self._render(form(asked), add_generation_prompt=True)
        except ValueError:
            return ""
        more = prompt.removeprefix(before) if prompt.startswith(before) else ""
        return more if _CLOSED.fullmatch(more) else ""

    def _render(self, messages: Any, row: QuestionAnswer | None = None, *, add_generation_prompt: bool = False) -> str:
        try:
            text: str = self._tokenizer.apply_chat_template(
                messages,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **{"date_string": self._today.strftime("%d %b %Y"), **self._arguments},
            )
        except Exception as error:  # a template may raise anything: it is a program of somebody else
            roles = ", ".join(f"`{message['role']}`" for message in messages)
            raise ValueError(
                f"The chat template of `{self._name}` should take turns of {roles}"
                f"{f' ({row.source})' if row else ''}. It raised {type(error).__name__}: {error}. Give what it asks for "
                "in `template_arguments`, or use `template='plain'`."
            ) from error
        return text

    @property
    def _name(self) -> str:
        return self._tokenizer.name_or_path

    @cached_property
    def _template(self) -> str:
        if self._tokenizer.chat_template is None:
            raise ValueError(
                f"The tokenizer should have a chat template. `{self._name}` has none: use `template='plain'`."
            )
        template: str = self._tokenizer.get_chat_template(tools=self._arguments.get("tools"))
        if unknown := [name for name in self._arguments if not re.search(rf"\b{re.escape(name)}\b", template)]:
            raise ValueError(
                f"`template_arguments` should be variables of the chat template of `{self._name}`. It reads no "
                f"{', '.join(f'`{name}`' for name in unknown)}: leave it out."
            )
        return _with_fixed_date(template, self._today)


def _in_place(turn: Turn) -> Turn:
    return Turn(turn.role, _STAND_IN)


def _with_fixed_date(template: str, today: Date) -> str:
    # Some templates ask the clock. Tokens would change from day to day, and cached likelihoods would not be found again.
    def literal(call: re.Match[str]) -> str:
        quote, format_ = call.groups()
        return f"{quote}{today.strftime(format_)}{quote}"

    return re.sub(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""", literal, template)
