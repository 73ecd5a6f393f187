"""Passes through a network of which nothing is left: to ask it something, in the middle of anything."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.distributed.tensor import DTensor

from lightning_unlearn.runtime._buffers import remember_buffers
from lightning_unlearn.runtime._modes import eval_without_grad
from lightning_unlearn.runtime._python_state import PythonState
from lightning_unlearn.runtime._random_states import seeded


@contextmanager
def unnoticed(network: nn.Module) -> Iterator[None]:
    """Run ``network`` in evaluation mode and without a graph; buffers, attributes, random states stay as they were.

    Hooks are not called, so nobody counts or records these passes; where parameters are sharded they are, since hooks
    gather the parameters.

    Example:
        >>> import torch
        >>> norm = nn.BatchNorm1d(2)
        >>> _ = norm.register_forward_hook(lambda *_: print("called"))
        >>> with unnoticed(norm):
        ...     _ = norm(torch.randn(4, 2))
        >>> int(norm.num_batches_tracked), norm.training
        (0, True)
    """
    # Modes are put back by `eval_without_grad`, before the attributes are.
    put_back = [PythonState(network).put_back, remember_buffers(network)]
    try:
        with seeded(0), eval_without_grad(network), _without_hooks(network):
            yield
    finally:
        for restore in put_back:
            restore()


def is_sharded(network: nn.Module) -> bool:
    """Whether a forward pass of ``network`` is collective: FSDP1, FSDP2, tensor parallelism.

    Example:
        >>> is_sharded(nn.Linear(1, 1))
        False
    """
    from torch.distributed.fsdp import FSDPModule

    parts = (isinstance(m, FSDPModule) or type(m).__name__ == "FullyShardedDataParallel" for m in network.modules())
    return any(parts) or any(isinstance(p, DTensor) for p in network.parameters())


@contextmanager
def _without_hooks(network: nn.Module) -> Iterator[None]:
    if is_sharded(network):
        yield
        return
    kept = [(m, m._forward_hooks, m._forward_pre_hooks) for m in network.modules()]
    for module, _, _ in kept:
        module._forward_hooks, module._forward_pre_hooks = OrderedDict(), OrderedDict()
    try:
        yield
    finally:
        for module, after, before in kept:
            module._forward_hooks, module._forward_pre_hooks = after, before
