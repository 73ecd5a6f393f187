"""How the right answer stands among wrong ones, from mean negative log-likelihoods of their tokens."""

from __future__ import annotations

from torch import Tensor

from lightning_unlearn.functional.compat import Compat

_EPSILON = 1e-10
"""What open-unlearning adds to its denominators."""


def truth_ratio(right: Tensor, wrong: Tensor, compat: Compat | None = None) -> Tensor:
    r"""How much likelier wrong answers are than the right one: 1 for no preference, below 1 if the right one is preferred.

    .. math:: \Bigl(\prod_{k=1}^{K} p_k\Bigr)^{1/K} \Big/ \; p

    where :math:`p` is the geometric mean of the probabilities of an answer's tokens. In float64, from a difference of
    logarithms: both can be smaller than any float.

    Args:
        right: Mean negative log-likelihood per token of the right answers, ``[N]``, in nats.
        wrong: The same of ``K`` wrong answers to each question, ``[N, K]``.
        compat: ``"open-unlearning"`` adds 1e-10 to the denominator.

    Returns:
        ``[N]`` float64, positive; infinite where the right answer is out of all proportion.

    Example:
        >>> import torch
        >>> truth_ratio(torch.tensor([0.5]).log().neg(), torch.tensor([[0.1, 0.4]]).log().neg())
        tensor([0.4000], dtype=torch.float64)

    References:
        Maini et al., `TOFU <https://arxiv.org/abs/2401.06121>`_, 2024, eq. 1.
    """
    right, mean_wrong = right.double(), wrong.double().mean(-1)
    if compat is None:
        return (right - mean_wrong).exp()
    return (-mean_wrong).exp() / ((-right).exp() + _EPSILON)


def near_one(ratio: Tensor) -> Tensor:
    r"""How near a truth ratio is to no preference, :math:`\min(R, 1/R)`, in [0, 1]. TOFU's truth ratio of what must go.

    A model that never knew is not at 1 either: compare with it.
    """
    return ratio.minimum(1 / ratio)


def true_better(ratio: Tensor) -> Tensor:
    r"""How far the right answer is ahead, :math:`\max(0, 1 - R)`, in [0, 1]. TOFU's truth ratio of what must stay."""
    return (1 - ratio).clamp_min(0)


def true_share(ratio: Tensor) -> Tensor:
    r"""The right answer's share of its probability and the wrong ones' mean, :math:`1 / (1 + R)`, in [0, 1].

    It is strictly monotone in the ratio, and finite where the ratio is not.
    """
    return 1 / (1 + ratio)


def option_probability(right: Tensor, wrong: Tensor, compat: Compat | None = None) -> Tensor:
    r"""Probability of the right answer among its options, :math:`p / (p + \sum_k p_k)`, in [0, 1].

    Args:
        right: Mean negative log-likelihood per token of the right answers, ``[N]``, in nats.
        wrong: The same of ``K`` wrong answers to each question, ``[N, K]``.
        compat: ``"open-unlearning"`` adds 1e-10 to the denominator.

    Returns:
        ``[N]`` float64.

    Example:
        >>> import torch
        >>> option_probability(torch.tensor([0.5]).log().neg(), torch.tensor([[0.1, 0.4]]).log().neg())
        tensor([0.5000], dtype=torch.float64)

    References:
        Maini et al., `TOFU <https://arxiv.org/abs/2401.06121>`_, 2024, section 2.2.1, "Probability" of real authors and
        world facts.
    """
    right, wrong = right.double(), wrong.double()
    if compat is None:
        return (1 + (right[:, None] - wrong).exp().sum(-1)).reciprocal()
    return (-right).exp() / ((-right).exp() + (-wrong).exp().sum(-1) + _EPSILON)
