"""What ends a turn, of all that a chat template writes after an answer."""

from __future__ import annotations

import re
from collections.abc import Callable

from transformers import PreTrainedTokenizerBase


def end_of_turn(after: str, between: Callable[[], str | None], tokenizer: PreTrainedTokenizerBase) -> str:
    """The part of ``after`` that a network should write to end its answer; empty if there is none.

    Line breaks after it do not count: generation has stopped before them.

    Args:
        after: What the template writes after the last answer of a chat.
        between: What it writes after an answer that is followed by another question, if it can.
        tokenizer: Whose special tokens may end a turn.
    """
    if not after.strip():
        # Some vocabularies (RWKV's) end a turn with a token of line breaks.
        return after if after and after in _special(tokenizer) else ""
    following = between()
    # What comes after the last answer alone is either another end (`<|return|>`), or no end at all: a header for the
    # next answer, or a second end behind the first.
    if following is not None and not following.startswith(after.rstrip()):
        after = _up_to_eos(after, tokenizer) or _shared(after, following, tokenizer)
    return _first_end(after, tokenizer)


def _up_to_eos(after: str, tokenizer: PreTrainedTokenizerBase) -> str:
    eos = tokenizer.eos_token
    return after[: after.index(eos) + len(eos)] if eos and eos in after else ""


def _shared(after: str, following: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The common beginning, less a special token that is only begun."""
    same = [a == b for a, b in zip(after, following, strict=False)]
    shared = after[: [*same, False].index(False)]
    begun = [m.start() for m in _pattern(tokenizer).finditer(after) if m.start() < len(shared) < m.end()]
    return shared[: begun[0]] if begun else shared


def _first_end(after: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Up to the first special token and what is joined to it, not beyond the ``eos_token``; all if there is none."""
    special = _pattern(tokenizer).search(after)
    if special is None:
        return after.rstrip()
    joined = re.compile(r"\S*").match(after, special.end())
    assert joined is not None
    end = after[: joined.end()]
    return _up_to_eos(end, tokenizer) or end


def _special(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return {text for text in added | set(tokenizer.all_special_tokens) if text}


def _pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    longest_first = sorted(_special(tokenizer), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
