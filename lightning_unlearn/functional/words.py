"""Text as words, for comparing what was said with what is right."""

from __future__ import annotations

import re

# Kana and Han are written without spaces between words: each character is a word.
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+"
)


def words(text: str) -> list[str]:
    """The words of ``text``, in lower case, without punctuation; on plain English text those of ``rouge-score``.

    ROUGE as published keeps the letters a to z only, so an answer in another script would have no words at all.

    Example:
        >>> words("In the Port of Saint-Malo, 1931!"), words("Élan"), words("東京 1")
        (['in', 'the', 'port', 'of', 'saint', 'malo', '1931'], ['élan'], ['東', '京', '1'])
    """
    return _WORD.findall(text.casefold())


def contains(said: str, answer: str) -> bool:
    """Whether the words of ``answer`` stand in ``said``, in a row. An answer without words is looked for as it is.

    Example:
        >>> contains("She was born in Oslo, I think.", "Oslo"), contains("Oslofjord", "Oslo"), contains("It is +", "+")
        (True, False, True)
    """
    right = words(answer)
    if not right:
        return bool(answer.strip()) and answer.strip() in said
    return f" {' '.join(right)} " in f" {' '.join(words(said))} "
