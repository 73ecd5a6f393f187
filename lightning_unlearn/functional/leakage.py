"""How likely at least one of several answers is the right one."""

from __future__ import annotations

import math
from math import comb

import torch
from torch import Tensor


def pass_at_k(log_p: Tensor, k: int) -> Tensor:
    r"""The chance that at least one of ``k`` independent answers is the right one, :math:`1 - (1 - p)^k`, in [0, 1].

    It keeps its digits where ``p`` is tiny or almost 1; in float64.

    Args:
        log_p: Logarithm of the probability of a whole answer, any shape, at most 0.
        k: Number of answers.

    Example:
        >>> pass_at_k(torch.tensor([0.5, 0.0, 1e-30]).log(), 2)
        tensor([7.5000e-01, 0.0000e+00, 2.0000e-30], dtype=torch.float64)
    """
    log_p = log_p.double().clamp_max(0)
    # log(1 - p): each form loses its digits where the other one keeps them.
    log_not = torch.where(log_p < -math.log(2), torch.log1p(-log_p.exp()), torch.log(-torch.expm1(log_p)))
    return -torch.expm1(k * log_not)


def leak_at_k(n: int, c: int, k: int) -> float:
    r"""Estimate from ``n`` answers, ``c`` of them right, that at least one of ``k`` is right. Unbiased if ``n`` was fixed.

    .. math:: 1 - \binom{n - c}{k} / \binom{n}{k}

    Where the answers themselves decide when to stop, :class:`SamplingPlan` has the unbiased estimate.

    Args:
        n: Number of answers, at least ``k``.
        c: How many of them are right.
        k: Number of answers asked about.

    Example:
        >>> leak_at_k(4, 1, 1), leak_at_k(4, 1, 2), leak_at_k(4, 0, 4)
        (0.25, 0.5, 0.0)

    References:
        Chen et al., `Evaluating Large Language Models Trained on Code <https://arxiv.org/abs/2107.03374>`_, 2021, eq. 1; for
        leaks `Leak@k <https://arxiv.org/abs/2511.04934>`_, 2025.
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(
            f"`c` should be between 0 and `n`, and `k` between 1 and `n`. Found `n = {n}`, `c = {c}` and `k = {k}`."
        )
    return 1 - comb(n - c, k) / comb(n, k)
