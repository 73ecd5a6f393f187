"""Working through rows of logits without holding float32 copies of them all."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_chunks(function: Callable[..., Tensor], *tensors: Tensor, elements: int = 1 << 25) -> Tensor:
    """Apply a row-wise ``function``, a few rows at a time where there are many.

    In the backward pass each chunk is computed again, so that what ``function`` keeps for it lives for one chunk only. A
    batch of 2048 tokens and a vocabulary of 128 k takes 1 GiB for every float32 copy otherwise.

    Args:
        function: From as many tensors of ``n`` rows to ``[n]``, each row by itself, without randomness.
        *tensors: Of ``N`` rows each, the first ``[N, V]``.
        elements: How large a chunk of the first may be; one row at least.

    Returns:
        ``[N]``, as from ``function(*tensors)``.

    Example:
        >>> in_chunks(lambda a, b: (a * b).sum(-1), torch.ones(3, 2), torch.ones(3, 2), elements=4)
        tensor([2., 2., 2.])
    """
    count, width = tensors[0].shape
    rows = max(elements // max(width, 1), 1)
    if count <= rows:
        return function(*tensors)
    parts = zip(*(tensor.split(rows) for tensor in tensors), strict=True)
    return torch.cat([checkpoint(function, *part, use_reentrant=False, preserve_rng_state=False) for part in parts])
