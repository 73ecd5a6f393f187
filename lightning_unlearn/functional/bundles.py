"""Many small tensors as a few long vectors: operations on them cost what calling them costs."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

_LENGTH = {"cpu": 1 << 17}
_LARGE_LENGTH = 1 << 24


def bundled(sizes: Sequence[int], kinds: Sequence[Hashable], device: torch.device) -> list[list[int]]:
    """Numbers of the tensors that are to be one vector; a large one stays alone.

    Args:
        sizes: Number of elements of each tensor.
        kinds: Only tensors of one kind come together.
        device: Where they are. A graphics card wants longer vectors than a processor's cache.

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
        if size <= limit:
            open_ones[kind] = bundle, length + size
    return out


def joined(tensors: Sequence[Tensor | None], sizes: Sequence[int]) -> Tensor | None:
    """One vector of all, where ``None`` counts as zeros; ``None`` of nothing else; a single tensor as it is.

    Args:
        tensors: What is to be one.
        sizes: Number of elements of each.

    Example:
        >>> joined([torch.ones(2), None], sizes=[2, 1])
        tensor([1., 1., 0.])
    """
    there = [t for t in tensors if t is not None]
    if len(tensors) == 1 or not there:
        return tensors[0]
    pairs = zip(tensors, sizes, strict=True)
    return torch.cat([there[0].new_zeros(size) if t is None else t.reshape(-1) for t, size in pairs])


def spread_(tensors: Sequence[Tensor], vector: Tensor) -> None:
    """Write the parts of what was :func:`joined` back.

    Example:
        >>> parts = [torch.zeros(2), torch.zeros(1)]
        >>> spread_(parts, torch.tensor([1.0, 2.0, 3.0]))
        >>> parts
        [tensor([1., 2.]), tensor([3.])]
    """
    parts = vector.reshape(-1).split([t.numel() for t in tensors])
    torch._foreach_copy_(list(tensors), [part.view_as(t) for part, t in zip(parts, tensors, strict=True)])
