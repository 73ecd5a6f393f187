from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate


def gathered(tensor: Tensor) -> Tensor:
    """The whole ``tensor``. For a ``DTensor`` this is a collective: every rank must call it, in the same order.

    Example:
        >>> import torch
        >>> gathered(torch.ones(2))
        tensor([1., 1.])
    """
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_like(whole: Tensor, like: Tensor) -> Tensor:
    """Shard ``whole``, which every process holds, as ``like`` is sharded. Each process keeps its part; nothing is sent.

    Example:
        >>> import torch
        >>> sharded_like(torch.ones(2), torch.zeros(2))
        tensor([1., 1.])
    """
    if not isinstance(like, DTensor):
        return whole
    mesh = like.device_mesh
    # `distribute_tensor` would send the first process's copy to all others.
    replicated = DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return replicated.redistribute(placements=like.placements)


def with_local(like: Tensor, part: Tensor) -> Tensor:
    """A tensor sharded as ``like`` is, whose local shard is ``part``.

    Example:
        >>> import torch
        >>> with_local(torch.zeros(2), torch.ones(2))
        tensor([1., 1.])
    """
    if not isinstance(like, DTensor):
        return part
    # Shape and stride are given, since shards may be uneven: torch would multiply this one's by the number of processes.
    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
