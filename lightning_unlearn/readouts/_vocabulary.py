from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.weak import TensorWeakRef
from typing_extensions import override

from lightning_unlearn.functional.gradient_places import Place, place_of
from lightning_unlearn.functional.head_rows import goes_backward_only
from lightning_unlearn.models.layers import input_embedding, is_compiled, is_tied
from lightning_unlearn.runtime import is_sharded


@contextmanager
def read_cheaply(network: nn.Module, head: nn.Module | None) -> Iterator[None]:
    """Save tensors of the vocabulary's size in the backward pass of a network's ``head`` and embedding.

    Where a gradient of theirs is there already (:func:`~lightning_unlearn.functional.gradient_places.added_in_place`), the
    head adds its product to it, and the embedding the rows of its tokens: neither makes a tensor.

    Otherwise, if they share their weight: autograd sums the gradients from both. The head's, from
    :func:`torch.nn.functional.linear`, is a view, to which autograd never adds in place, so the sum takes new memory. Here
    the head gives a tensor of its own, and the sum is made in place. The embedding's is zero but for the rows of the
    batch's tokens: these alone are added. Values are the same.

    Heads that are sharded, compiled, watched by a function mode, run in mixed precision or have another ``forward`` are left
    as they are; so are embeddings with settings beside ``padding_idx``, in half precision, where the sum of a token's rows
    would be rounded at each addition, or on a GPU, which would add them in any order.
    """
    pass_ = _Pass(is_tied(network))
    with ExitStack() as stack:
        if torch.is_grad_enabled() and not _is_watched(network):
            if head is not None and _is_plain_head(head):
                stack.enter_context(_run_by(_Head, head, head.weight, head.bias, pass_))
            embedding = input_embedding(network)
            if embedding is not None and _is_plain_embedding(embedding):
                padding = -1 if embedding.padding_idx is None else embedding.padding_idx
                stack.enter_context(_run_by(_LookUp, embedding, embedding.weight, padding, pass_))
        yield


@contextmanager
def _run_by(function: Any, module: nn.Module, *args: Any) -> Iterator[None]:
    """Let ``module`` be run by ``function``."""
    # On the instance, so that module and class stay the same; hooks of the module run around `forward` as before.
    module.__dict__["forward"] = lambda given: function.apply(given, *args)
    try:
        yield
    finally:
        del module.__dict__["forward"]


class _Pass:
    """A forward pass and its backward, in which head and embedding meet.

    Args:
        is_tied: Whether they share their weight.

    Attributes:
        calls: How often each of them was run.
    """

    def __init__(self, is_tied: bool) -> None:
        self._is_tied = is_tied
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
        once = self._is_tied and self.calls == {"head": 1, "embedding": 1} and not torch.is_grad_enabled()
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
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        hidden, weight = ctx.saved_tensors
        rows, seen = grad.reshape(-1, grad.shape[-1]), hidden.reshape(-1, hidden.shape[-1])
        place = place_of(weight)
        if place is not None:
            place.add_product_(rows.T, seen)
        # The product `rows.T @ seen` is new memory: that is the whole point.
        own = ctx.pass_.head_gives(rows.T @ seen) if place is None else None
        return grad @ weight, own, rows.sum(0) if ctx.needs_input_grad[2] else None, None


class _LookUp(torch.autograd.Function):
    """An embedding that adds the rows of its gradient to the head's, which autograd holds until this one is known."""

    @staticmethod
    @override
    def forward(ctx: Any, index: Tensor, weight: Tensor, padding: int, pass_: _Pass) -> Tensor:
        ctx.save_for_backward(index)
        # The weight itself is no part of the derivative, and may change until then.
        ctx.weight, ctx.padding, ctx.pass_ = weight, padding, pass_
        pass_.calls["embedding"] += 1
        return F.embedding(index, weight)

    @staticmethod
    @override
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, None, None]:
        (index,), weight = ctx.saved_tensors, ctx.weight
        place, sum_ = place_of(weight), ctx.pass_.taken()
        place = Place(sum_) if place is None and sum_ is not None else place
        if place is None:  # a loss that does not go through the head, say
            dense = torch.ops.aten.embedding_backward(grad, index, len(weight), ctx.padding, False, False)
            return None, dense, None, None
        learns = index.flatten() != ctx.padding
        place.add_rows_(index.flatten()[learns], grad.flatten(0, -2)[learns])
        return None, None, None, None


def _is_watched(network: nn.Module) -> bool:
    """Whether somebody waits for calls of torch's own functions, or runs the network in another way."""
    # A function mode is active, and may wait for calls of `F.linear`; or `torch.func`.
    watched = torch._C._len_torch_function_stack() or not goes_backward_only()
    return bool(watched) or is_compiled(network) or is_sharded(network)


def _is_plain_head(head: nn.Module) -> TypeGuard[nn.Linear]:
    if type(head) is not nn.Linear or "forward" in head.__dict__ or type(head.weight) is not nn.Parameter:
        return False
    return head.weight.requires_grad and not torch.is_autocast_enabled(head.weight.device.type)


def _is_plain_embedding(embedding: nn.Module) -> TypeGuard[nn.Embedding]:
    """Whether nothing but the rows of its weight goes into what it gives, and their sum is exact."""
    if type(embedding) is not nn.Embedding or "forward" in embedding.__dict__:
        return False
    weight = embedding.weight
    exact = weight.dtype in (torch.float32, torch.float64) and weight.device.type == "cpu"
    plain = embedding.max_norm is None and not embedding.scale_grad_by_freq and not embedding.sparse
    return type(weight) is nn.Parameter and weight.requires_grad and exact and plain
