from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from lightning_unlearn.models.layers import is_compiled, is_tied
from lightning_unlearn.runtime import is_sharded


@contextmanager
def tied_cheaply(network: nn.Module, head: nn.Module | None) -> Iterator[None]:
    """Save one vocabulary-sized tensor per backward pass of a network whose ``head`` and embedding share their weight.

    Autograd sums the weight's gradients from both. The head's, from :func:`torch.nn.functional.linear`, is a view, to
    which autograd never adds in place, so the sum takes new memory. Here the head gives a tensor of its own, and the sum
    is made in place. Values are the same. Heads that are sharded, compiled, watched by a function mode, run in mixed
    precision or have another ``forward`` are left as they are.
    """
    if head is None or not _is_tied(network, head):
        yield
        return
    run: Any = _Head.apply
    # On the instance, so that module and class stay the same; hooks of the head run around `forward` as before.
    head.__dict__["forward"] = lambda hidden: run(hidden, head.weight, head.bias)
    try:
        yield
    finally:
        del head.__dict__["forward"]


class _Head(torch.autograd.Function):
    """A linear layer whose weight gets a gradient that is no view of another tensor."""

    @staticmethod
    @override
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        return F.linear(hidden, weight, bias)

    @staticmethod
    @override
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        hidden, weight = ctx.saved_tensors
        rows, seen = grad.reshape(-1, grad.shape[-1]), hidden.reshape(-1, hidden.shape[-1])
        # The product `rows.T @ seen` is new memory: that is the whole point.
        return grad @ weight, rows.T @ seen, rows.sum(0) if ctx.needs_input_grad[2] else None


def _is_tied(network: nn.Module, head: nn.Module) -> bool:
    if type(head) is not nn.Linear or "forward" in head.__dict__ or type(head.weight) is not nn.Parameter:
        return False
    if torch._C._len_torch_function_stack():  # a function mode is active, and may wait for calls of `F.linear`
        return False
    trained = head.weight.requires_grad and torch.is_grad_enabled()
    plain = not torch.is_autocast_enabled(head.weight.device.type) and not _is_wrapped(network)
    return trained and plain and is_tied(network)


def _is_wrapped(network: nn.Module) -> bool:
    return is_compiled(network) or is_sharded(network)
