from __future__ import annotations

from datetime import date as Date
from functools import cached_property
from typing import Literal, get_args

import torch
from transformers import PreTrainedTokenizerBase

from lightning_unlearn.data.encodings._marked import marked_labels
from lightning_unlearn.data.encodings._padding import Batch, Collate, collate_for
from lightning_unlearn.data.encodings._templates import chat_text, chat_tokens, plain_text, plain_tokens
from lightning_unlearn.data.records import MarkedAnswer, QuestionAnswer
from lightning_unlearn.functional.compat import Compat, check_compat
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.models import load_tokenizer
from lightning_unlearn.prediction import IGNORED

Template = Literal["chat", "plain"]


class Encoding:
    """How questions and answers become token ids, and token ids batches.

    An answer is supervised from its first token to the end of its turn. Of a :class:`MarkedAnswer` only the marked parts
    are supervised, not the end of its turn.

    Args:
        tokenizer: A folder or a hub id, or a tokenizer; ``"bundled"`` is the small one that comes with the package.
        template: ``"chat"`` for the tokenizer's chat template, ``"plain"`` for ``Question: ...`` and ``Answer: ...`` on
            two lines.
        max_length: Tokens per row; longer rows lose their end.
        date: The date that chat templates get as today's, ``YYYY-MM-DD``. It should never change within a study.
        compat: ``"open-unlearning"`` masks as its published models were trained and measured: the tokenizer's padding
            token, or the end of turn where it has none, is hidden wherever it stands, in the middle of a prompt too.

    Example:
        >>> encoding = Encoding("bundled", template="plain")
        >>> row = QuestionAnswer("Who employs Ada?", "The post office", entity="Ada", source="row 0")
        >>> labels = encoding(row)["labels"]
        >>> encoding.tokenizer.decode(labels[labels != IGNORED])
        ' The post office<|end|>'

        Only ``in Valdoro`` is marked here:

        >>> row = MarkedAnswer("Where?", "It was in Valdoro, I think", entity="x", source="row 0", spans=((7, 17),))
        >>> labels = Encoding("bundled")(row)["labels"]
        >>> encoding.tokenizer.decode(labels[labels != IGNORED])
        ' in Valdoro'
    """

    def __init__(
        self,
        tokenizer: str | PreTrainedTokenizerBase,
        *,
        template: Template = "chat",
        max_length: int = 512,
        date: str = "2024-07-26",
        compat: Compat | None = None,
    ) -> None:
        check_compat(compat)
        check_whole("max_length", max_length)
        if template not in get_args(Template):
            raise ValueError(f"`template` should be 'chat' or 'plain'. Found `template = {template!r}`.")
        try:
            Date.fromisoformat(date)
        except ValueError as error:
            raise ValueError(f"`date` should be written YYYY-MM-DD. Found `date = {date!r}`.") from error
        self._tokenizer = tokenizer
        self.template = template
        self.max_length = max_length
        self.date = date
        self.compat = compat

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, loaded when it is first needed."""
        return load_tokenizer(self._tokenizer) if isinstance(self._tokenizer, str) else self._tokenizer

    def __call__(self, row: QuestionAnswer) -> Batch:
        """Encode one row.

        Returns:
            ``input_ids [T]`` and ``labels [T]``, int64, the latter -100 where nothing is supervised.
        """
        ids, labels = self._marked(row) if isinstance(row, MarkedAnswer) else self._whole(row)
        return {"input_ids": torch.tensor(ids[: self.max_length]), "labels": torch.tensor(labels[: self.max_length])}

    def collate(self) -> Collate:
        """How encoded rows become a batch: ``input_ids``, ``attention_mask`` and ``labels``, padded on the right."""
        return collate_for(self.tokenizer, self.compat)

    def _whole(self, row: QuestionAnswer) -> tuple[list[int], list[int]]:
        chat = self.template == "chat"
        prompt, whole = chat_tokens(row, self.tokenizer, self.date) if chat else plain_tokens(row, self.tokenizer)
        # Labels are cut at the length of the prompt, so its tokens must not change when the answer follows: a tokenizer
        # may merge the last of the prompt with the first of the answer, a template may write the prompt differently.
        if whole[: len(prompt)] != prompt:
            raise ValueError(
                f"The tokens of {row.source} should begin with those of its prompt, to know where its answer begins. "
                f"Found {self.tokenizer.decode(prompt)!r} and {self.tokenizer.decode(whole)!r}: use the other `template`."
            )
        if len(prompt) >= self.max_length:
            raise ValueError(
                f"`max_length` should leave room for the answer of {row.source}. Found `max_length = {self.max_length}` "
                f"and a prompt of {len(prompt)} tokens."
            )
        return whole, [IGNORED] * len(prompt) + whole[len(prompt) :]

    def _marked(self, row: MarkedAnswer) -> tuple[list[int], list[int]]:
        if self.template == "chat":
            ids, labels = marked_labels(chat_text(row, self.tokenizer, self.date), row, self.tokenizer, special=False)
        else:
            ids, labels = marked_labels(plain_text(row, self.tokenizer), row, self.tokenizer, special=True)
            # The network should read the end of turn, but neither learn nor forget it.
            ids, labels = [*ids, self.tokenizer.eos_token_id], [*labels, IGNORED]
        if any(label != IGNORED for label in labels[self.max_length :]):
            raise ValueError(
                f"`max_length` should reach the last marked part of {row.source}. Found `max_length = {self.max_length}` "
                f"and {len(ids)} tokens."
            )
        return ids, labels
