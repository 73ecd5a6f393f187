from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.overlap import similarities, words_of


class Similarity(ABC):
    """How alike two texts are. A new one is a subclass with :meth:`__call__`; YAML builds it by its ``class_path``."""

    @abstractmethod
    def __call__(self, texts: Sequence[str], targets: Sequence[str]) -> Tensor:
        """How alike each of ``texts`` is to each of ``targets``, ``[N, M]``; larger is more alike."""

    def __repr__(self) -> str:
        """The class: it has no settings, if a subclass does not say otherwise."""
        return f"{type(self).__name__}()"


class Levenshtein(Similarity):
    """By the form: the share of words that need no change, :func:`~lightning_unlearn.functional.overlap.similarities`.

    Example:
        >>> Levenshtein()(["Who employs Bo?", "Where is it?"], ["Who employs Ada?"])
        tensor([[0.6667],
                [0.0000]])
    """

    @override
    def __call__(self, texts: Sequence[str], targets: Sequence[str]) -> Tensor:
        others = [words_of(text) for text in texts]
        columns = [similarities(words_of(target), others) for target in targets]
        return torch.stack(columns, 1) if columns else torch.zeros(len(texts), 0)


class TfIdf(Similarity):
    r"""By the words that few texts have: the cosine of their weights.

    .. math:: w_{d, t} = n_{d, t} \left( \log \frac{1 + N}{1 + N_t} + 1 \right)

    over words, for :math:`n_{d, t}` occurrences of word :math:`t` in text :math:`d`, and :math:`N_t` of all :math:`N` texts
    with it. These are the weights of scikit-learn's default.

    Example:
        >>> alike = TfIdf()(["the post office", "the mill"], ["the office of Ada"])
        >>> bool(alike[0, 0] > alike[1, 0] > 0)
        True
    """

    @override
    def __call__(self, texts: Sequence[str], targets: Sequence[str]) -> Tensor:
        counts = [Counter(words_of(text)) for text in (*texts, *targets)]
        having = Counter(word for count in counts for word in count)
        numbers = {word: number for number, word in enumerate(having)}
        rare = {word: math.log((1 + len(counts)) / (1 + n)) + 1 for word, n in having.items()}
        size = len(numbers)
        first, second = (_unit_rows(some, numbers, rare, size) for some in (counts[: len(texts)], counts[len(texts) :]))
        cosines: Tensor = torch.sparse.mm(first, second.to_dense().T)
        return cosines


def _unit_rows(counts: Sequence[Counter[str]], numbers: dict[str, int], rare: dict[str, float], size: int) -> Tensor:
    """The weights of each text, of length 1, as a sparse ``[texts, words]``."""
    places, values = [], []
    for row, count in enumerate(counts):
        weights = {word: n * rare[word] for word, n in count.items()}
        length = math.hypot(*weights.values())
        places += [(row, numbers[word]) for word in weights]
        values += [weight / length for weight in weights.values()]
    indices = torch.tensor(places, dtype=torch.int64).reshape(-1, 2).T
    return torch.sparse_coo_tensor(
        indices, torch.tensor(values, dtype=torch.float32), (len(counts), size), check_invariants=True
    )
