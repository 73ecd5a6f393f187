"""What ends a turn, of all that a chat template writes after an answer."""

from __future__ import annotations

import re

from transformers import PreTrainedTokenizerBase


def end_of_turn(after: str, following: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """What a network should write to end its answer; empty if the template says nothing of it.

    Line breaks after it do not count: generation has stopped before them. Where nothing follows the last answer of a chat,
    its end is the special token that follows an answer before another question, even if it begins that question.

    Args:
        after: What the template writes after the last answer of a chat.
        following: What it writes after an answer that is followed by another question; empty if there can be none.
        tokenizer: Whose special tokens may end a turn.
    """
    if not after.strip():
        return _begins_special(after, tokenizer) or _begins_special(following, tokenizer)
    # What comes after the last answer alone is either another end (`<|return|>`), or no end at all: a header for the
    # next answer, or a second end behind the first.
    if following and not following.startswith(after.rstrip()):
        after = _up_to_eos(after, tokenizer) or _shared(after, following, tokenizer)
    return _first_end(after, tokenizer)


def _begins_special(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The special token at the beginning of ``text``, which may be white space itself (RWKV's), or stand behind some."""
    first = _pattern(tokenizer).search(text)
    if first is None or first.group() == tokenizer.bos_token or text[: first.start()].strip():
        return ""
    return text[: first.end()]


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
