"""Values sorted into levels by thresholds between them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.functional.settings import check_finite


def check_ascending(name: str, thresholds: Sequence[Any], count: int) -> None:
    """Refuse what is not ``count`` finite numbers, each larger than the one before.

    Example:
        >>> check_ascending("thresholds", [2.0, 1.0], 2)
        Traceback (most recent call last):
        ValueError: `thresholds` should be 2 ascending numbers, one between each two levels. Found `thresholds = [2.0, 1.0]`.
    """
    for threshold in thresholds:
        check_finite(name, threshold)
    if len(thresholds) != count or any(a >= b for a, b in pairwise(thresholds)):
        raise ValueError(
            f"`{name}` should be {count} ascending numbers, one between each two levels. Found `{name} = {thresholds!r}`."
        )


def levels(values: Tensor, thresholds: Sequence[float]) -> Tensor:
    """How many thresholds each value has reached, of the shape of ``values``.

    Example:
        >>> levels(torch.tensor([0.0, 5.99, 6.0, 11.99, 12.0, 50.0]), [6.0, 12.0])
        tensor([0, 0, 1, 1, 2, 2])
    """
    return torch.bucketize(values, values.new_tensor(list(thresholds)), right=True)


def even_thresholds(values: Tensor, count: int) -> list[float]:
    """The quantiles that give each of ``count`` levels equally many of the values ``[n]``.

    Example:
        >>> even_thresholds(torch.tensor([3.0, 1.0, 2.0]), 2)
        [2.0]
    """
    shares = torch.arange(1, count, dtype=torch.float64) / count
    found: list[float] = torch.quantile(values.double(), shares.to(values.device)).tolist()
    return found


def place_among(value: float, others: Sequence[float]) -> float:
    """The share of the others, and of the value itself, that it is above; equal ones count half.

    Example:
        >>> place_among(3.0, [1.0, 2.0, 4.0]), place_among(3.0, [])
        (0.625, 0.5)
    """
    below = sum(other < value for other in others)
    equal = sum(other == value for other in others) + 1  # and itself
    return (below + equal / 2) / (len(others) + 1)
