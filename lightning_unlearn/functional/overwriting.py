"""Is an answer gone, or written inside a network and overwritten at its end?"""

from __future__ import annotations

import torch
from torch import Tensor

WRITTEN = 0.1
"""Probability per token from which an answer counts as written: a table of guesses would not give one in ten so often."""
OVERWRITTEN = 0.1
"""The output gives less than this share of what the best inner layer gives."""


def pretends(by_layer: Tensor) -> Tensor:
    r"""Whether each answer stands in an inner layer, and no longer in the output.

    .. math:: \max_{l < L} p_l \ge 0.1 \quad \text{and} \quad p_L < 0.1 \max_{l < L} p_l

    with the probability per token :math:`p_l` of the answer, read by the network's own head after layer :math:`l`.

    Args:
        by_layer: Of each example at each layer, the output last, ``[n, L]``.

    Returns:
        ``[n]`` bool; false for a network of one layer.

    Example:
        >>> pretends(torch.tensor([[0.01, 0.9, 0.001], [0.01, 0.5, 0.9], [0.01, 0.02, 0.0001]]))
        tensor([ True, False, False])
    """
    if by_layer.shape[1] < 2:
        return torch.zeros(len(by_layer), dtype=torch.bool)
    inner = by_layer[:, :-1].amax(1)
    return (inner >= WRITTEN) & (by_layer[:, -1] < OVERWRITTEN * inner)
