from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_unlearn.prediction import IGNORED
from lightning_unlearn.readouts._causal_lm import _labels, _supervised


def answer_tokens(batch: Any) -> list[Tensor]:
    """The supervised tokens of each row of ``batch``, ``[m]``.

    Args:
        batch: As for :class:`CausalLMReadout`.

    Example:
        >>> answer_tokens({"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[-100, 6, 7]])})
        [tensor([6, 7])]
    """
    labels = _labels(batch)
    return [row[which] for row, which in zip(labels, _predicted(batch, labels), strict=True)]


def begun_by(batch: Any, given: Sequence[int]) -> dict[str, Any]:
    """The same rows with the first tokens of each answer given: they are part of the question, and not supervised.

    Args:
        batch: As for :class:`CausalLMReadout`.
        given: How many tokens of each row's answer.

    Example:
        >>> batch = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[-100, 6, 7]])}
        >>> begun_by(batch, [1])["labels"]
        tensor([[-100, -100,    7]])
    """
    labels = _labels(batch)
    first = torch.tensor(list(given), device=labels.device)[:, None]
    return {**batch, "labels": labels.masked_fill(_predicted(batch, labels).cumsum(1) <= first, IGNORED)}


def _predicted(batch: Any, labels: Tensor) -> Tensor:
    """Which tokens are supervised, ``[B, T]`` bool."""
    return F.pad(_supervised(batch, labels), (1, 0))
