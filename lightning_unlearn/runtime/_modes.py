"""Contexts that change the mode of a network, and restore it."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn


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
    is_recurrent = torch.is_grad_enabled() and any(isinstance(module, nn.RNNBase) for module, _ in modes)
    network.eval()
    try:
        with torch.backends.cudnn.flags(enabled=False) if is_recurrent else nullcontext():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


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
