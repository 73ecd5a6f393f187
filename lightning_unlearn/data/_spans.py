"""Answers of which only some stretches of text are supervised."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date as Date

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from typing_extensions import override

from lightning_unlearn.data._encoding import Encoding, in_chat, in_plain
from lightning_unlearn.data._rows import QuestionAnswer
from lightning_unlearn.prediction import IGNORED


@dataclass(frozen=True)
class MarkedAnswer(QuestionAnswer):
    """A question and its answer, parts of which are marked.

    Args:
        spans: The marked parts, as half-open ranges of characters of ``answer``.
    """

    spans: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class SpanEncoding(Encoding):
    """:class:`Encoding` that supervises the marked parts of an answer alone, not even its end of turn.

    The text is encoded as a whole, so its tokens are those a network would meet. A token that straddles the border of a
    marked part belongs to it if it holds any of its characters, white space at its ends aside: nothing of what must go stays
    unmarked, and the space that many tokenizers put before a word marks no word of the neighbour.

    Args:
        template: As in :class:`Encoding`, as are the others. A chat template must leave the answer as it is.

    Example:
        >>> from lightning_unlearn.data._encoding import load_tokenizer
        >>> tokenizer = load_tokenizer("bundled")
        >>> row = MarkedAnswer("Where?", "It was in Valdoro, I think", entity="x", source="row 0", spans=((7, 17),))
        >>> labels = SpanEncoding()(row, tokenizer)["labels"]
        >>> tokenizer.decode(labels[labels != IGNORED])
        ' in Valdoro'
    """

    @override
    def __call__(self, row: QuestionAnswer, tokenizer: PreTrainedTokenizerBase) -> dict[str, Tensor]:
        """Encode one row, as ``input_ids [T]`` and ``labels [T]``, int64, the latter -100 outside of its spans."""
        if not tokenizer.is_fast:
            raise ValueError(
                "The tokenizer should be a fast one, which knows where in the text its tokens stand. Found "
                f"`{type(tokenizer).__name__}`."
            )
        chat = self.template == "chat"
        text = _in_chat(row, tokenizer, self.date) if chat else in_plain(row, tokenizer)[1]
        encoded = tokenizer(text, add_special_tokens=not chat, return_offsets_mapping=True)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        marked = _is_marked(text, row)
        labels = [token if any(marked[slice(*at)]) else IGNORED for token, at in zip(ids, offsets, strict=True)]
        if not chat:
            ids, labels = [*ids, tokenizer.eos_token_id], [*labels, IGNORED]
        if any(label != IGNORED for label in labels[self.max_length :]):
            raise ValueError(
                f"`max_length` should reach the last marked part of {row.source}. Found `max_length = {self.max_length}` "
                f"and {len(ids)} tokens."
            )
        return {
            "input_ids": torch.tensor(ids[: self.max_length]),
            "labels": torch.tensor(labels[: self.max_length]),
        }


def _in_chat(row: QuestionAnswer, tokenizer: PreTrainedTokenizerBase, date: str) -> str:
    messages = [{"role": "user", "content": row.question}, {"role": "assistant", "content": row.answer}]
    text: str = in_chat(messages, tokenizer, Date.fromisoformat(date), tokenize=False)
    return text


def _is_marked(text: str, row: QuestionAnswer) -> list[bool]:
    """Of each character of ``text``, in which the answer stands last, whether it is marked; white space at ends is not."""
    start = text.rfind(row.answer)
    if start < 0:
        raise ValueError(
            f"The chat template should leave the answer of {row.source} as it is, or its spans cannot be found. Found "
            f"{text!r}: some templates drop what was thought. Use `template='plain'`."
        )
    marked = [False] * len(text)
    for first, end in row.spans if isinstance(row, MarkedAnswer) else ():
        part = row.answer[first:end]
        begins = start + first + len(part) - len(part.lstrip())
        for i in range(begins, begins + len(part.strip())):
            marked[i] = True
    return marked
