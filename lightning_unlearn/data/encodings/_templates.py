"""Questions and answers as a network reads them: in a chat template, or in plain text."""

from __future__ import annotations

import re
from datetime import date as Date
from typing import Any

from transformers import PreTrainedTokenizerBase

from lightning_unlearn.data.records import QuestionAnswer


def chat_tokens(row: QuestionAnswer, tokenizer: PreTrainedTokenizerBase, date: str) -> tuple[list[int], list[int]]:
    """Tokens of the prompt alone, and of prompt and answer, by the tokenizer's chat template."""
    asked, answered = _messages(row)
    whole: list[int] = _in_chat([asked, answered], tokenizer, date, add_generation_prompt=False)
    # Some templates write a line break after the end of the turn. A model stops before it, so it is not supervised.
    while whole and not tokenizer.decode(whole[-1:]).strip():
        whole.pop()
    return _in_chat([asked], tokenizer, date, add_generation_prompt=True), whole


def chat_text(row: QuestionAnswer, tokenizer: PreTrainedTokenizerBase, date: str) -> str:
    """Text of prompt and answer, by the tokenizer's chat template."""
    text: str = _in_chat(_messages(row), tokenizer, date, tokenize=False)
    return text


def plain_tokens(row: QuestionAnswer, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Tokens of the prompt alone, and of prompt and answer, without a chat template."""
    whole = plain_text(row, tokenizer)
    return tokenizer(_prompt(row))["input_ids"], [*tokenizer(whole)["input_ids"], tokenizer.eos_token_id]


def plain_text(row: QuestionAnswer, tokenizer: PreTrainedTokenizerBase) -> str:
    """Text of prompt and answer without a chat template, after which an end of turn should follow."""
    if tokenizer.eos_token_id is None:
        raise ValueError(f"The tokenizer should have an `eos_token`. `{tokenizer.name_or_path}` has none.")
    return f"{_prompt(row)} {row.answer}"


def _prompt(row: QuestionAnswer) -> str:
    return f"Question: {row.question}\nAnswer:"


def _messages(row: QuestionAnswer) -> list[dict[str, str]]:
    return [{"role": "user", "content": row.question}, {"role": "assistant", "content": row.answer}]


def _in_chat(messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, date: str, **options: bool) -> Any:
    if tokenizer.chat_template is None:
        raise ValueError(
            f"The tokenizer should have a chat template. `{tokenizer.name_or_path}` has none: use `template='plain'`."
        )
    today = Date.fromisoformat(date)
    return tokenizer.apply_chat_template(
        messages,
        chat_template=_with_fixed_date(tokenizer.get_chat_template(), today),
        return_dict=False,
        date_string=today.strftime("%d %b %Y"),
        **options,
    )


def _with_fixed_date(template: str, today: Date) -> str:
    # Some templates ask the clock. Tokens would change from day to day, and cached likelihoods would not be found again.
    def literal(call: re.Match[str]) -> str:
        quote, format_ = call.groups()
        return f"{quote}{today.strftime(format_)}{quote}"

    return re.sub(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""", literal, template)
