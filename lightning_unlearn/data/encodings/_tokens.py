"""Token ids of a rendered row, and which of them are supervised."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from lightning_unlearn.data.encodings._rendered import Rendered
from lightning_unlearn.data.records import MarkedAnswer, QuestionAnswer
from lightning_unlearn.prediction import IGNORED

Labelled = tuple[list[int], list[int]]
"""Token ids, and their labels: -100 where nothing is supervised."""


def whole_labels(
    rendered: Rendered, row: QuestionAnswer, tokenizer: PreTrainedTokenizerBase, *, special: bool
) -> Labelled:
    """Tokens of all that is rendered, supervised from the first one with a character of the answer to the end of its turn.

    Args:
        rendered: Prompt and answer, as the network reads them.
        row: Named in messages.
        tokenizer: Any, if it does not merge the end of the prompt with the beginning of the answer; else a fast one.
        special: Whether the tokenizer adds its special tokens; false for a chat, whose template has written them already.

    Raises:
        ValueError: If nothing says where the answer begins.
    """
    prompt, ids = _ids(rendered.before, tokenizer, special), _ids(rendered.text, tokenizer, special)
    start = len(prompt) if ids[: len(prompt)] == prompt else _merged_start(rendered, row, tokenizer, special)
    if not rendered.end and tokenizer.eos_token_id is not None:
        ids = [*ids, tokenizer.eos_token_id]
    return ids, [IGNORED] * start + ids[start:]


def marked_labels(
    rendered: Rendered, row: MarkedAnswer, tokenizer: PreTrainedTokenizerBase, *, special: bool
) -> Labelled:
    """The same tokens, supervised in the parts that ``row`` marks; the end of its turn is read, but not supervised.

    A token on the border of a marked part belongs to it if it holds one of its characters, so nothing that must go stays
    unmarked. White space at the ends of the part does not count: many tokenizers put the space before a word into the
    word's token, and the next word would be marked too. A token with a character that is hidden is not supervised.

    Args:
        rendered: Prompt and answer, as the network reads them.
        row: What is marked, in characters of the answer.
        tokenizer: A fast one.
        special: As for :func:`whole_labels`.

    Raises:
        ValueError: If the tokenizer gives no positions of its tokens in the text, or the answer is not in the text.
    """
    text = rendered.text + (rendered.after if rendered.end else "")
    positions = _positions(rendered, row)
    marked, hidden = (_is_marked(text, positions, spans) for spans in (row.spans, row.hidden))
    ids, offsets = _ids(text, tokenizer, special), _offsets(text, tokenizer, special)
    labels = [
        token if any(marked[slice(*at)]) and not any(hidden[slice(*at)]) else IGNORED
        for token, at in zip(ids, offsets, strict=False)
    ]
    if not rendered.end and tokenizer.eos_token_id is not None:
        return [*ids, tokenizer.eos_token_id], [*labels, IGNORED]
    return ids, labels


def _ids(text: str, tokenizer: PreTrainedTokenizerBase, special: bool) -> list[int]:
    encoded = tokenizer(text, add_special_tokens=special, return_special_tokens_mask=special)
    ids: list[int] = encoded["input_ids"]
    # Encoders end every text with a token of their own; here it would stand between the prompt and its answer.
    while special and ids and encoded["special_tokens_mask"][len(ids) - 1]:
        ids = ids[:-1]
    return ids


def _offsets(text: str, tokenizer: PreTrainedTokenizerBase, special: bool) -> list[tuple[int, int]]:
    """First and last character of each token."""
    if not tokenizer.is_fast:
        raise ValueError(
            "The tokenizer should be a fast one, which gives the positions of its tokens in the text. Found "
            f"`{type(tokenizer).__name__}`."
        )
    offsets: list[tuple[int, int]] = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)[
        "offset_mapping"
    ]
    return offsets


def _merged_start(rendered: Rendered, row: QuestionAnswer, tokenizer: PreTrainedTokenizerBase, special: bool) -> int:
    """The first token with a character of the answer, where the tokenizer merges across the border."""
    if not tokenizer.is_fast:
        raise ValueError(
            f"The tokens of {row.source} should begin with those of its prompt, to know where its answer begins. "
            f"`{type(tokenizer).__name__}` merges the end of {rendered.before[-20:]!r} with the answer, and gives no "
            "positions of its tokens in the text: use a fast tokenizer, or the other `template`."
        )
    offsets: Sequence[tuple[int, int]] = _offsets(rendered.text, tokenizer, special)
    return next(i for i, (_, end) in enumerate(offsets) if end > len(rendered.before))


def _positions(rendered: Rendered, row: MarkedAnswer) -> dict[int, int]:
    """Where each character of ``row.answer`` stands in the text; the template may have changed white space."""
    given, written = _letters(row.answer), _letters(rendered.answer)
    if [letter for _, letter in given] != [letter for _, letter in written]:
        raise ValueError(
            f"The chat template should leave the answer of {row.source} as it is, or its spans cannot be found. Found "
            f"{rendered.answer!r}. Use `template='plain'`."
        )
    return {i: len(rendered.before) + j for (i, _), (j, _) in zip(given, written, strict=True)}


def _letters(text: str) -> list[tuple[int, str]]:
    return [(i, letter) for i, letter in enumerate(text) if not letter.isspace()]


def _is_marked(text: str, positions: dict[int, int], spans: Sequence[tuple[int, int]]) -> list[bool]:
    """Whether each character of ``text`` is marked; white space at the ends of a marked part is not."""
    marked = [False] * len(text)
    for first, end in spans:
        part = [positions[i] for i in range(first, end) if i in positions]
        for i in range(part[0], part[-1] + 1) if part else ():
            marked[i] = True
    return marked
