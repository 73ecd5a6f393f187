"""Local shards of parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def local(tensor: Tensor) -> Tensor:
    """The local shard of a ``DTensor``; any other tensor as it is. It shares memory: writing to it changes the parameter.

    Example:
        >>> local(torch.ones(2))
        tensor([1., 1.])
    """
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def drop_copies(network: nn.Module) -> None:
    """Make FSDP2 and autocast drop the copies of parameters that they keep, so that the next pass sees what is written.

    After a forward pass without a graph the root of FSDP2 keeps its gathered copy, whatever happens to the shards. Autocast
    keeps what it has cast until its outermost block is left; inside Lightning it keeps nothing. To be called between passes:
    one that an exception has ended is taken for ended.
    """
    from torch.distributed.fsdp import FSDPModule

    torch.clear_autocast_cache()
    for module in network.modules():
        if isinstance(module, FSDPModule):
            _end_broken_pass(module)
            module.reshard()


def _end_broken_pass(module: Any) -> None:
    """Put FSDP2's marks back to those of a module that no pass is in.

    It does so itself when a pass ends, but not after an exception in its midst. Then it would drop no gathered parameters,
    and take the next training step for a part of the broken one.
    """
    from torch.distributed.fsdp._fully_shard._fsdp_common import TrainingState

    state = module._get_fsdp_state()
    groups = [group for group in _groups(state) if group is not None]
    for part in (state, *groups):
        if part._training_state is not TrainingState.IDLE:
            part._training_state = TrainingState.IDLE
            state._state_ctx.iter_forward_root = None
            state._state_ctx.post_backward_final_callback_queued = False
            for param in (param for group in groups for param in group.fsdp_params):
                _drop_gradient(param)


def _groups(state: Any) -> list[Any]:
    # One of each module, before torch had several.
    groups: list[Any] = getattr(state, "_fsdp_param_groups", None) or [getattr(state, "_fsdp_param_group", None)]
    return groups


def _drop_gradient(param: Any) -> None:
    """What a broken backward pass has left on a gathered parameter, to which the next one would add."""
    param.unsharded_accumulated_grad = None
    if (gathered := getattr(param, "_unsharded_param", None)) is not None:
        gathered.grad = None
