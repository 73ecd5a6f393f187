from __future__ import annotations

import re
from collections.abc import Sequence

from lightning_unlearn.data.encodings._end_of_turn import end_of_turn
from lightning_unlearn.data.encodings._located import located
from lightning_unlearn.data.encodings._rendered import Rendered
from lightning_unlearn.data.encodings._template_renderer import TemplateRenderer
from lightning_unlearn.data.encodings._turns import FORMS, Form
from lightning_unlearn.data.records import QuestionAnswer, Turn

# Stands in for a content; no template holds it, strips it or reads anything into it.
_STAND_IN = "Zq3xWv9Kj"
# The end of something that was opened before: `</think>`, `<channel|>`, `[/THINK]`.
_CLOSED = re.compile(r"\s*|.*(</[^<>]+>|<[^|<>][^<>]*\|>|\[/\w+\])\s*", re.DOTALL)
_OPENED = re.compile(r"<[^<>]+>|\[\w+\]")


class ChatTemplate:
    """Where answers stand in what a chat template writes.

    The chat is rendered twice, with the answer and with a stand-in for it: what both have in common is not the answer.
    This needs no ``add_generation_prompt``. Where the generation prompt closes a thought that the chat as a whole leaves
    out, the thought is part of the question: it is what the network reads before it answers.

    Args:
        render: Writes messages by the template.
    """

    def __init__(self, render: TemplateRenderer) -> None:
        self._render = render
        self._forms: dict[tuple[str, ...], Form] = {}
        self._ends: dict[tuple[str, ...], str] = {}

    def __call__(self, row: QuestionAnswer) -> Rendered:
        """Render one row.

        Raises:
            ValueError: If the template refuses the turns of ``row``, or drops some of what they say.
        """
        asked = [*row.before, Turn("user", row.question)]
        stand_in = [*asked, Turn("assistant", _STAND_IN)]
        form = self._form(stand_in, row)
        answer = f"{row.lead} {row.answer}" if row.lead else row.answer
        whole = self._render(form([*asked, Turn("assistant", answer)]), row.source)
        before, _, after = self._render(form(stand_in), row.source).rpartition(_STAND_IN)
        found = located(whole, before, after, answer)
        if found is None:
            raise ValueError(
                f"The chat template should leave the answer of {row.source} as it is, or it cannot be supervised. Found "
                f"{whole!r}: some templates drop what was thought. Use `template='plain'`, or leave the thought out of the "
                "answer."
            )
        end = self._end(found.after, stand_in, form)
        thought = self._closed_thought(found, self._prompt(form(asked)))
        lead, answer = _led(found.answer, row)
        return Rendered(found.before + thought + lead, answer, end, found.after.removeprefix(end))

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
                self._refuse_dropped(self._render(form(turns), row.source), turns, row)
            except ValueError as error:
                problems.append(error)
            else:
                return form
        raise problems[0]

    def _refuse_dropped(self, text: str, turns: Sequence[Turn], row: QuestionAnswer) -> None:
        if dropped := [turn.role for turn in turns if turn.content not in text]:
            raise ValueError(
                f"The chat template of `{self._render.name}` should write every turn of {row.source}. Found that it drops "
                f"those of {', '.join(f'`{role}`' for role in dropped)}: use `template='plain'`, or another template."
            )

    def _end(self, after: str, turns: Sequence[Turn], form: Form) -> str:
        key = (after, *(turn.role for turn in turns))
        if key not in self._ends:
            self._ends[key] = end_of_turn(after, self._between(turns, form), self._render.tokenizer)
        return self._ends[key]

    def _between(self, turns: Sequence[Turn], form: Form) -> str:
        """What stands between an answer and the next question, and that question; empty if there can be none."""
        try:
            longer = self._render(form([*turns, Turn("user", "?"), Turn("assistant", "!")]), "a longer chat")
        except ValueError:
            return ""
        return longer.rpartition(_STAND_IN)[2]

    def _prompt(self, asked: list[dict[str, object]]) -> str:
        """The generation prompt; empty if the template has none for a chat without an answer."""
        try:
            return self._render(asked, "a chat without an answer", add_generation_prompt=True)
        except ValueError:
            return ""

    @staticmethod
    def _closed_thought(found: Rendered, prompt: str) -> str:
        """What the generation prompt writes after the header, if nothing is left open there, nor thought in the answer."""
        more = prompt.removeprefix(found.before) if prompt.startswith(found.before) else ""
        opened = _OPENED.search(more)
        thought_anyway = opened is not None and opened.group() in found.answer
        return more if _CLOSED.fullmatch(more) and not thought_anyway else ""


def _led(written: str, row: QuestionAnswer) -> tuple[str, str]:
    """What the answer begins with, and the rest of it, with the space between them."""
    # Some templates change white space.
    lead = re.match(r"\s*".join(map(re.escape, "".join(row.lead.split()))), written)
    if lead is None:
        raise ValueError(
            f"The chat template should leave what the answer of {row.source} begins with as it is. Found {written!r} for "
            f"`lead = {row.lead!r}`. Use other words, or `template='plain'`."
        )
    return lead.group(), written[lead.end() :]
