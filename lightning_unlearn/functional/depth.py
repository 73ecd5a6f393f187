"""How deep in a network is what it knew gone? From losses of likelihood when hidden states are exchanged."""

from __future__ import annotations

from torch import Tensor

LEAST = 0.05
"""Nats per token that a layer must carry, to count as one that carries knowledge."""


def depth_scores(lost: Tensor, most: Tensor, least: float = LEAST) -> Tensor:
    r"""Unlearning depth score of each example.

    .. math:: \frac{\sum_l m_l \, \operatorname{clip}(d_l / m_l, 0, 1)}{\sum_l m_l} \quad \text{over layers with } m_l > 0.05

    Args:
        lost: What the original loses of the answer's log-likelihood per token if it gets the states of the unlearned model
            at a layer, :math:`d_l`, ``[n, L]``.
        most: The same with the states of a model that never knew, :math:`m_l`, ``[n, L]``.
        least: Layers that carry less do not count.

    Returns:
        ``[n]``: 0 if the states hold all that the original's do, 1 if no more than those of a model that never knew; NaN
        where no layer carries anything.

    Example:
        >>> import torch
        >>> depth_scores(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 2.0]]))
        tensor([0.2500])

    References:
        `Unlearning Depth Score <https://arxiv.org/abs/2605.24614>`_, 2026.
    """
    carries = (most > least).to(most.dtype)
    # d clipped to [0, m] is m times the clipped ratio, and needs no division by zero.
    gone = lost.clamp_min(0).minimum(most) * carries
    return gone.sum(-1) / (most * carries).sum(-1)
