from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate


def gathered(tensor: Tensor) -> Tensor:
    """The whole of ``tensor``. Of a ``DTensor``, all processes have to ask, in the same order: a collective each.

    Example:
        >>> import torch
        >>> gathered(torch.ones(2))
        tensor([1., 1.])
    """
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_like(whole: Tensor, like: Tensor) -> Tensor:
    """Cut ``whole``, which every process holds, as ``like`` is cut. Nothing is sent: each process keeps its part.

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
    """A tensor cut as ``like`` is, of which this process holds ``part``.

    Example:
        >>> import torch
        >>> with_local(torch.zeros(2), torch.ones(2))
        tensor([1., 1.])
    """
    if not isinstance(like, DTensor):
        return part
    # Shape and stride are said, since shards may be uneven: torch would multiply this one by the number of processes.
    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
