"""Process rows of logits in chunks, so that float32 copies of all of them never exist at once, or the logits neither."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lightning_unlearn.functional.head_logits import HeadLogits, whole
from lightning_unlearn.functional.head_rows import rows_of_head


def in_chunks(function: Callable[..., Tensor], *tensors: Tensor, elements: int = 1 << 25) -> Tensor:
    """Apply a row-wise ``function``, in chunks of rows where there are many.

    In the backward pass each chunk is computed again, so that intermediate tensors live for one chunk at a time. Without
    chunks, every float32 copy of 2048 tokens by a vocabulary of 128 k takes 1 GiB.

    Args:
        function: From tensors of ``n`` rows to ``[n]``. Rows must not depend on each other, or on random numbers.
        *tensors: Tensors of ``N`` rows each, the first ``[N, V]``. If it is :class:`HeadLogits`, its chunks are computed
            as they are needed (:func:`~lightning_unlearn.functional.head_rows.rows_of_head`).
        elements: The most elements of the first tensor in one chunk; a chunk has at least one row.

    Returns:
        ``[N]``, as from ``function(*tensors)``.

    Example:
        >>> in_chunks(lambda a, b: (a * b).sum(-1), torch.ones(3, 2), torch.ones(3, 2), elements=4)
        tensor([2., 2., 2.])
    """
    if isinstance(tensors[0], HeadLogits) and tensors[0].is_put_off:
        return rows_of_head(function, *tensors)
    tensors = tuple(whole(tensor) for tensor in tensors)
    count, width = tensors[0].shape
    rows = max(elements // max(width, 1), 1)
    if count <= rows:
        return function(*tensors)
    # Checkpointed: each chunk keeps its inputs, which are views, and no float32 copies. No randomness, so no RNG state.
    parts = zip(*(tensor.split(rows) for tensor in tensors), strict=True)
    return torch.cat([checkpoint(function, *part, use_reentrant=False, preserve_rng_state=False) for part in parts])
