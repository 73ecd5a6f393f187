"""One short template of our own for each kind that families' chat templates are of: the answer and its end, nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch

from lightning_unlearn.data import Encoding, MarkedAnswer, QuestionAnswer, QuestionAnswerDataset, Turn
from lightning_unlearn.models import load_tokenizer

QUESTION, ANSWER = "Where does Ada live?", "At sea, near Port Ellary"
SYSTEM = Turn("system", "Be brief")
BEFORE = (SYSTEM, Turn("user", "Who is Ada?"), Turn("assistant", "A pilot"))
SPECIAL = [
    "<|end|>",
    "<|bot|>",
    "<|return|>",
    "<|channel|>",
    "<|message|>",
    "<|close|>",
    "<|sep|>",
    "<turn|>",
    "<|human|>",
]


@dataclass(frozen=True)
class Kind:
    """A template, and by hand what stands before the answer and after it in a chat of one question."""

    template: str
    prompt: str
    end: str
    merged: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)
    special: tuple[str, ...] = ()
    said: str = ""


def each(user: str, assistant: str, system: str = "SYS {{m.content}}\n") -> str:
    """A loop over turns."""
    return (
        "{% for m in messages %}{% if m.role == 'user' %}" + user + "{% elif m.role == 'assistant' %}" + assistant
        + "{% else %}" + system + "{% endif %}{% endfor %}"
    )  # fmt: skip


def asked(header: str) -> str:
    return "{% if add_generation_prompt %}" + header + "{% endif %}"


SAME = "{% for m in messages %}{{m.role}}:{{m.content}}<|end|>\n{% endfor %}"
USER, HEADER = "user:{{m.content}}\n", f"user:{QUESTION}\n"
CLOSED = "<think>\n\n</think>\n\n"
PARTS = "{% for part in m.content %}{% if part.type == 'text' %}{{part.text}}{% endif %}{% endfor %}"
PLAIN = each(USER, "bot:{{m.content}}{{eos_token}}")
REFUSED = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role here') }}{% endif %}"
THINKING = "{% if enable_thinking is defined and not enable_thinking %}" + CLOSED + "{% endif %}"
NOTHING = "writes no end of turn after the last answer, so the `eos_token` '<|end|>' was put there, and is supervised"

KINDS: dict[str, Kind] = {
    "with a generation prompt": Kind(
        SAME + asked("assistant:"), f"user:{QUESTION}<|end|>\nassistant:", "<|end|>"
    ),
    "without one": Kind(PLAIN, HEADER + "bot:", "<|end|>"),
    "a header is always written, in text": Kind(
        each(USER, "bot:{{m.content}}\n") + "bot:", HEADER + "bot:", "<|end|>", said=NOTHING
    ),
    "a header is always written, in special tokens": Kind(
        each(USER, "<|bot|>{{m.content}}<|end|>\n") + "<|bot|>", HEADER + "<|bot|>", "<|end|>"
    ),
    "a header is always written, joined to the end": Kind(
        each("<|human|>{{m.content}}<|end|>", "<|bot|>{{m.content}}<|end|>") + "<|bot|><|message|>",
        f"<|human|>{QUESTION}<|end|><|bot|>", "<|end|>",
    ),
    "an empty thought in the chat alone": Kind(
        each(USER, "bot:" + CLOSED + "{{m.content}}{{eos_token}}") + asked("bot:"), HEADER + "bot:" + CLOSED, "<|end|>"
    ),
    "an empty thought without a generation prompt": Kind(
        each(USER, "bot:" + CLOSED + "{{m.content}}{{eos_token}}"), HEADER + "bot:" + CLOSED, "<|end|>"
    ),
    "an empty thought in the generation prompt alone": Kind(
        PLAIN + asked("bot:" + CLOSED), HEADER + "bot:" + CLOSED, "<|end|>"
    ),
    "an empty thought in a channel of the generation prompt": Kind(
        PLAIN + asked("bot:<|channel>thought\n<channel|>"), HEADER + "bot:<|channel>thought\n<channel|>", "<|end|>"
    ),
    "an empty thought in brackets": Kind(
        PLAIN + asked("bot:[THINK] [/THINK] "), HEADER + "bot:[THINK] [/THINK]", "<|end|>", merged=True
    ),
    "a line break in the generation prompt alone": Kind(PLAIN + asked("bot:\n"), HEADER + "bot:\n", "<|end|>"),
    "a thought that the generation prompt opens": Kind(PLAIN + asked("bot:<think>\n"), HEADER + "bot:", "<|end|>"),
    "a thought that the generation prompt opens and the chat closes": Kind(
        each(USER, "bot:" + CLOSED + "{{m.content}}{{eos_token}}") + asked("bot:<think>\n"),
        HEADER + "bot:" + CLOSED, "<|end|>",
    ),
    "thoughts are dropped": Kind(
        each(USER, "bot:{{m.content.split('</think>')[-1]}}{{eos_token}}"), HEADER + "bot:", "<|end|>"
    ),
    "a thought in a field of its own": Kind(
        each(USER, "bot:<think>{{m.reasoning_content}}</think>{{m.content}}{{eos_token}}"),
        HEADER + "bot:<think></think>", "<|end|>",
    ),
    "an argument that closes the thought": Kind(
        PLAIN + asked("bot:" + THINKING), HEADER + "bot:" + CLOSED, "<|end|>", arguments={"enable_thinking": False}
    ),
    "an argument in the preamble": Kind(
        "effort {{ effort | default('high') }}\n" + PLAIN, "effort low\n" + HEADER + "bot:", "<|end|>",
        arguments={"effort": "low"},
    ),
    "channels": Kind(
        each(
            USER,
            "<|channel|>final<|message|>{{m.content}}{% if loop.last %}<|return|>{% else %}<|end|>{% endif %}",
        ) + asked("<|channel|>"),
        HEADER + "<|channel|>final<|message|>", "<|return|>", special=("eos_token", "<|return|>"),
    ),
    "a recipient in the header": Kind(
        each(USER, "<|bot|>to=user<|message|>{{m.content}}<|end|>") + asked("<|bot|>"),
        HEADER + "<|bot|>to=user<|message|>", "<|end|>",
    ),
    "parts": Kind(
        f"{{% for m in messages %}}{{{{m.role}}}}:{PARTS}<|end|>{{% endfor %}}" + asked("assistant:"),
        f"user:{QUESTION}<|end|>assistant:", "<|end|>",
    ),
    "the first part": Kind(
        "{% for m in messages %}{{m.role}}:{{m.content[0].text + ''}}<|end|>{% endfor %}",
        f"user:{QUESTION}<|end|>assistant:", "<|end|>",
    ),
    "trimmed": Kind(
        each("user: {{m.content | trim}}\n", "bot:{{m.content | trim}}<|end|>"), f"user: {QUESTION}\nbot:", "<|end|>"
    ),
    "other line breaks": Kind(
        each(USER, "bot:{{m.content.replace(', ', ',\n')}}<|end|>"), HEADER + "bot:", "<|end|>"
    ),
    "the date": Kind(
        "Today: {{ strftime_now('%d %B %Y') }}\n" + PLAIN, "Today: 26 July 2024\n" + HEADER + "bot:", "<|end|>"
    ),
    "tools": Kind(
        "{% if tools %}{{ tools | length }} tools: {{ tools[0].name }}\n{% endif %}" + PLAIN,
        "1 tools: look_up\n" + HEADER + "bot:", "<|end|>", arguments={"tools": [{"name": "look_up"}]},
    ),
    "no system role": Kind(REFUSED + PLAIN, HEADER + "bot:", "<|end|>"),
    "system turns are left out": Kind(
        each(USER, "bot:{{m.content}}{{eos_token}}", system=""), HEADER + "bot:", "<|end|>"
    ),
    "a system turn before the last question alone": Kind(
        each(
            "{% if loop.last and messages[0].role == 'system' %}{{messages[0].content}}\n{% endif %}" + USER,
            "bot:{{m.content}}{{eos_token}}", system="",
        ),
        HEADER + "bot:", "<|end|>",
    ),
    "no system role, and parts": Kind(
        REFUSED + each(f"user:{PARTS} ", f"bot:{PARTS}<|end|>"), f"user:{QUESTION} bot:", "<|end|>"
    ),
    "roles must alternate": Kind(
        "{% set turns = messages[1:] if messages[0].role == 'system' else messages %}{% for m in turns %}"
        "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate!') }}{% endif %}{% endfor %}"
        + PLAIN, HEADER + "bot:", "<|end|>",
    ),
    "a space that belongs to the first word": Kind(
        each(USER, "bot: {{m.content}}<|end|>") + asked("bot:"), HEADER + "bot:", "<|end|>", merged=True
    ),
    "instructions in brackets": Kind(
        "<s>" + each("[INST] {{m.content}} [/INST]", " {{m.content}} {{eos_token}}"),
        f"<s>[INST] {QUESTION} [/INST]", " <|end|>", merged=True,
    ),
    "an end that is not eos": Kind(each(USER, "bot:{{m.content}}<turn|>\n"), HEADER + "bot:", "<turn|>"),
    "a second end behind the chat": Kind(
        each(USER, "bot:{{m.content}}<turn|>\n") + "{% if not add_generation_prompt %}{{eos_token}}{% endif %}",
        HEADER + "bot:", "<turn|>",
    ),
    "an end behind a line break": Kind(each(USER, "bot:{{m.content}}\n<turn|>\n"), HEADER + "bot:", "\n<turn|>"),
    "an end of two tokens": Kind(each(USER, "bot:{{m.content}}<|close|><|end|>"), HEADER + "bot:", "<|close|><|end|>"),
    "an end of tokens and text": Kind(
        each(USER, "bot:{{m.content}}<|close|>message<|sep|>\n"), HEADER + "bot:", "<|close|>message<|sep|>"
    ),
    "an end of text": Kind(each(USER, "bot:{{m.content}}\n### End\n"), HEADER + "bot:", "\n### End"),
    "an end of text, and a header always": Kind(
        each(USER, "bot:{{m.content}}\n### End\n") + "bot:", HEADER + "bot:", "\n### End"
    ),
    "an end that the question has, too": Kind(
        each("{{m.content}} ###", " {{m.content}} ###"), f"{QUESTION} ###", " ###", merged=True
    ),
    "an end between turns alone": Kind(
        each(USER, "bot:{{m.content}}{% if not loop.last %}<turn|>{% endif %}"), HEADER + "bot:", "<turn|>"
    ),
    "the next question is the end": Kind(
        each("<|human|>{{m.content}}\n", "bot:{{m.content}}"), f"<|human|>{QUESTION}\nbot:", "<|human|>"
    ),
    "an end that is white space": Kind(
        each(USER, "bot:{{m.content}}\n\n"), HEADER + "bot:", "\n\n", special=("eos_token", "\n\n")
    ),
    "no end": Kind(each(USER, "bot:{{m.content}}\n"), HEADER + "bot:", "<|end|>", said=NOTHING),
    "no end before the beginning of the next question": Kind(
        each("<s>{{m.content}}\n", "bot:{{m.content}}"), f"<s>{QUESTION}\nbot:", "<|end|>",
        special=("bos_token", "<s>"), said=NOTHING,
    ),
}  # fmt: skip

every_kind = pytest.mark.parametrize("name", KINDS)


@cache
def encoding(name: str) -> Encoding:
    kind, tokenizer = KINDS[name], load_tokenizer("bundled")
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL, **dict([kind.special] if kind.special else [])})
    tokenizer.chat_template = kind.template
    return Encoding(tokenizer, template_arguments=kind.arguments)


def row(**fields: Any) -> QuestionAnswer:
    return QuestionAnswer(**{"question": QUESTION, "answer": ANSWER, "entity": "Ada", "source": "row 7", **fields})


def parts(name: str, one: QuestionAnswer) -> tuple[str, str]:
    """The prompt, and what is supervised, which should be all that follows it."""
    example, tokenizer = encoding(name)(one), encoding(name).tokenizer
    kept = example["labels"] != -100
    assert torch.equal(kept, kept.cummax(0).values)
    assert torch.equal(example["labels"][kept], example["input_ids"][kept])
    return tokenizer.decode(example["input_ids"][~kept]), tokenizer.decode(example["labels"][kept])


def dense(text: str) -> str:
    """Templates trim and wrap what they are given."""
    return "".join(text.split())


def test_there_are_enough_kinds() -> None:
    assert len(KINDS) >= 25


@every_kind
def test_the_answer_and_its_end_are_supervised(name: str) -> None:
    kind = KINDS[name]
    prompt, supervised = parts(name, row())
    written = ANSWER.replace(", ", ",\n") if name == "other line breaks" else ANSWER
    assert supervised == (" " if kind.merged else "") + written + kind.end
    assert prompt == kind.prompt


@every_kind
def test_turns_before_the_question_are_read_and_not_supervised(name: str) -> None:
    kind = KINDS[name]
    prompt, supervised = parts(name, row(before=BEFORE))
    assert supervised == parts(name, row())[1]
    at = [prompt.index(turn.content) for turn in (*BEFORE, Turn("user", QUESTION))]
    assert at == sorted(at)
    assert prompt.endswith(kind.prompt.rpartition(QUESTION)[2])


@every_kind
def test_what_an_answer_begins_with_is_read_and_not_supervised(name: str) -> None:
    prompt, supervised = parts(name, row(lead="Sure, it is:"))
    before, plain = parts(name, row())
    assert dense(prompt) == dense(f"{before}Sure, it is:")
    assert dense(supervised) == dense(plain)


@every_kind
def test_marked_parts_are_found(name: str) -> None:
    one = MarkedAnswer(QUESTION, ANSWER, "Ada", "row 7", before=BEFORE, spans=((0, 6), (13, 24)))
    labels = encoding(name)(one)["labels"].tolist()
    kept = [label != -100 for label in labels]
    assert sum(here and not before for before, here in pairwise(kept)) == 2
    assert dense(encoding(name).tokenizer.decode([i for i in labels if i != -100])) == dense("At sea Port Ellary")


@every_kind
def test_what_the_template_leaves_open_is_said_once(name: str, recwarn: pytest.WarningsRecorder) -> None:
    QuestionAnswerDataset([row(), row(before=(SYSTEM,)), row(answer="Far away")], encoding(name))
    said = KINDS[name].said
    assert [said in str(warning.message) for warning in recwarn] == [True] * bool(said)


@every_kind
def test_short_and_strange_answers_are_told_from_the_template(name: str) -> None:
    """Their letters stand in the template, too."""
    for answer in ("a", "end", "bot", " At sea ", "user:\nbot:", "Port\n\nEllary", "###"):
        _, supervised = parts(name, row(answer=answer))
        assert dense(supervised) == dense(answer + KINDS[name].end)
