"""Whether text goes round in circles."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

_WEIGHTS = {2: 1 / 3, 3: 2 / 3}


def ngram_entropy(tokens: Sequence[str]) -> float:
    r"""Entropy of the pairs and triples of words, as a share of the largest possible one; in [0, 1].

    .. math:: \tfrac{1}{3} \frac{H_2}{\log_2 N_2} + \tfrac{2}{3} \frac{H_3}{\log_2 N_3}

    where :math:`H_n` is the entropy in bits of the :math:`N_n` n-grams. It is 1 if none comes twice, and 0 if all are one
    and the same, or there are no words. A single pair or triple repeats nothing, and counts as 1.

    It finds loops, such as "the the the". It does not find nonsense in ever new words.

    Args:
        tokens: The words of a text.

    Example:
        >>> ngram_entropy("she writes about the sea".split()), ngram_entropy(["the"] * 9)
        (1.0, 0.0)

    References:
        The weights are those of "generation entropy" in Meng et al., `ROME <https://arxiv.org/abs/2202.05262>`_, 2022;
        divided by the largest possible value here, since short answers would otherwise look worse than long ones.
    """
    return sum(weight * _share_of_entropy(tokens, n) for n, weight in _WEIGHTS.items()) if tokens else 0.0


def _share_of_entropy(tokens: Sequence[str], n: int) -> float:
    grams = Counter(zip(*(tokens[start:] for start in range(n)), strict=False))
    total = grams.total()
    if total <= 1:
        return 1.0
    entropy = math.log2(total) - sum(count * math.log2(count) for count in grams.values()) / total
    return entropy / math.log2(total)
