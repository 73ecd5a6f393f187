from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.engine import gathered, sharded_like
from lightning_unlearn.functional.settings import check_between, check_finite, check_whole


class Choice(ABC):
    """Makes a mask from scores: of whole tensors, if scores are scalars, and otherwise of elements."""

    def __call__(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Choose.

        Args:
            scores: By name, of a :class:`Selector`.

        Returns:
            For each name a boolean tensor of the shape of its scores, sharded as they are.

        Raises:
            ValueError: If some scores are scalars and others are not, or some are NaN.
        """
        # They cannot be ranked together: one tensor would have a single score, another a score for each of its elements.
        if len({not score.dim() for score in scores.values()}) > 1:
            scalars = [name for name, score in scores.items() if not score.dim()]
            raise ValueError(
                f"Scores should be one number for each tensor, or one for each element. Found both: `{scalars[0]}` has one "
                "number. Take the mean of the others over their elements."
            )
        # All scores on every process: a share of all can only be taken over whole parameters, not over shards.
        flat = torch.cat([gathered(score).detach().float().flatten() for score in scores.values()] or [torch.empty(0)])
        if bool(flat.isnan().any()):
            raise ValueError(f"Scores should be numbers. Found {int(flat.isnan().sum())} NaN among {len(flat)}.")
        parts = self.of(flat).split([score.numel() for score in scores.values()])
        return {
            name: sharded_like(part.view(score.shape), score)
            for part, (name, score) in zip(parts, scores.items(), strict=True)
        }

    @abstractmethod
    def of(self, scores: Tensor) -> Tensor:
        """Which of all ``scores``, ``[n]``, are chosen: ``[n]``, boolean."""


class TopShare(Choice):
    """The highest scores, as many as make up a share of all; rounded up. Of equal scores the first ones.

    Args:
        share: Between 0 and 1.

    Example:
        >>> TopShare(0.5)({"a": torch.tensor(1.0), "b": torch.tensor(3.0)})
        {'a': tensor(False), 'b': tensor(True)}
    """

    def __init__(self, share: float) -> None:
        check_between("share", share, 0, 1)
        self.share = share

    @override
    def of(self, scores: Tensor) -> Tensor:
        # Rounding of the product should not choose one more: 0.1 * 30 is 3.0000000000000004, and 3 is meant.
        return _highest(scores, math.ceil(self.share * len(scores) - 1e-9))


class TopNumber(Choice):
    """So many of the highest scores; all, if there are fewer. Of equal scores the first ones.

    Args:
        number: How many.

    Example:
        >>> TopNumber(2)({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0])})
        {'a': tensor([ True, False]), 'b': tensor([True])}
    """

    def __init__(self, number: int) -> None:
        check_whole("number", number, least=0)
        self.number = number

    @override
    def of(self, scores: Tensor) -> Tensor:
        return _highest(scores, self.number)


class TopLayers(Choice):
    """All of the highest scores, so many different ones: whole layers, if all tensors of a layer have one score.

    As of :class:`LastLayers`, :class:`LayerAblation` and :class:`CausalTrace`, where :class:`TopNumber` would count tensors.

    Args:
        number: How many different scores; all, if there are fewer.

    Example:
        >>> TopLayers(1)({"a": torch.tensor(3.0), "b": torch.tensor(3.0), "c": torch.tensor(1.0)})
        {'a': tensor(True), 'b': tensor(True), 'c': tensor(False)}
    """

    def __init__(self, number: int) -> None:
        check_whole("number", number)
        self.number = number

    @override
    def of(self, scores: Tensor) -> Tensor:
        levels = scores.unique()  # ascending
        return scores >= levels[-self.number :][0] if len(levels) else scores.bool()


class AtLeast(Choice):
    """Scores of a threshold or more.

    Args:
        threshold: The lowest score that is chosen.

    Example:
        >>> AtLeast(2.0)({"a": torch.tensor([3.0, 1.0])})
        {'a': tensor([ True, False])}
    """

    def __init__(self, threshold: float) -> None:
        check_finite("threshold", threshold)
        self.threshold = threshold

    @override
    def of(self, scores: Tensor) -> Tensor:
        return scores >= self.threshold


def _highest(scores: Tensor, number: int) -> Tensor:
    # Stable: an unstable sort may break ties in another way on another process, and masks would differ.
    first = scores.argsort(descending=True, stable=True)[:number]
    return torch.zeros_like(scores, dtype=torch.bool).index_fill_(0, first, True)
