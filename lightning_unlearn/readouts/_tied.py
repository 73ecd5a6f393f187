from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.weak import TensorWeakRef
from typing_extensions import override

from lightning_unlearn.models.layers import is_compiled, is_tied
from lightning_unlearn.runtime import is_sharded


@contextmanager
def tied_cheaply(network: nn.Module, head: nn.Module | None) -> Iterator[None]:
    """Save two vocabulary-sized tensors per backward pass of a network whose ``head`` and embedding share their weight.

    Autograd sums the weight's gradients from both. The head's, from :func:`torch.nn.functional.linear`, is a view, to
    which autograd never adds in place, so the sum takes new memory. Here the head gives a tensor of its own, and the sum
    is made in place. The embedding's is zero but for the rows of the batch's tokens: these alone are added. Values are the
    same. Heads that are sharded, compiled, watched by a function mode, run in mixed precision or have another ``forward``
    are left as they are; so are embeddings with settings beside ``padding_idx``, in half precision, where the sum of a
    token's rows would be rounded at each addition, or on a GPU, which would add them in any order.
    """
    if head is None or not _is_tied(network, head):
        yield
        return
    run, look_up, pass_ = _as_any(_Head.apply), _as_any(_LookUp.apply), _Pass()
    # On the instance, so that module and class stay the same; hooks of the head run around `forward` as before.
    head.__dict__["forward"] = lambda hidden: run(hidden, head.weight, head.bias, pass_)
    embedding = _plain_embedding(network, head.weight)
    if embedding is not None:
        padding = -1 if embedding.padding_idx is None else embedding.padding_idx
        embedding.__dict__["forward"] = lambda index: look_up(index, embedding.weight, padding, pass_)
    try:
        yield
    finally:
        del head.__dict__["forward"]
        if embedding is not None:
            del embedding.__dict__["forward"]


class _Pass:
    """A forward pass and its backward, in which head and embedding meet.

    Attributes:
        calls: How often each of them was run.
    """

    def __init__(self) -> None:
        self.calls = {"head": 0, "embedding": 0}
        self._given: Any = None
        self._version = 0

    def head_gives(self, gradient: Tensor) -> Tensor:
        """Remember the weight's gradient while autograd holds it, and no longer: what it alone holds is not copied."""
        self._given, self._version = TensorWeakRef(gradient), gradient._version
        return gradient

    def taken(self) -> Tensor | None:
        """The head's gradient, if it waits as it was given for that of the embedding."""
        given, self._given = self._given, None
        gradient: Tensor | None = None if given is None else given()
        once = self.calls == {"head": 1, "embedding": 1} and not torch.is_grad_enabled()
        return gradient if gradient is not None and once and gradient._version == self._version else None


class _Head(torch.autograd.Function):
    """A linear layer whose weight gets a gradient that is no view of another tensor."""

    @staticmethod
    @override
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, pass_: _Pass) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.pass_ = pass_
        pass_.calls["head"] += 1
        return F.linear(hidden, weight, bias)

    @staticmethod
    @override
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        hidden, weight = ctx.saved_tensors
        rows, seen = grad.reshape(-1, grad.shape[-1]), hidden.reshape(-1, hidden.shape[-1])
        # The product `rows.T @ seen` is new memory: that is the whole point.
        return (
            grad @ weight,
            ctx.pass_.head_gives(rows.T @ seen),
            rows.sum(0) if ctx.needs_input_grad[2] else None,
            None,
        )


class _LookUp(torch.autograd.Function):
    """An embedding that adds the rows of its gradient to the head's, which autograd holds until this one is known."""

    @staticmethod
    @override
    def forward(ctx: Any, index: Tensor, weight: Tensor, padding: int, pass_: _Pass) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows, ctx.padding, ctx.pass_ = len(weight), padding, pass_
        pass_.calls["embedding"] += 1
        return F.embedding(index, weight)

    @staticmethod
    @override
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, None, None]:
        (index,) = ctx.saved_tensors
        sum_ = ctx.pass_.taken()
        if sum_ is None:  # a loss that does not go through the head, say
            dense = torch.ops.aten.embedding_backward(grad, index, ctx.rows, ctx.padding, False, False)
            return None, dense, None, None
        learns = index.flatten() != ctx.padding
        sum_.index_add_(0, index.flatten()[learns], grad.flatten(0, -2)[learns])
        return None, None, None, None


def _is_tied(network: nn.Module, head: nn.Module) -> bool:
    if type(head) is not nn.Linear or "forward" in head.__dict__ or type(head.weight) is not nn.Parameter:
        return False
    if torch._C._len_torch_function_stack():  # a function mode is active, and may wait for calls of `F.linear`
        return False
    trained = head.weight.requires_grad and torch.is_grad_enabled()
    plain = not torch.is_autocast_enabled(head.weight.device.type) and not _is_wrapped(network)
    return trained and plain and is_tied(network)


def _plain_embedding(network: nn.Module, weight: Any) -> nn.Embedding | None:
    """The embedding that shares the head's weight, if nothing but its rows goes into what it gives."""
    found = [m for m in network.modules() if type(m) is nn.Embedding and m.weight is weight]
    exact = weight.dtype in (torch.float32, torch.float64) and weight.device.type == "cpu"
    if len(found) != 1 or not exact:
        return None
    embedding = found[0]
    plain = embedding.max_norm is None and not embedding.scale_grad_by_freq and not embedding.sparse
    return embedding if plain and "forward" not in embedding.__dict__ else None


def _as_any(function: Any) -> Any:
    return function


def _is_wrapped(network: nn.Module) -> bool:
    return is_compiled(network) or is_sharded(network)
