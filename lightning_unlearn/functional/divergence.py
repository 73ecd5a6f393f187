"""Divergences between next-token distributions, packed one row per token."""

import torch
from torch import Tensor
from torch.nn import functional as F


def kl_divergence(logits: Tensor, reference_logits: Tensor) -> Tensor:
    r"""Kullback-Leibler divergence of each row from the reference, in nats.

    .. math:: \mathrm{KL}(p_\mathrm{ref} \,\|\, p) = \sum_v p_\mathrm{ref}(v) \log \frac{p_\mathrm{ref}(v)}{p(v)}

    Args:
        logits: Unnormalised scores of the student, ``[N, V]``.
        reference_logits: The same of the reference, ``[N, V]``.

    Returns:
        ``[N]``, non-negative; zero where the two agree.

    Example:
        >>> kl_divergence(torch.zeros(1, 2), torch.zeros(1, 2))
        tensor([0.])
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    log_p = F.log_softmax(logits.to(dtype), dim=-1)
    log_reference = F.log_softmax(reference_logits.to(dtype), dim=-1)
    return F.kl_div(log_p, log_reference, log_target=True, reduction="none").sum(-1)
