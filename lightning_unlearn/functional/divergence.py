"""Divergences between next-token distributions, packed one row per token."""

from functools import partial
from math import log

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_unlearn.functional.chunks import in_chunks
from lightning_unlearn.functional.head_logits import HeadLogits, whole
from lightning_unlearn.functional.likelihood import token_nll


def kl_divergence(logits: Tensor, reference_logits: Tensor) -> Tensor:
    r"""Kullback-Leibler divergence of each row from the reference, in nats.

    .. math:: \mathrm{KL}(p_\mathrm{ref} \,\|\, p) = \sum_v p_\mathrm{ref}(v) \log \frac{p_\mathrm{ref}(v)}{p(v)}

    Args:
        logits: Unnormalised scores of the student, ``[N, V]``.
        reference_logits: The same of the reference, ``[N, V]``.

    Returns:
        ``[N]``, non-negative up to rounding; zero where the two agree.

    Example:
        >>> kl_divergence(torch.zeros(1, 2), torch.zeros(1, 2))
        tensor([0.])
    """
    return in_chunks(_kl_divergence, logits, reference_logits)


def top_k_kl_divergence(logits: Tensor, reference_logits: Tensor, *, k: int) -> Tensor:
    r"""Kullback-Leibler divergence over the reference's ``k`` likeliest tokens, both distributions renormalised to them.

    .. math:: \mathrm{KL}(\tilde p_\mathrm{ref} \,\|\, \tilde p), \quad
        \tilde p(v) = \frac{p(v)}{\sum_{u \in T} p(u)}, \quad T = \mathrm{top}_k \, p_\mathrm{ref}

    Args:
        logits: Unnormalised scores of the student, ``[N, V]``.
        reference_logits: The same of the reference, ``[N, V]``.
        k: Size of the support; ``V`` or more is the full divergence.

    Returns:
        ``[N]``, non-negative up to rounding.

    Example:
        >>> student, original = torch.tensor([[0.0, 1.0, 9.0]]), torch.tensor([[0.0, 0.0, -9.0]])
        >>> top_k_kl_divergence(student, original, k=2)
        tensor([0.1201])
    """
    if isinstance(logits, HeadLogits):
        return in_chunks(partial(top_k_kl_divergence, k=k), logits, reference_logits)
    reference_logits = whole(reference_logits)
    top, tokens = reference_logits.topk(min(k, reference_logits.shape[-1]), dim=-1)
    return kl_divergence(logits.gather(-1, tokens), top)


def js_divergence(logits: Tensor, reference_logits: Tensor) -> Tensor:
    r"""Jensen-Shannon divergence of each row from the reference, in nats: symmetric, and at most log 2.

    .. math:: \mathrm{JSD}(p, q) = \frac{1}{2} \mathrm{KL}(p \,\|\, m) + \frac{1}{2} \mathrm{KL}(q \,\|\, m), \quad
        m = \frac{p + q}{2}

    Args:
        logits: Unnormalised scores of the student, ``[N, V]``.
        reference_logits: The same of the reference, ``[N, V]``.

    Returns:
        ``[N]``, non-negative up to rounding; zero where the two agree.

    Example:
        >>> js_divergence(torch.tensor([[0.0, 200.0]]), torch.tensor([[200.0, 0.0]]))  # log 2
        tensor([0.6931])
    """
    return in_chunks(_js_divergence, logits, reference_logits)


def js_divergence_from_label(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Jensen-Shannon divergence of each row from certainty about its label, in nats: between 0 and log 2.

    .. math:: \mathrm{JSD}(e_y, p) = \log 2 - \tfrac{1}{2} [(1 + p_y) \log(1 + p_y) - p_y \log p_y]

    It depends on the label's probability alone, so neither the mixture of the two distributions nor a bound from below
    on probabilities is needed. The slope in :math:`\log p_y` is :math:`\tfrac{1}{2} p_y \log \frac{p_y}{1 + p_y}`.

    Args:
        logits: Unnormalised scores, ``[N, V]``.
        labels: Class or token ids, ``[N]``.

    Returns:
        ``[N]``.

    Example:
        >>> js_divergence_from_label(torch.tensor([[0.0, 200.0], [0.0, 200.0]]), torch.tensor([0, 1]))
        tensor([0.6931, 0.0000])
    """
    nll = token_nll(logits, labels)
    p = (-nll).exp()
    # `p log p` is 0 at 0, but its parts are not: a score of minus infinity would give NaN.
    entropy = p * nll.clamp_max(torch.finfo(nll.dtype).max)
    return log(2) - ((1 + p) * p.log1p() + entropy) / 2


def adjusted_cross_entropy(logits: Tensor, target_logits: Tensor, labels: Tensor, *, shift: float) -> Tensor:
    r"""Cross-entropy of each row to a target in which the label's score is shifted, in nats.

    .. math:: -\sum_v q(v) \log p(v), \quad q = \mathrm{softmax}(z^\mathrm{target} + \mathrm{shift} \cdot \mathrm{onehot}(y))

    Args:
        logits: Unnormalised scores of the student, ``[N, V]``.
        target_logits: Unnormalised scores of the target, ``[N, V]``.
        labels: Class or token ids, ``[N]``.
        shift: Added to the label's score in the target; minus infinity gives it probability 0.

    Returns:
        ``[N]``, non-negative.

    Example:
        >>> flat = torch.zeros(1, 4)
        >>> adjusted_cross_entropy(flat, flat, torch.tensor([2]), shift=-torch.inf)
        tensor([1.3863])
    """
    return in_chunks(partial(_adjusted_cross_entropy, shift=shift), logits, target_logits, labels)


def _kl_divergence(logits: Tensor, reference_logits: Tensor) -> Tensor:
    log_p, log_reference = _log_softmax(logits), _log_softmax(reference_logits)
    # Torch's argument order: `kl_div(input, target)` is KL(target || input).
    return F.kl_div(log_p, log_reference, log_target=True, reduction="none").sum(-1)


def _js_divergence(logits: Tensor, reference_logits: Tensor) -> Tensor:
    log_p, log_q = _log_softmax(logits), _log_softmax(reference_logits)
    # log(p / m) = log 2 - log(1 + q / p): exactly 0 where p = q, so that no rounding moves a network that has not moved.
    from_p, from_q = (log(2) - F.softplus(ratio) for ratio in (log_q - log_p, log_p - log_q))
    return (log_p.exp() * from_p + log_q.exp() * from_q).sum(-1) / 2


def _adjusted_cross_entropy(logits: Tensor, target_logits: Tensor, labels: Tensor, *, shift: float) -> Tensor:
    target, column = _raise(target_logits), labels[:, None]
    adjusted = target.scatter(1, column, target.gather(1, column) + shift)
    return F.cross_entropy(_raise(logits), adjusted.softmax(-1), reduction="none")


def _log_softmax(logits: Tensor) -> Tensor:
    return F.log_softmax(_raise(logits), dim=-1)


def _raise(logits: Tensor) -> Tensor:
    # Half precision would lose the small differences of likelihood that a divergence is made of.
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
