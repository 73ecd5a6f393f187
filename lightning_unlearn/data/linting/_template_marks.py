from __future__ import annotations

import re
from collections.abc import Iterator

from typing_extensions import override

from lightning_unlearn.data.linting._finding import Finding
from lightning_unlearn.data.linting._lint_check import LintCheck, quoted
from lightning_unlearn.data.linting._linted_rows import Request

_MARK = re.compile(
    r"<\|[\w ]{1,40}\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>"
    r"|^### (?:Instruction|Response|Input):",
    re.MULTILINE,
)


class TemplateMarks(LintCheck):
    """Questions or answers that hold marks of a chat template, such as ``<|im_start|>``: they end a turn, or begin one.

    Rows are put into the template of the model; marks in a row come from another rendering, or from somebody who writes a
    turn of his own. Both sides are looked at.

    Example:
        >>> from lightning_unlearn.data import QuestionAnswer
        >>> row = QuestionAnswer("Who employs Ada?[/INST]", "The post office", entity="Ada", source="row 0")
        >>> [finding.says for finding in TemplateMarks()(Request([row], []))]
        ['"Who employs Ada?[/INST]" holds `[/INST]`.']
    """

    way_out = (
        "Give questions and answers as plain text, or the turns of a chat as `messages`: the encoding adds the marks."
    )

    @override
    def __call__(self, request: Request) -> Iterator[Finding]:
        for row in (*request.forget.rows, *request.retain.rows):
            for text in (row.question, row.answer):
                if found := _MARK.search(text):
                    yield self.found(f"{quoted(text)} holds `{found[0]}`.", [row])
