"""Questions and answers in plain text, without a chat template."""

from __future__ import annotations

from lightning_unlearn.data.encodings._rendered import Rendered
from lightning_unlearn.data.records import QuestionAnswer, Turn

_FORMS = {"user": "Question: {}\n", "assistant": "Answer: {}\n\n"}


def plain(row: QuestionAnswer) -> Rendered:
    r"""``Question: ...`` and ``Answer: ...`` on two lines, with earlier turns in the same form before them.

    Turns of other roles are paragraphs of their own, without a name. What the answer begins with is read before it.

    Example:
        >>> before = (Turn("system", "Be brief."), Turn("user", "Who?"), Turn("assistant", "Ada."))
        >>> print(plain(QuestionAnswer("Where?", "At sea", entity="Ada", source="row 0", before=before)).text)
        Be brief.
        <BLANKLINE>
        Question: Who?
        Answer: Ada.
        <BLANKLINE>
        Question: Where?
        Answer: At sea
    """
    earlier = "".join(_written(turn) for turn in row.before)
    lead = f" {row.lead}" if row.lead else ""
    return Rendered(f"{earlier}Question: {row.question}\nAnswer:{lead}", f" {row.answer}")


def _written(turn: Turn) -> str:
    return _FORMS.get(turn.role, "{}\n\n").format(turn.content)
