"""Scores of examples that were shared out among processes."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_unlearn.runtime import on_every_rank


def in_data_order(scores: Mapping[int, float]) -> list[float]:
    """The scores of all processes, in the order of the examples' numbers. Every process must call it, also without scores.

    Example:
        >>> in_data_order({3: 0.5, 1: 1.0})
        [1.0, 0.5]
    """
    by_number = {index: score for share in on_every_rank(dict(scores)) for index, score in share.items()}
    return [by_number[index] for index in sorted(by_number)]
