"""Pairs of nearly equal texts in two large sets, without comparing each with each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence

Parts = Sequence[Hashable]
"""A text as its words, or runs of them; how often each comes does not count."""


def near_duplicates(
    texts: Sequence[Parts], others: Sequence[Parts], least: float, most: int = 50
) -> Iterator[tuple[int, int, float]]:
    r"""Pairs of one of ``texts`` and one of ``others`` whose weighted Jaccard similarity is at least ``least``.

    .. math:: s(a, b) = \frac{\sum_{t \in a \cap b} w_t}{\sum_{t \in a \cup b} w_t}, \quad w_t = \log \frac{1 + N}{N_t}

    for :math:`N_t` of all :math:`N` texts with part :math:`t`. If two texts are so alike, they share one of their rarest
    parts: those whose weights make up more than the share ``1 - least`` of each. So only texts that share such a part are
    compared. A part that more than ``most`` of ``others`` have among their rarest leads to no comparison, so that the cost
    is linear in the number of texts; a pair that shares no rarer one is missed.

    Args:
        texts: Some.
        others: With these they are compared.
        least: Similarity, above 0 and at most 1.
        most: Comparisons per rare part.

    Returns:
        Numbers of both, and how alike they are; in order.

    Example:
        >>> [(i, j) for i, j, alike in near_duplicates(["abc", "xyz"], ["abq", "yxz"], least=0.6)]
        [(1, 1)]

    References:
        Chaudhuri, Ganti and Kaushik, *A Primitive Operator for Similarity Joins in Data Cleaning*, ICDE 2006, for the prefix
        filter.
    """
    ranked, weights = _by_rarity(texts, others)
    first, second = ranked[: len(texts)], ranked[len(texts) :]
    index: dict[int, list[int]] = {}
    for number, other in enumerate(second):
        for part in _rarest(other, weights, least):
            index.setdefault(part, []).append(number)
    sets = [frozenset(other) for other in second]
    for number, text in enumerate(first):
        found = (index.get(part, []) for part in _rarest(text, weights, least))
        for place in sorted({place for places in found if len(places) <= most for place in places}):
            alike = _similarity(frozenset(text), sets[place], weights)
            if alike >= least:
                yield number, place, alike


def _by_rarity(*sides: Sequence[Parts]) -> tuple[list[list[int]], list[float]]:
    """Each text as numbers of its parts, the rarest first, and the weight of each number."""
    numbers: dict[Hashable, int] = {}
    # In order of appearance, so that ties are the same in every process; strings are hashed differently in each.
    texts = [{numbers.setdefault(part, len(numbers)) for part in text} for side in sides for text in side]
    having = Counter(number for text in texts for number in text)
    order = sorted(range(len(numbers)), key=having.__getitem__)
    rank = dict(zip(order, range(len(order)), strict=True))
    weights = [math.log((1 + len(texts)) / having[number]) for number in order]
    return [sorted(rank[number] for number in text) for text in texts], weights


def _rarest(text: Sequence[int], weights: Sequence[float], least: float) -> Iterator[int]:
    """The shortest beginning without which a text cannot reach ``least`` with any other."""
    left = sum(weights[part] for part in text)
    enough = least * left
    for part in text:
        if left < enough:
            return
        yield part
        left -= weights[part]


def _similarity(one: frozenset[int], other: frozenset[int], weights: Sequence[float]) -> float:
    shared = sum(weights[part] for part in one & other)
    return shared / sum(weights[part] for part in one | other) if shared else 0.0
