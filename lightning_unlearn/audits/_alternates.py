"""Which answers of other examples could be mistaken for the right one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor

from lightning_unlearn.readouts import Exchange

_ROWS = 512


def choose_alternates(pool: Sequence[Exchange], entities: Sequence[str], *, first: int, count: int) -> list[list[int]]:
    """For each of the ``first`` examples of ``pool``, choose answers of other examples, the most similar questions first.

    An alternate is about another entity, and is another answer. Similarity is the share of token ids that two questions
    have in common. Ties go to the next examples in the pool, which starts again after its end: otherwise the first
    examples would be everybody's alternates.

    Args:
        pool: Question and answer of each example.
        entities: The entity of each example.
        first: How many examples, from the start of ``pool``, get alternates.
        count: Largest number of different answers for each of them.

    Returns:
        Numbers in ``pool``, at most ``count`` for each of the ``first`` examples; none for one without an answer.

    Example:
        >>> texts = [([1, 2], [7]), ([9], [8]), ([1, 2], [6]), ([1, 2], [5])]
        >>> pool = [Exchange(torch.tensor(q), torch.tensor(a)) for q, a in texts]
        >>> choose_alternates(pool, ["Ada", "Bo", "Ada", "Cy"], first=2, count=2)
        [[3, 1], [2, 3]]
    """
    answers = [tuple(exchange.answer.tolist()) for exchange in pool]
    tokens = _token_sets([exchange.question for exchange in pool])
    chosen: list[list[int]] = []
    for start in range(0, first, _ROWS):  # in blocks: all pairs of a large probe would not fit
        alike = _overlaps(tokens[start : min(start + _ROWS, first)], tokens)
        for row, of_row in enumerate(alike, start=start):
            # Rolled so that the row itself comes first; a stable sort then prefers the examples after it.
            order = ((of_row.roll(-row).argsort(descending=True, stable=True) + row) % len(pool)).tolist()
            others: dict[tuple[int, ...], int] = {}
            for other in order if answers[row] else ():
                differs = answers[other] and answers[other] != answers[row] and entities[other] != entities[row]
                if differs:
                    others.setdefault(answers[other], other)
                if len(others) == count:
                    break
            chosen.append(list(islice(others.values(), count)))
    return chosen


def _token_sets(questions: Sequence[Tensor]) -> Tensor:
    """Which tokens occur in each question, ``[n, V]`` of zeros and ones, over the tokens that occur in any."""
    seen = torch.unique(torch.cat(list(questions))) if questions else torch.empty(0)
    sets = torch.zeros(len(questions), len(seen), dtype=torch.float32)
    for row, question in zip(sets, questions, strict=True):
        row[torch.searchsorted(seen, question)] = 1
    return sets


def _overlaps(some: Tensor, others: Tensor) -> Tensor:
    """Tokens in common over tokens in either."""
    common = some @ others.T
    either = some.sum(1, keepdim=True) + others.sum(1) - common
    return common / either.clamp_min(1)
