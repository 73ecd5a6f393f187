"""Some entries of a product of two factors, without the product."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_CHUNK = 1 << 18  # entries whose rows are held at a time


def largest_entries(second: Tensor, first: Tensor, share: float) -> Tensor:
    """Where the entries of ``second @ first`` of the largest size are.

    Args:
        second: ``[out, r]``.
        first: ``[r, in]``.
        share: How many of all entries, rounded up.

    Returns:
        Row and column of each, ``[n, 2]`` int64, in the order of the flattened product.

    Example:
        >>> largest_entries(torch.tensor([[1.0], [-3.0]]), torch.tensor([[1.0, 2.0]]), share=0.25)
        tensor([[1, 1]])
    """
    product = (second.detach().float() @ first.detach().float()).abs()
    number = min(int(-(-share * product.numel() // 1)), product.numel())
    flat = product.flatten().topk(number).indices.sort().values
    return torch.stack([flat // product.shape[1], flat % product.shape[1]], dim=1)


def mean_size_of_entries(second: Tensor, first: Tensor, entries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""The mean size of some entries of ``second @ first``, and its gradients.

    .. math:: \frac{1}{n} \sum_{(i, j)} |(B A)_{ij}|

    An entry that is listed twice counts twice. The product is never formed.

    Args:
        second: :math:`B`, ``[out, r]``.
        first: :math:`A`, ``[r, in]``.
        entries: Rows and columns, ``[n, 2]`` int64.

    Returns:
        The mean ``[]``, its gradient by ``second``, and that by ``first``; zeros for no entries. The gradient of the size of
        an entry that is zero is zero.

    Example:
        >>> mean_size_of_entries(torch.tensor([[1.0], [-3.0]]), torch.tensor([[1.0, 2.0]]), torch.tensor([[1, 1]]))
        (tensor(6.), tensor([[ 0.],
                [-2.]]), tensor([[0., 3.]]))
    """
    b, a = second.detach().float(), first.detach().float()
    total, by_b, by_a = b.new_zeros(()), torch.zeros_like(b), torch.zeros_like(a)
    for rows, columns in _chunks(entries):
        ours, theirs = b[rows], a[:, columns].T
        values = (ours * theirs).sum(1)
        signs = values.sign()[:, None] / len(entries)
        total = total + values.abs().sum() / len(entries)
        by_b.index_add_(0, rows, signs * theirs)
        by_a.index_add_(1, columns, (signs * ours).T)
    return total, by_b, by_a


def _chunks(entries: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for part in entries.split(_CHUNK) if len(entries) else ():
        yield part[:, 0], part[:, 1]
