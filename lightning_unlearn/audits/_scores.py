"""Scores of examples that several processes have seen between them."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_unlearn.runtime import on_every_rank


def in_data_order(scores: Mapping[int, float]) -> list[float]:
    """The scores of all processes by number of the example; each process has to ask, also one without scores.

    Example:
        >>> in_data_order({3: 0.5, 1: 1.0})
        [1.0, 0.5]
    """
    found = {index: score for share in on_every_rank(dict(scores)) for index, score in share.items()}
    return [found[index] for index in sorted(found)]
