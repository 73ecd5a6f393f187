"""Joining many small tensors to a few long vectors: for small tensors, the call costs more than the operation."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

# Elements of a joined vector at most, by device: on the CPU, so that it stays in the cache.
_LENGTH = {"cpu": 1 << 17}
_LARGE_LENGTH = 1 << 24


def bundled(sizes: Sequence[int], kinds: Sequence[Hashable], device: torch.device) -> list[list[int]]:
    """Group tensors to be joined. Returns the numbers of the tensors of each group; a large tensor is a group alone.

    Args:
        sizes: Number of elements of each tensor.
        kinds: Kind of each tensor. Only tensors of the same kind are joined.
        device: Their device. A GPU gets longer vectors than a CPU.

    Example:
        >>> bundled([10, 1 << 20, 5, 7], ["a", "a", "b", "a"], torch.device("cpu"))
        [[0, 3], [1], [2]]
    """
    limit = _LENGTH.get(device.type, _LARGE_LENGTH)
    out: list[list[int]] = []
    open_ones: dict[Hashable, tuple[list[int], int]] = {}
    for i, (size, kind) in enumerate(zip(sizes, kinds, strict=True)):
        bundle, length = open_ones.get(kind, ([], 0))
        if not bundle or length + size > limit:
            bundle, length = [], 0
            out.append(bundle)
        bundle.append(i)
        if size <= limit:  # after a large tensor, smaller ones go on filling the group before it
            open_ones[kind] = bundle, length + size
    return out


def joined(tensors: Sequence[Tensor | None], sizes: Sequence[int]) -> Tensor | None:
    """Join tensors to one vector. ``None`` counts as zeros; if all are ``None``, so is the result.

    A single tensor is returned as it is, in its shape, without a copy.

    Args:
        tensors: The tensors.
        sizes: Number of elements of each, needed for ``None``.

    Example:
        >>> joined([torch.ones(2), None], sizes=[2, 1])
        tensor([1., 1., 0.])
    """
    present = [t for t in tensors if t is not None]
    if len(tensors) == 1 or not present:
        return tensors[0]
    pairs = zip(tensors, sizes, strict=True)
    return torch.cat([present[0].new_zeros(size) if t is None else t.reshape(-1) for t, size in pairs])


def spread_(tensors: Sequence[Tensor], vector: Tensor) -> None:
    """Copy the parts of a :func:`joined` vector back into ``tensors``.

    Example:
        >>> parts = [torch.zeros(2), torch.zeros(1)]
        >>> spread_(parts, torch.tensor([1.0, 2.0, 3.0]))
        >>> parts
        [tensor([1., 2.]), tensor([3.])]
    """
    parts = vector.reshape(-1).split([t.numel() for t in tensors])
    torch._foreach_copy_(list(tensors), [part.view_as(t) for part, t in zip(parts, tensors, strict=True)])
