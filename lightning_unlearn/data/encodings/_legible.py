"""Whether tokens still say what the text said."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from lightning_unlearn.data.records import QuestionAnswer


def altered_part(ids: Sequence[int], row: QuestionAnswer, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Say what of the question or the answer is not in ``ids``; None if both are.

    White space, case and the spelling of a character in Unicode do not count.

    Raises:
        ValueError: If the tokenizer knows no letter of one of them: all such texts would be the same.
    """
    read = _letters(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
    for name, text in (("question", row.question), ("answer", row.answer)):
        if _letters(text) not in read:
            as_read = _as_read(text, tokenizer)
            if _words(text) and not _words(as_read):
                raise ValueError(
                    f"The tokenizer should know the letters of the {name} of {row.source}. "
                    f"`{tokenizer.name_or_path}` knows none of {text[:60]!r}: use one that was made for this script."
                )
            return f"the {name} of {row.source}, {text[:60]!r}, is read as {as_read[:60]!r}"
    return None


def _as_read(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    ids = [i for i in tokenizer(text, add_special_tokens=False)["input_ids"] if i != tokenizer.unk_token_id]
    read: str = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return read


def _letters(text: str) -> str:
    normal = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in normal if not c.isspace() and unicodedata.category(c)[0] != "C")


def _words(text: str) -> str:
    return "".join(c for c in _letters(text) if c.isalnum())
