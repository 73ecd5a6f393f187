from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from typing_extensions import override

from lightning_unlearn.data.linting._finding import Finding
from lightning_unlearn.data.linting._lint_check import LintCheck, quoted
from lightning_unlearn.data.linting._linted_rows import Request
from lightning_unlearn.functional.text import visible

_ALIKE = ("LATIN", "CYRILLIC", "GREEK")
"""Scripts with letters that look the same."""


class HiddenCharacters(LintCheck):
    r"""Characters that nobody sees, and words of two alphabets: a tokenizer reads something else than you do.

    Zero-width spaces, changes of direction and control characters hide a duplicate, or a name; so does a Cyrillic letter
    in a Latin word. Both sides are looked at.

    Example:
        >>> from lightning_unlearn.data import QuestionAnswer
        >>> row = QuestionAnswer("Who employs A\u200bda?", "The post office", entity="Ada", source="row 0")
        >>> [finding.says for finding in HiddenCharacters()(Request([row], []))]
        ['"Who employs A\\u200bda?" holds characters that are not seen.']
    """

    way_out = "Remove these characters, or write the word in one alphabet."

    @override
    def __call__(self, request: Request) -> Iterator[Finding]:
        for row in (*request.forget.rows, *request.retain.rows):
            for text in (row.question, row.answer):
                if text.isascii() and text.isprintable():
                    continue
                if (seen := visible(text, keep="\n\t\r")) != text:
                    yield self.found(f"{quoted(seen)} holds characters that are not seen.", [row])
                elif mixed := [word for word in re.findall(r"\w+", text) if _is_mixed(word)]:
                    yield self.found(f"{quoted(mixed[0])} is written in letters of two alphabets.", [row])


def _is_mixed(word: str) -> bool:
    if word.isascii():
        return False
    scripts = {unicodedata.name(letter, "").partition(" ")[0] for letter in word if letter.isalpha()}
    return len(scripts.intersection(_ALIKE)) > 1
