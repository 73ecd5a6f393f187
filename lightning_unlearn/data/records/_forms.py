"""The forms in which rows say what is asked and what is answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightning_unlearn.data.records._chat import Chat
from lightning_unlearn.data.records._record import Record, Turn, kind
from lightning_unlearn.data.records._turns import listed, read_turns


def read_chat(record: Record, *, question: str | None, answer: str | None, chat: str | None) -> Chat:
    r"""What a row asks and answers. Fields that are named win; without names, its form is found by its fields.

    Example:
        >>> row = Record({"instruction": "Translate.", "input": "Hund", "output": "dog"}, 0, "row 0")
        >>> [turn.content for turn in read_chat(row, question=None, answer=None, chat=None).turns]
        ['Translate.\n\nHund', 'dog']
    """
    if chat is not None:
        return _chat(record, chat)
    named = question is not None or answer is not None
    if named or not isinstance(record.fields, Mapping) or record.has("question", "answer"):
        # Of a question that is named, the answers may stand in either of two fields.
        several = answer is None and record.has("answers") and not record.has("answer")
        return _asked(record, question or "question", "answers" if several else answer or "answer")
    found = [fields for fields in FORMS if record.has(*fields)]
    if len(found) > 1:
        raise ValueError(
            f"{record.source} should have one form, or the fields to read should be named. Found "
            f"{' and '.join(_joined(fields) for fields in found)}. Give `question` and `answer`, or `chat`."
        )
    if found:
        return FORMS[found[0]](record)
    missing = next((field for field in ("answer", "question") if field not in record.fields), None)
    if missing is not None:
        text = " For raw text use `TextData`." if record.has("text") else ""
        raise ValueError(
            f"{record.source} should have the field `{missing}`. It has {record.names}. Name the fields to read: "
            f"`question` and `answer`, or `chat`.{text}"
        )
    return _asked(record, "question", "answer")


def _asked(record: Record, question: str, answer: str) -> Chat:
    accepted = _answers(record, answer)
    turns = (Turn("user", record.text(question)), Turn("assistant", accepted[0]))
    return Chat(turns, accepted=() if isinstance(record[answer], str) else accepted)


def _answers(record: Record, field: str) -> tuple[str, ...]:
    """All answers in a field: a string, a list of them, SQuAD's and TriviaQA's objects."""
    value = listed(record[field])
    if isinstance(value, Mapping):
        value = listed(value["text"]) if "text" in value else [value.get("value"), *listed(value.get("aliases") or [])]
    texts = value if isinstance(value, list) else [value]
    texts = [text.get("text") if isinstance(text, Mapping) else text for text in texts]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(
            f"`{field}` of {record.source} should be a string. Found {kind(record[field])}. Of several answers that are "
            "right give a list of strings."
        )
    if not any(text.strip() for text in texts):
        raise ValueError(f"`{field}` of {record.source} should not be empty. Found {record[field]!r}.")
    return tuple(dict.fromkeys(text for text in texts if text.strip()))


def _alpaca(record: Record) -> Chat:
    given = record.text("input") if record.has("input") else ""
    asked = "\n\n".join(part for part in (record.text("instruction"), given) if part.strip())
    return _after_system(record, [Turn("user", asked), Turn("assistant", _answers(record, "output")[0])])


def _completed(record: Record) -> Chat:
    prompt, completion = (_turns(record, *both) for both in (("prompt", "user"), ("completion", "assistant")))
    return Chat((*prompt, *completion), first=len(prompt))


def _turns(record: Record, field: str, role: str) -> list[Turn]:
    value = record[field]
    return [Turn(role, value)] if isinstance(value, str) else read_turns(value, f"`{field}` of {record.source}")


def _chat(record: Record, field: str) -> Chat:
    return _after_system(record, read_turns(record[field], f"`{field}` of {record.source}"))


def _after_system(record: Record, turns: list[Turn]) -> Chat:
    """A system prompt stands beside the turns in some files."""
    beside = record.fields.get("system")
    first = [Turn("system", beside)] if isinstance(beside, str) and beside.strip() else []
    return Chat((*([] if turns and turns[0].role == "system" else first), *turns))


def _chat_in(field: str) -> Callable[[Record], Chat]:
    return lambda record: _chat(record, field)


FORMS: dict[tuple[str, ...], Callable[[Record], Chat]] = {
    ("question", "answers"): lambda record: _asked(record, "question", "answers"),
    ("instruction", "output"): _alpaca,
    ("prompt", "completion"): _completed,
    **{(field,): _chat_in(field) for field in ("messages", "conversations", "conversation")},
}
"""How to read a row that has these fields."""


def _joined(fields: tuple[Any, ...]) -> str:
    return " with ".join(f"`{field}`" for field in fields)
