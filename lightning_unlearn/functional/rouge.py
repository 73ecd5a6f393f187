"""ROUGE-L: what two texts have in common, word for word in the same order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from lightning_unlearn.functional.compat import Compat
from lightning_unlearn.functional.stemming import stem
from lightning_unlearn.functional.words import words

_STEMMED_FROM = 4
"""Shorter words are left alone, as by ``rouge-score``."""


class RougeScores(NamedTuple):
    """ROUGE of what was said, each in [0, 1].

    Args:
        recall: Share of the right answer's words that were said.
        precision: Share of what was said that is right.
        f: Harmonic mean of both.
    """

    recall: float
    precision: float
    f: float


def rouge_l(said: Sequence[str], right: Sequence[str]) -> RougeScores:
    r"""ROUGE-L of words: the longest common subsequence, over the number of words of either. In float64.

    All three are 0 where nothing was said, or nothing is right.

    Example:
        >>> rouge_l("in the port of oslo".split(), "the old port of oslo".split()).recall
        0.8

    References:
        Lin, `ROUGE <https://aclanthology.org/W04-1013>`_, 2004.
    """
    if not said or not right:
        return RougeScores(0.0, 0.0, 0.0)
    common = longest_common(said, right)
    recall, precision = common / len(right), common / len(said)
    return RougeScores(recall, precision, 2 * recall * precision / (recall + precision) if common else 0.0)


def longest_common(some: Sequence[str], others: Sequence[str]) -> int:
    """Length of the longest common subsequence.

    Example:
        >>> longest_common("abcbdab", "bdcaba")
        4
    """
    best = [0] * (len(others) + 1)
    for one in some:
        before = best
        best = [0]
        for place, other in enumerate(others):
            best.append(before[place] + 1 if one == other else max(before[place + 1], best[place]))
    return best[-1]


def stemmed_words(text: str, compat: Compat | None = None) -> list[str]:
    """The words of a text in lower case, without punctuation, those of more than three letters as stems.

    Args:
        text: Any text.
        compat: ``"open-unlearning"`` keeps the letters a to z and digits only, as ``rouge-score`` does: "José" is "jos"
            there, and a text in another script has no words.

    Example:
        >>> stemmed_words("She writes novels, José."), stemmed_words("José", compat="open-unlearning")
        (['she', 'write', 'novel', 'josé'], ['jos'])
    """
    found = words(text) if compat is None else re.findall(r"[a-z0-9]+", text.lower())
    return [stem(word) if len(word) >= _STEMMED_FROM else word for word in found]
