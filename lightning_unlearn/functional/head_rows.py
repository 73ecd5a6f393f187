"""Functions of each row of logits, from hidden states and output head, a chunk of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.gradient_places import place_of
from lightning_unlearn.functional.head_logits import HeadLogits, product, through, whole

Rowwise = Callable[..., Tensor]


def rows_of_head(function: Rowwise, *tensors: Tensor) -> Tensor:
    r"""Apply a row-wise ``function`` to logits that are put off, without ever holding all of them.

    With a gradient, each chunk of logits is computed once more in the backward pass, and added to the weight's gradient
    in place: one matrix product in four is the price. Not where the weight is frozen: the gradient of the hidden states
    is then computed with the values, up to the factor that the backward pass brings, and no product is added.

    Second derivatives, forward-mode derivatives and ``torch.func`` compute all logits at once.

    Args:
        function: From tensors of ``n`` rows to ``[n]``. Rows must not depend on each other, or on random numbers.
        *tensors: Tensors of ``N`` rows each, at least one of them :class:`HeadLogits`.

    Returns:
        ``[N]``, as from ``function(*tensors)``.

    Example:
        >>> logits = HeadLogits(torch.ones(3, 2), torch.ones(5, 2), elements=5)
        >>> rows_of_head(lambda z: z.sum(-1), logits)
        tensor([10., 10., 10.])
    """
    trained = [i for i, t in enumerate(tensors) if _trains(t)]
    if not trained:
        with torch.no_grad():
            return torch.cat([function(*part) for part in _parts(tensors)])
    logits = tensors[trained[0]]
    if len(trained) > 1 or not isinstance(logits, HeadLogits) or not goes_backward_only():
        return function(*(whole(tensor) for tensor in tensors))
    values: Tensor = _Rows.apply(function, tensors, trained[0], *logits.parts())  # type: ignore[no-untyped-call]
    return values


class _Rows(torch.autograd.Function):
    """The rows of ``function``, and their gradients for hidden states, weight and bias."""

    @staticmethod
    @override
    def forward(
        ctx: Any, function: Rowwise, tensors: Any, place: int, hidden: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.function, ctx.place = function, place
        ctx.tensors = [t.constant() if isinstance(t, HeadLogits) else t for t in tensors]
        ctx.save_for_backward(hidden, weight, bias)
        # In float16, small derivatives vanish if they are not scaled before, by what the backward pass brings.
        only_hidden = ctx.needs_input_grad[3:] == (True, False, False)
        ctx.early = None
        if not (only_hidden and ctx.tensors[place].product_dtype != torch.float16):
            return torch.cat([function(*part) for part in _parts(ctx.tensors)])
        ctx.early, values = torch.empty_like(hidden), []
        cast = weight.to(ctx.tensors[place].product_dtype)
        for rows in _slices(ctx.tensors[place]):
            value, slope = _sloped(function, ctx.tensors, place, rows, cast)
            ctx.early[rows] = slope @ cast
            values.append(value)
            del slope  # before the next chunk is computed: it is as large
        return torch.cat(values)

    @staticmethod
    @override
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias = ctx.saved_tensors
        needed = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled():  # second derivatives are wanted
            return None, None, None, *_with_graph(ctx, grad, (hidden, weight, bias), needed)
        if ctx.early is not None:
            return None, None, None, grad[:, None].to(ctx.early.dtype) * ctx.early, None, None
        own: list[Any] = [torch.empty_like(hidden) if needed[0] else None, None, None]
        place = place_of(weight) if needed[1] else None
        cast = weight.to(ctx.tensors[ctx.place].product_dtype)
        for rows in _slices(ctx.tensors[ctx.place]):
            _, slope = _sloped(ctx.function, ctx.tensors, ctx.place, rows, cast, grad)
            if needed[0]:
                own[0][rows] = slope @ cast
            if place is not None:
                place.add_product_(slope.T, hidden[rows].to(slope.dtype))
            elif needed[1]:
                own[1] = add_product(own[1], slope.T, hidden[rows].to(slope.dtype), weight.dtype)
            if needed[2]:
                own[2] = slope.sum(0) if own[2] is None else own[2] + slope.sum(0)
            del slope
        return None, None, None, *own


def _sloped(
    function: Rowwise, tensors: Any, place: int, rows: slice, weight: Tensor, grad: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The values of a chunk, and their derivatives by the head's own logits, times ``grad``."""
    logits = tensors[place]
    with torch.no_grad():
        own = product(logits.product_dtype, logits.hidden[rows], weight, logits.bias)
        given = [_cut(t, rows) if i != place else None for i, t in enumerate(tensors)]
    with torch.enable_grad():
        given[place] = through(logits.behind, own.requires_grad_())
        value = function(*given)
        (slope,) = torch.autograd.grad(value, own, torch.ones_like(value) if grad is None else grad[rows])
    return value.detach(), slope


def _with_graph(ctx: Any, grad: Tensor, parts: Any, needed: Any) -> list[Tensor | None]:
    logits = ctx.tensors[ctx.place]
    given = [whole(t) for t in ctx.tensors[: ctx.place]]
    given += [through(logits.behind, product(logits.product_dtype, *parts))]
    given += [whole(t) for t in ctx.tensors[ctx.place + 1 :]]
    wanted = [part for part, need in zip(parts, needed, strict=True) if need]
    found = iter(torch.autograd.grad(ctx.function(*given), wanted, grad, create_graph=True))
    return [next(found) if need else None for need in needed]


def add_product(total: Tensor | None, left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """``total + left @ right`` in ``dtype``, in place; the product alone if there is no total yet."""
    if total is None:
        return (left @ right).to(dtype)
    # In mixed precision: products in its type, their sum in that of the weight.
    return total.addmm_(left, right) if left.dtype == dtype else total.add_(left @ right)


def _parts(tensors: Any) -> Iterator[list[Tensor]]:
    first = next(t for t in tensors if isinstance(t, HeadLogits))
    for rows in _slices(first):
        yield [_cut(t, rows) for t in tensors]


def _slices(logits: HeadLogits) -> Iterator[slice]:
    count, width = logits.shape
    step = max(1, logits.elements // max(1, width))
    return (slice(start, min(start + step, count)) for start in range(0, max(count, 1), step))


def _cut(tensor: Tensor, rows: slice) -> Tensor:
    if not isinstance(tensor, HeadLogits):
        return tensor[rows]
    hidden, weight, bias = tensor.parts()
    return through(tensor.behind, product(tensor.product_dtype, hidden[rows], weight, bias))


def _trains(tensor: Tensor) -> bool:
    if isinstance(tensor, HeadLogits):
        return tensor.trains
    return tensor.requires_grad and torch.is_grad_enabled()


def goes_backward_only() -> bool:
    """Whether neither ``torch.func`` is at work, nor derivatives go forward: they do not go through functions of ours."""
    in_functorch = torch._C._functorch.peek_interpreter_stack() is not None
    return not in_functorch and torch.autograd.forward_ad._current_level < 0
