from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.functional.head_logits import HeadLogits
from lightning_unlearn.runtime import is_sharded

_for_a_loss: ContextVar[bool] = ContextVar("for_a_loss", default=False)


def logits_at_once(device: torch.device) -> int:
    """How many logits are computed at once, if nothing else is said: as many as its matrix products lose nothing by.

    64 MiB in float32 on the CPU, 256 MiB elsewhere: 128 and 512 rows of a vocabulary of 128 k.

    Example:
        >>> logits_at_once(torch.device("cpu"))
        16777216
    """
    return 1 << 24 if device.type == "cpu" else 1 << 26


@contextmanager
def read_for_a_loss(wanted: bool = True) -> Iterator[None]:
    """Inside, readouts may put logits off: what they give is used before the network's weights change.

    Args:
        wanted: Whether they may; ``False`` inside another such context, for a prediction that is kept for longer.

    Example:
        >>> from lightning_unlearn import CausalLMReadout, TinyCausalLM
        >>> batch = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[-100, 6, 7]])}
        >>> with read_for_a_loss():
        ...     prediction = CausalLMReadout(logits_at_most=100)(TinyCausalLM(), batch)
        ...     prediction.put_off is not None
        True
    """
    before = _for_a_loss.set(wanted)
    try:
        yield
    finally:
        _for_a_loss.reset(before)


def may_be_put_off(network: nn.Module, head: nn.Module | None) -> bool:
    """Whether somebody has said that logits are for a loss, and the head is nothing but a product with its weight.

    Adapters, few bits, shards, offloading, hooks and function modes want their module to be called.
    """
    if not _for_a_loss.get() or type(head) is not nn.Linear or type(head.weight) is not nn.Parameter:
        return False
    hooked = head._forward_hooks or head._backward_hooks or head._backward_pre_hooks or "forward" in head.__dict__
    watched = torch._C._len_torch_function_stack() or torch._C._functorch.peek_interpreter_stack() is not None
    return not hooked and not watched and not is_sharded(network)


@contextmanager
def putting_off(head: nn.Module | None, at_most: float | None) -> Iterator[None]:
    """Let ``head`` put off logits of two dimensions, if they are more than ``at_most``.

    Args:
        head: The head.
        at_most: ``None`` for :func:`logits_at_once`.
    """
    if not isinstance(head, nn.Linear) or at_most == inf:
        yield
        return
    earlier, run = head.__dict__.get("forward"), head.forward

    def forward(hidden: Tensor) -> Tensor:
        most = logits_at_once(hidden.device) if at_most is None else at_most
        if hidden.dim() != 2 or len(hidden) * len(head.weight) <= most:
            return run(hidden)
        return HeadLogits(hidden, head.weight, head.bias, dtype=_product_type(hidden), elements=int(most))

    head.__dict__["forward"] = forward
    try:
        yield
    finally:
        del head.__dict__["forward"]
        if earlier is not None:
            head.__dict__["forward"] = earlier


def _product_type(hidden: Tensor) -> torch.dtype:
    kind: Any = hidden.device.type
    mixed = torch.is_autocast_enabled(kind) and hidden.dtype != torch.float64  # which autocast leaves alone
    return torch.get_autocast_dtype(kind) if mixed else hidden.dtype
