"""Labels of answers that are supervised in some spans of their text only."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from lightning_unlearn.data.records import MarkedAnswer
from lightning_unlearn.prediction import IGNORED


def marked_labels(
    text: str, row: MarkedAnswer, tokenizer: PreTrainedTokenizerBase, *, special: bool
) -> tuple[list[int], list[int]]:
    """Tokens of ``text`` as a whole, and their labels: -100 outside the parts that ``row`` marks.

    A token on the border of a marked part belongs to it if it holds one of its characters, so nothing that must go stays
    unmarked. White space at the ends of the part does not count: many tokenizers put the space before a word into the
    word's token, and the next word would be marked too.

    Args:
        text: Prompt and answer, as the network reads them.
        row: What is marked, in characters of the answer.
        tokenizer: A fast one.
        special: Whether the tokenizer adds its special tokens; false for a chat, whose template has written them already.

    Raises:
        ValueError: If the tokenizer gives no positions of its tokens in the text, or the answer is not in the text.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            "The tokenizer should be a fast one, which gives the positions of its tokens in the text. Found "
            f"`{type(tokenizer).__name__}`."
        )
    encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    marked = _is_marked(text, row)
    return ids, [token if any(marked[slice(*at)]) else IGNORED for token, at in zip(ids, offsets, strict=True)]


def _is_marked(text: str, row: MarkedAnswer) -> list[bool]:
    """Whether each character of ``text`` is marked; white space at the ends of a marked part is not."""
    start = text.rfind(row.answer)  # from the right: a question may quote its answer, which stands last
    if start < 0:
        raise ValueError(
            f"The chat template should leave the answer of {row.source} as it is, or its spans cannot be found. Found "
            f"{text!r}: some templates drop what was thought. Use `template='plain'`."
        )
    marked = [False] * len(text)
    for first, end in row.spans:
        part = row.answer[first:end]
        begins = start + first + len(part) - len(part.lstrip())
        for i in range(begins, begins + len(part.strip())):
            marked[i] = True
    return marked
