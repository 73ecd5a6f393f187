"""Likelihoods of supervised tokens, packed one row per token."""

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_unlearn.functional.chunks import in_chunks
from lightning_unlearn.functional.head_logits import HeadLogits


def token_nll(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Negative log-likelihood of each row's label, :math:`-\log \mathrm{softmax}(z)_y`, in nats.

    Half-precision logits are converted to float32 first: a sum over a long answer would lose its digits otherwise.

    Args:
        logits: Unnormalised scores, ``[N, V]``.
        labels: Class or token ids, ``[N]``.

    Returns:
        ``[N]``, non-negative.

    Example:
        >>> token_nll(torch.zeros(2, 4), torch.tensor([0, 3]))
        tensor([1.3863, 1.3863])
    """
    if isinstance(logits, HeadLogits):
        return in_chunks(token_nll, logits, labels)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits.to(dtype), labels, reduction="none")


def sum_per_example(values: Tensor, example: Tensor, batch_size: int) -> Tensor:
    """Sum row values over the rows of each example.

    Args:
        values: One value per row, ``[N]``.
        example: Which example of the batch a row belongs to, ``[N]``, in ``[0, batch_size)``.
        batch_size: Number of examples, ``B``.

    Returns:
        ``[B]``; an example without rows gets 0.

    Example:
        >>> sum_per_example(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 0, 2]), 3)
        tensor([3., 0., 3.])
    """
    return values.new_zeros(batch_size).index_add(0, example, values)


def mean_or_zero(values: Tensor) -> Tensor:
    """Mean of ``values``. Without values it is a zero that is part of the graph, so that ``backward`` works.

    Example:
        >>> mean_or_zero(torch.empty(0))
        tensor(0.)
    """
    return values.sum() / max(values.numel(), 1)


def place_in_example(example: Tensor) -> Tensor:
    """How many rows of the same example come before each row.

    Args:
        example: Which example of the batch a row belongs to, ``[N]``, in any order.

    Returns:
        ``[N]`` int64, counted from 0.

    Example:
        >>> place_in_example(torch.tensor([0, 0, 2, 0, 2]))
        tensor([0, 1, 0, 2, 1])
    """
    order = example.argsort(stable=True)
    grouped = example[order]
    first = torch.searchsorted(grouped, grouped)  # index in `grouped` of the first row of the same example
    place = torch.arange(len(example), device=example.device) - first
    return torch.empty_like(place).scatter(0, order, place)


def without_last(example: Tensor, batch_size: int, skipped: int) -> tuple[Tensor, Tensor]:
    """Which rows count if the last ones of each example do not, as long as one is left; and how many do, at least 1.

    Args:
        example: Which example of the batch a row belongs to, ``[N]``, in ``[0, batch_size)``.
        batch_size: Number of examples, ``B``.
        skipped: How many rows at the end of each example do not count.

    Returns:
        ``[N]`` bool and ``[B]`` int64.

    Example:
        >>> without_last(torch.tensor([0, 0, 2]), 3, skipped=1)
        (tensor([ True, False,  True]), tensor([1, 1, 1]))
    """
    length = (torch.bincount(example, minlength=batch_size) - skipped).clamp_min(1)
    return place_in_example(example) < length[example], length


def mean_of_lowest(values: Tensor, example: Tensor, batch_size: int, share: float) -> Tensor:
    """Mean of the lowest values of each example: a share of its rows, rounded down, and at least one.

    Args:
        values: One value per row, ``[N]``.
        example: Which example of the batch a row belongs to, ``[N]``, in ``[0, batch_size)``.
        batch_size: Number of examples, ``B``.
        share: In [0, 1].

    Returns:
        ``[B]``; an example without rows gets 0.

    Example:
        >>> mean_of_lowest(torch.tensor([1.0, -1.0, -3.0, 5.0]), torch.tensor([0, 0, 0, 1]), 2, share=0.7)
        tensor([-2.,  5.])
    """
    order = values.argsort(stable=True)
    rank = torch.empty_like(order).scatter(0, order, place_in_example(example[order]))
    # A small part is added: a share such as 0.29 of 100 rows is a little less than 29.
    rows = torch.bincount(example, minlength=batch_size)
    taken = (rows.double() * share + 1e-9).floor().clamp_min(1)
    low = rank < taken[example]
    total = sum_per_example(torch.where(low, values, 0.0), example, batch_size)
    return total / taken.to(total.dtype)
