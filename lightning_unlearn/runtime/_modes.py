"""Contexts that change the mode of a network, and restore it."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

_REPACKS = "support_avx512bf16_for_cpu"


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Switch every submodule to evaluation mode, and afterwards restore the mode of each, also if they differed.

    Where gradients are enabled, recurrent layers run without cuDNN, which runs them backward in training mode only.

    Example:
        >>> network = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
        >>> with eval_mode(network):
        ...     [m.training for m in network]
        [False, False]
        >>> [m.training for m in network]
        [True, False]
    """
    modes = [(module, module.training) for module in network.modules()]
    # On some CPUs bitsandbytes repacks 4-bit weights in the first evaluation pass, in place and with rounded scales, for a
    # kernel that rounds inputs, too. A network that is looked at would be another one afterwards.
    repacking: list[Any] = [module for module, _ in modes if getattr(module, _REPACKS, False)]
    is_recurrent = torch.is_grad_enabled() and any(isinstance(module, nn.RNNBase) for module, _ in modes)
    network.eval()
    for module in repacking:
        setattr(module, _REPACKS, False)
    try:
        with torch.backends.cudnn.flags(enabled=False) if is_recurrent else nullcontext():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for module in repacking:
            setattr(module, _REPACKS, True)


@contextmanager
def eval_without_grad(network: nn.Module) -> Iterator[None]:
    """Run ``network`` only to observe it: in evaluation mode, without a graph.

    Example:
        >>> with eval_without_grad(nn.Linear(1, 1)):
        ...     torch.is_grad_enabled()
        False
    """
    with torch.no_grad(), eval_mode(network):
        yield
