from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date as Date
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lightning_unlearn.bundled import bundled_path
from lightning_unlearn.data._rows import QuestionAnswer
from lightning_unlearn.prediction import IGNORED

Template = Literal["chat", "plain"]


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer by what :func:`PretrainedCausalLM` takes; ``"bundled"`` is the small one of the package."""
    if name == "bundled":
        return AutoTokenizer.from_pretrained(str(bundled_path()))
    from lightning_unlearn.models._pretrained import pretrained_tokenizer

    return pretrained_tokenizer(name)


@dataclass(frozen=True)
class Encoding:
    """How questions and answers become token ids.

    Args:
        template: ``"chat"`` for the tokenizer's chat template, ``"plain"`` for ``Question: ...`` and ``Answer: ...`` on
            two lines.
        max_length: Longer rows lose their end, in tokens.
        date: What chat templates are told that today is, ``YYYY-MM-DD``. It should never change within a study.

    Example:
        >>> row = QuestionAnswer("Who employs Ada?", "The post office", entity="Ada", source="row 0")
        >>> Encoding(template="plain")(row, load_tokenizer("bundled"))["labels"].ne(IGNORED).sum() > 0
        tensor(True)
    """

    template: Template = "chat"
    max_length: int = 512
    date: str = "2024-07-26"

    def __post_init__(self) -> None:
        if self.template not in get_args(Template):
            raise ValueError(f"`template` should be 'chat' or 'plain'. Found `template = {self.template!r}`.")
        try:
            Date.fromisoformat(self.date)
        except ValueError as error:
            raise ValueError(f"`date` should be written YYYY-MM-DD. Found `date = {self.date!r}`.") from error

    def __call__(self, row: QuestionAnswer, tokenizer: PreTrainedTokenizerBase) -> dict[str, Tensor]:
        """Encode one row, supervised from the first token of the answer to the end of the turn.

        Returns:
            ``input_ids [T]`` and ``labels [T]``, int64, the latter -100 on the prompt.
        """
        chat = self.template == "chat"
        prompt, whole = _chat(row, tokenizer, Date.fromisoformat(self.date)) if chat else _plain(row, tokenizer)
        if whole[: len(prompt)] != prompt:
            raise ValueError(
                f"The tokens of {row.source} should begin with those of its prompt, or the answer cannot be told from "
                f"it. Found {tokenizer.decode(prompt)!r} and {tokenizer.decode(whole)!r}: use the other `template`."
            )
        if len(prompt) >= self.max_length:
            raise ValueError(
                f"`max_length` should leave room for the answer of {row.source}. Found `max_length = {self.max_length}` "
                f"and a prompt of {len(prompt)} tokens."
            )
        labels = [IGNORED] * len(prompt) + whole[len(prompt) :]
        return {
            "input_ids": torch.tensor(whole[: self.max_length]),
            "labels": torch.tensor(labels[: self.max_length]),
        }


def pad_right(examples: Sequence[dict[str, Tensor]], *, pad_token_id: int) -> dict[str, Tensor]:
    """Collate encoded rows into a batch.

    The mask comes from the lengths. Comparing with the padding token instead would hide every end of turn of the many
    models whose padding token is their end-of-turn token.

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels``, ``[B, T]`` int64, padded on the right.

    Example:
        >>> rows = [{"input_ids": torch.tensor(ids), "labels": torch.tensor(ids)} for ids in ([5, 3], [5])]
        >>> pad_right(rows, pad_token_id=3)["attention_mask"]
        tensor([[1, 1],
                [1, 0]])
    """
    ids = [example["input_ids"] for example in examples]
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_token_id),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence([example["labels"] for example in examples], batch_first=True, padding_value=IGNORED),
    }


def pad_right_hiding(examples: Sequence[dict[str, Tensor]], *, pad_token_id: int) -> dict[str, Tensor]:
    """:func:`pad_right` with every ``pad_token_id`` masked, those that are part of a row included.

    Example:
        >>> rows = [{"input_ids": torch.tensor(ids), "labels": torch.tensor(ids)} for ids in ([5, 3, 7], [5])]
        >>> pad_right_hiding(rows, pad_token_id=3)["attention_mask"]
        tensor([[1, 0, 1],
                [1, 0, 0]])
    """
    batch = pad_right(examples, pad_token_id=pad_token_id)
    return {**batch, "attention_mask": (batch["input_ids"] != pad_token_id).long()}


def _chat(row: QuestionAnswer, tokenizer: PreTrainedTokenizerBase, today: Date) -> tuple[list[int], list[int]]:
    asked = {"role": "user", "content": row.question}
    answered = {"role": "assistant", "content": row.answer}
    whole: list[int] = in_chat([asked, answered], tokenizer, today, add_generation_prompt=False)
    # White space that a template writes after the end of the turn is never generated.
    while whole and not tokenizer.decode(whole[-1:]).strip():
        whole.pop()
    return in_chat([asked], tokenizer, today, add_generation_prompt=True), whole


def in_chat(messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, today: Date, **options: bool) -> Any:
    """Token ids of ``messages`` by the tokenizer's chat template, or their text with ``tokenize=False``."""
    if tokenizer.chat_template is None:
        raise ValueError(
            f"The tokenizer should have a chat template. `{tokenizer.name_or_path}` has none: use `template='plain'`."
        )
    return tokenizer.apply_chat_template(
        messages,
        chat_template=_fixed_date(tokenizer.get_chat_template(), today),
        return_dict=False,
        date_string=today.strftime("%d %b %Y"),
        **options,
    )


def _fixed_date(template: str, today: Date) -> str:
    # Templates that ask the clock would change the data from day to day, and so would a cache made of them.
    def literal(call: re.Match[str]) -> str:
        quote, format_ = call.groups()
        return f"{quote}{today.strftime(format_)}{quote}"

    return re.sub(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""", literal, template)


def _plain(row: QuestionAnswer, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    prompt, whole = in_plain(row, tokenizer)
    return tokenizer(prompt)["input_ids"], [*tokenizer(whole)["input_ids"], tokenizer.eos_token_id]


def in_plain(row: QuestionAnswer, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Texts without a chat template, of the question alone and with its answer; an end of turn should follow."""
    if tokenizer.eos_token_id is None:
        raise ValueError(f"The tokenizer should have an `eos_token`. `{tokenizer.name_or_path}` has none.")
    prompt = f"Question: {row.question}\nAnswer:"
    return prompt, f"{prompt} {row.answer}"
