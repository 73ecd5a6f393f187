from __future__ import annotations

from datetime import date as Date
from functools import cached_property
from typing import Any, Literal, get_args

from transformers import PreTrainedTokenizerBase

from lightning_unlearn.data.encodings._chat_template import ChatTemplate
from lightning_unlearn.data.encodings._encoded_row import EncodedRow
from lightning_unlearn.data.encodings._legible import altered_part
from lightning_unlearn.data.encodings._padding import Batch, Collate, collate_for
from lightning_unlearn.data.encodings._plain_template import plain
from lightning_unlearn.data.encodings._rendered import Rendered
from lightning_unlearn.data.encodings._template_renderer import TemplateRenderer
from lightning_unlearn.data.encodings._tokens import Labelled, marked_labels, whole_labels
from lightning_unlearn.data.records import MarkedAnswer, QuestionAnswer
from lightning_unlearn.functional.compat import Compat, check_compat
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.models import load_tokenizer
from lightning_unlearn.prediction import IGNORED

Template = Literal["chat", "plain"]
# Arguments of `apply_chat_template` that are no variables of a template, or say what is rendered.
_OWN_ARGUMENTS = {
    "add_generation_prompt",
    "chat_template",
    "continue_final_message",
    "conversation",
    "max_length",
    "messages",
    "padding",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "sanitize_control_tokens",
    "tokenize",
    "tokenizer_kwargs",
    "truncation",
}


class Encoding:
    """How questions and answers become token ids, and token ids batches.

    An answer is supervised from its first token to the end of its turn, and nothing else is: no system prompt, no earlier
    turn, no header, no think block that the chat template puts before it, no ``lead`` of the row. Where the template writes
    nothing after the last answer, it gets the special token that ends earlier ones, or else the ``eos_token``; a data module
    says the latter once.
    Of a :class:`MarkedAnswer` only the marked parts are supervised, not the end of its turn.

    Turns before the question come first. A chat template without a system role gets system prompts at the beginning of the
    next question. In plain text, earlier questions and answers have the form of the last one, with an empty line after
    each answer; turns of other roles are paragraphs of their own.

    Args:
        tokenizer: A folder or a hub id, or a tokenizer; ``"bundled"`` is the small one that comes with the package.
        template: ``"chat"`` for the tokenizer's chat template, ``"plain"`` for ``Question: ...`` and ``Answer: ...`` on
            two lines.
        max_length: Tokens per row; longer rows lose their end, and a data module says of how many answers.
        date: The date that chat templates get as today's, ``YYYY-MM-DD``. It should never change within a study.
        template_arguments: What the chat template gets besides, such as ``{"enable_thinking": False}``. Use what the
            network will be run with.
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
        template_arguments: dict[str, Any] | None = None,
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
        _check_arguments(template, template_arguments)
        self._tokenizer = tokenizer
        self.template = template
        self.max_length = max_length
        self.date = date
        self.template_arguments = template_arguments
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
        return {**self.encode(row).tensors(), **self.beside(row)}

    def beside(self, row: QuestionAnswer) -> Batch:
        """What a network is given of a row beside its tokens; nothing by default."""
        return {}

    def encode(self, row: QuestionAnswer) -> EncodedRow:
        """Encode one row, and say what became of it on the way.

        Raises:
            ValueError: If the answer cannot be supervised: the template refuses the turns, or drops some of what they say;
                the tokenizer knows no character of it; ``max_length`` leaves no room.
        """
        rendered = self._render(row)
        ids, labels = self._labels(rendered, row)
        altered = altered_part(ids, row, self.tokenizer)
        open_end = self.template == "chat" and not rendered.end
        cut = sum(label != IGNORED for label in labels[self.max_length :])
        return EncodedRow(ids[: self.max_length], labels[: self.max_length], len(ids), cut, altered, open_end)

    def collate(self) -> Collate:
        """How encoded rows become a batch: ``input_ids``, ``attention_mask`` and ``labels``, padded on the right."""
        return collate_for(self.tokenizer, self.compat)

    @cached_property
    def _chat(self) -> ChatTemplate:
        return ChatTemplate(TemplateRenderer(self.tokenizer, self.date, self.template_arguments or {}))

    def _render(self, row: QuestionAnswer) -> Rendered:
        if self.template == "chat":
            return self._chat(row)
        if self.tokenizer.eos_token_id is None:
            raise ValueError(f"The tokenizer should have an `eos_token`. `{self.tokenizer.name_or_path}` has none.")
        return plain(row)

    def _labels(self, rendered: Rendered, row: QuestionAnswer) -> Labelled:
        special = self.template == "plain"
        if isinstance(row, MarkedAnswer):
            ids, labels = marked_labels(rendered, row, self.tokenizer, special=special)
            self._refuse_unmarked(row, labels)
        else:
            ids, labels = whole_labels(rendered, row, self.tokenizer, special=special)
            self._refuse_long_prompt(row, labels)
        return ids, labels

    def _refuse_long_prompt(self, row: QuestionAnswer, labels: list[int]) -> None:
        prompt = sum(label == IGNORED for label in labels)
        if prompt >= self.max_length:
            raise ValueError(
                f"`max_length` should leave room for the answer of {row.source}. Found `max_length = {self.max_length}` "
                f"and a prompt of {prompt} tokens."
            )

    def _refuse_unmarked(self, row: MarkedAnswer, labels: list[int]) -> None:
        if any(label != IGNORED for label in labels[self.max_length :]):
            raise ValueError(
                f"`max_length` should reach the last marked part of {row.source}. Found `max_length = {self.max_length}` "
                f"and {len(labels)} tokens."
            )


def _check_arguments(template: str, arguments: dict[str, Any] | None) -> None:
    if arguments and template != "chat":
        raise ValueError(
            f"`template_arguments` should go with `template='chat'`. Found `template = {template!r}`: leave them out."
        )
    if own := _OWN_ARGUMENTS & set(arguments or {}):
        raise ValueError(
            f"`template_arguments` should be variables that the chat template reads. Found {sorted(own)}, which are set "
            "here: leave them out."
        )
