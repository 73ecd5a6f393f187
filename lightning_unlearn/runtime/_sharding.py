"""Looking at a sharded tensor's local part."""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def local(tensor: Tensor) -> Tensor:
    """The part of ``tensor`` this process holds: all of it, unless it is a ``DTensor``.

    Example:
        >>> import torch
        >>> local(torch.ones(2))
        tensor([1., 1.])
    """
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def reshard(network: nn.Module) -> None:
    """Make FSDP2 modules let go of their gathered parameters.

    After a forward pass without a graph the root keeps its gathered copy; until it lets go, a change of the shards is
    not seen by the next forward pass.
    """
    from torch.distributed.fsdp import FSDPModule

    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
