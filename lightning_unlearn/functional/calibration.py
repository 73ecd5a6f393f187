"""Does a model know how often it is right? Sums by bins of confidence, so that whole clusters can be drawn again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def bins_by_cluster(confidence: Tensor, hit: Tensor, clusters: Sequence[str], bins: int) -> Tensor:
    """For each cluster and each bin of confidence: how many rows, the sum of their confidences, and how many were right.

    Args:
        confidence: Probability of what was said, ``[n]`` in ``[0, 1]``.
        hit: Whether it was right, ``[n]``.
        clusters: The cluster of each row.
        bins: Number of bins of equal width; a bin holds its upper end.

    Returns:
        ``[C, bins, 3]`` float64.

    Example:
        >>> bins_by_cluster(torch.tensor([0.9, 0.8]), torch.tensor([1.0, 0.0]), ["a", "a"], bins=2)[0, 1]
        tensor([2.0000, 1.7000, 1.0000], dtype=torch.float64)
    """
    number = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    of_row = torch.tensor([number[name] for name in clusters], dtype=torch.int64)
    confidence = confidence.double()
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    sums = torch.zeros(len(number) * bins, 3, dtype=torch.float64)
    values = torch.stack([torch.ones_like(confidence), confidence, hit.double()], dim=1)
    return sums.index_add(0, of_row * bins + place, values).view(len(number), bins, 3)


def calibration_errors(sums: Tensor) -> Tensor:
    r"""Expected calibration error.

    .. math:: \sum_b \frac{n_b}{n} \, \bigl| \operatorname{acc}_b - \operatorname{conf}_b \bigr|

    Args:
        sums: Rows, confidences and hits of each bin, ``[..., bins, 3]``.

    Returns:
        ``[...]``.

    Example:
        >>> calibration_errors(torch.tensor([[[2.0, 1.7, 1.0]]]))
        tensor([0.3500])

    References:
        Guo et al., `On Calibration of Modern Neural Networks <https://arxiv.org/abs/1706.04599>`_, 2017.
    """
    return (sums[..., 2] - sums[..., 1]).abs().sum(-1) / sums[..., 0].sum(-1)


def resampled_calibration_errors(sums: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Errors of samples of clusters, drawn with replacement, ``[count]`` float64, for percentiles.

    Args:
        sums: From :func:`bins_by_cluster`, ``[C, bins, 3]``.
        count: Number of samples.
        generator: Where randomness comes from.

    Example:
        >>> resampled_calibration_errors(torch.tensor([[[2.0, 1.7, 1.0]]]).double(), 2, torch.Generator())
        tensor([0.3500, 0.3500], dtype=torch.float64)
    """
    size = len(sums)
    drawn = torch.randint(size, (count, size), generator=generator)
    weights = torch.zeros(count, size, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(count, size).double())
    return calibration_errors(torch.einsum("sc,cbk->sbk", weights, sums))
