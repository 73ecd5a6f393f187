from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date as Date
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from lightning_unlearn.data.encodings._turns import Messages


class TemplateRenderer:
    """Writes messages by the chat template of a tokenizer, on the same day for ever.

    Args:
        tokenizer: Whose template it is.
        date: What the template gets as today's date.
        arguments: What it gets besides, such as ``enable_thinking``.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, date: str, arguments: Mapping[str, Any]) -> None:
        self.tokenizer = tokenizer
        self.name: str = tokenizer.name_or_path
        self._today = Date.fromisoformat(date)
        self._arguments = {"date_string": self._today.strftime("%d %b %Y"), **arguments}
        self._own = list(arguments)

    def __call__(self, messages: Messages, source: str, *, add_generation_prompt: bool = False) -> str:
        """Render ``messages`` of the row ``source``.

        Raises:
            ValueError: If the template raises anything.
        """
        template = self._template
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages,
                    chat_template=template,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    **self._arguments,
                )
            )
        except Exception as error:  # a template is a program of somebody else
            roles = ", ".join(f"`{message['role']}`" for message in messages)
            raise ValueError(
                f"The chat template of `{self.name}` should take turns of {roles} ({source}). It raised "
                f"{type(error).__name__}: {error}. Give what it asks for in `template_arguments`, or use "
                "`template='plain'`."
            ) from error

    @cached_property
    def _template(self) -> str:
        if getattr(self.tokenizer, "chat_template", None) is None:
            raise ValueError(
                f"The tokenizer should have a chat template. `{self.name}` has none: use "
                "`Encoding(..., template='plain')`; in a config, "
                f"`encoding: {{tokenizer: {self.name}, template: plain}}`; as arguments of `audit`, "
                "`--encoding lightning_unlearn.Encoding "
                f"--encoding.tokenizer {self.name} --encoding.template plain`."
            )
        template = str(self.tokenizer.get_chat_template(tools=self._arguments.get("tools")))
        if unknown := [name for name in self._own if not re.search(rf"\b{re.escape(name)}\b", template)]:
            raise ValueError(
                f"`template_arguments` should be variables of the chat template of `{self.name}`. It reads no "
                f"{', '.join(f'`{name}`' for name in unknown)}: leave it out."
            )
        return self._with_fixed_date(template)

    def _with_fixed_date(self, template: str) -> str:
        # Some templates ask the clock. Tokens would change from day to day, and cached likelihoods not be found again.
        def literal(call: re.Match[str]) -> str:
            quote, format_ = call.groups()
            return f"{quote}{self._today.strftime(format_)}{quote}"

        fixed = re.sub(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""", literal, template)
        if re.search(r"strftime_now\s*\(", fixed):
            raise ValueError(
                f"The chat template of `{self.name}` should ask for the date as `strftime_now('%d %b %Y')`, to be given the "
                "same one every day. It asks in another way: change `tokenizer.chat_template`, or use `template='plain'`."
            )
        return fixed
