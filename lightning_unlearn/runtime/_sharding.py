"""Local shards of parameters."""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def local(tensor: Tensor) -> Tensor:
    """The local shard of a ``DTensor``; any other tensor as it is. It shares memory: writing to it changes the parameter.

    Example:
        >>> import torch
        >>> local(torch.ones(2))
        tensor([1., 1.])
    """
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def reshard(network: nn.Module) -> None:
    """Make FSDP2 modules drop their gathered parameters.

    After a forward pass without a graph the root keeps its gathered copy. Until it is dropped, the next forward pass does
    not see a change of the shards.
    """
    from torch.distributed.fsdp import FSDPModule

    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
