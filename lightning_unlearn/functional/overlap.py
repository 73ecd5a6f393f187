"""How much of some texts stands in others: words by words."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

_ALONE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Japanese
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # Chinese
    "\uac00-\ud7a3"  # Korean, whose particles are written to the word
)
"""Letters of scripts that do not set off a name by spaces."""

ONE_WORD = re.compile(rf"[^\W{_ALONE}]+|(?=\w)[{_ALONE}]")
"""A word or a number; each letter by itself in scripts that do not set off a name by spaces."""

Words = Sequence[Hashable]
"""A text as words, or as ids of tokens."""


def words_of(text: str) -> tuple[str, ...]:
    """The words and numbers of a text, in small letters, without punctuation.

    Chinese, Japanese, Korean, Thai, Lao, Burmese and Khmer letters are a word each: a name is found by its letters.

    Example:
        >>> words_of("Ada's post-office, 1912!")
        ('ada', 's', 'post', 'office', '1912')
        >>> words_of("AdaはPythonが好き。")
        ('ada', 'は', 'python', 'が', '好', 'き')
    """
    return tuple(ONE_WORD.findall(text.casefold()))


def stands_without_spaces(text: str) -> bool:
    """Whether a text has letters of scripts that do not set off a name by spaces.

    Example:
        >>> stands_without_spaces("田中"), stands_without_spaces("Tanaka")
        (True, False)
    """
    return re.search(f"[{_ALONE}]", text) is not None


def ngrams(words: Words, n: int) -> set[tuple[Hashable, ...]]:
    """All runs of ``n`` words; none of a shorter text."""
    return {tuple(words[start : start + n]) for start in range(len(words) - n + 1)}


def contained_share(parts: Sequence[Words], texts: Sequence[Words]) -> float:
    """The share of ``parts`` that stand in one of ``texts`` word by word. Empty parts do not count.

    Example:
        >>> contained_share([("post", "office"), ("mill",)], [("the", "post", "office", "closes")])
        0.5
    """
    parts = [tuple(part) for part in parts if part]
    runs: set[tuple[Hashable, ...]] = set()
    for length in {len(part) for part in parts}:
        wanted = {part for part in parts if len(part) == length}
        runs |= {run for text in texts for run in ngrams(text, length) & wanted}
    return sum(part in runs for part in parts) / len(parts) if parts else 0.0


def ngram_share(wanted: Sequence[Words], texts: Sequence[Words], n: int = 8) -> float:
    """The share of the distinct runs of ``n`` words in ``wanted`` that stand in ``texts``, too; 0 if there are none.

    Example:
        >>> ngram_share([("a", "b", "c")], [("x", "a", "b")], n=2)
        0.5
    """
    runs = {run for text in wanted for run in ngrams(text, n)}
    there = {run for text in texts for run in ngrams(text, n)}
    return len(runs & there) / len(runs) if runs else 0.0


def similarities(text: Words, others: Sequence[Words]) -> Tensor:
    r"""How alike ``text`` and each of ``others`` are by Levenshtein's distance over words, ``[N]`` from 0 to 1.

    .. math:: 1 - d(a, b) / \max(|a|, |b|)

    All of ``others`` are compared at once: one row of the table of prefixes for each word of ``text``.

    Example:
        >>> similarities(("who", "employs", "ada"), [("who", "employs", "bo"), ("who", "employs", "ada"), ()])
        tensor([0.6667, 1.0000, 0.0000])
    """
    numbers: dict[Hashable, int] = {}
    own, *rows = ([numbers.setdefault(word, len(numbers)) for word in words] for words in (text, *others))
    lengths = torch.tensor([len(row) for row in rows])
    width = int(lengths.max()) if rows else 0
    table = torch.full((len(rows), width), -1)
    for place, row in enumerate(rows):
        table[place, : len(row)] = torch.tensor(row, dtype=torch.int64)
    steps = torch.arange(width + 1)
    distances = steps.expand(len(rows), -1)
    for count, word in enumerate(own, start=1):
        changed = torch.minimum(distances[:, :-1] + (table != word), distances[:, 1:] + 1)
        start = torch.full((len(rows), 1), count)
        # An insertion costs one more than the cell on the left: a running minimum of the cells less their column.
        distances = torch.cummin(torch.cat([start, changed], 1) - steps, 1).values + steps
    distance = distances.gather(1, lengths[:, None]).squeeze(1)
    longest = lengths.clamp_min(len(own))
    alike = 1 - distance.float() / longest.clamp_min(1)
    return torch.where(longest > 0, alike, torch.ones_like(alike))
