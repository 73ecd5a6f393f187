"""A loss that is a mean, of parts of a batch whose logits are put off: each part gives its gradient at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.gradient_places import place_of
from lightning_unlearn.functional.head_logits import HeadLogits, product, through
from lightning_unlearn.functional.head_rows import add_product, goes_backward_only
from lightning_unlearn.prediction import KnownLikelihood, Likelihood, Prediction

Loss = Callable[[Prediction, Likelihood | None], Tensor]
Units = Literal["rows", "examples", "pairs"]


class Part(NamedTuple):
    """Some rows of a batch.

    Args:
        rows: Which ones, ``[n]``.
        share: Of all units of the batch, how many are here.
    """

    rows: Tensor
    share: float


def loss_in_parts(loss: Loss, student: Prediction, reference: Likelihood | None, over: Units) -> Tensor:
    """``loss``, which is a mean over units, as a sum over parts of the batch, if logits are put off and the head is trained.

    The forward pass computes each part's loss and, since its share in the whole is known, its gradient for hidden states
    and head, while its logits are there. No product is computed twice.

    Args:
        loss: A mean over units.
        student: What the network predicts.
        reference: What the original did.
        over: What the units are: rows, examples with rows, or pairs of examples of which one has rows.
    """
    logits = student.put_off
    # Frozen, its gradient costs nothing more row by row. In float16, what is not scaled would vanish.
    if logits is None or not _trained(logits) or logits.product_dtype == torch.float16 or _has_graph(reference):
        return loss(student, reference)
    parts = list(_parts(student, over, max(1, logits.elements // logits.shape[1])))
    if len(parts) == 1 or not goes_backward_only():
        return loss(student, reference)
    constant = replace(student, logits=logits.constant(), features=None, router_loss=None)
    total: Tensor = _Sum.apply(loss, constant, reference, parts, *logits.parts())  # type: ignore[no-untyped-call]
    return total


class _Sum(torch.autograd.Function):
    """The loss, and its gradients for hidden states, weight and bias."""

    @staticmethod
    @override
    def forward(
        ctx: Any,
        loss: Loss,
        student: Prediction,
        reference: Any,
        parts: list[Part],
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        ctx.loss, ctx.student, ctx.reference = loss, student, reference
        ctx.save_for_backward(hidden, weight, bias)
        needed = ctx.needs_input_grad[4:]
        values, ctx.own = [], [torch.zeros_like(hidden) if needed[0] else None, None, None]
        cast = weight.to(student.scores.product_dtype)  # type: ignore[attr-defined]
        for part in parts:
            given = None if reference is None else reference.rows(part.rows)
            value, slope = _sloped(loss, student.rows(part.rows), given, part.share, cast)
            if needed[0]:
                ctx.own[0][part.rows] = (slope @ cast).to(hidden.dtype)
            if needed[1]:
                ctx.own[1] = add_product(ctx.own[1], slope.T, hidden[part.rows].to(slope.dtype), weight.dtype)
            if needed[2]:
                ctx.own[2] = slope.sum(0) + (0 if ctx.own[2] is None else ctx.own[2])
            values.append(value)
            del slope  # before the next part is computed: it is as large as its logits
        return torch.stack(values).sum()

    @staticmethod
    @override
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        own, ctx.own = ctx.own, None
        # Second derivatives are wanted, or it is not the first backward pass through this graph.
        if torch.is_grad_enabled() or own is None:
            return None, None, None, None, *_with_graph(ctx, grad, own)
        # In place: a copy of the head's gradient would be the largest tensor of all.
        own = [None if t is None else t.mul_(grad) for t in own]
        place = None if own[1] is None else place_of(ctx.saved_tensors[1])
        if place is not None:
            place.total.add_(own[1], alpha=place.factor)
            own[1] = None
        return None, None, None, None, *own


def _sloped(
    loss: Loss, part: Prediction, reference: Likelihood | None, share: float, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """The part's share of the loss, and its derivatives by the head's own logits."""
    logits = part.scores
    assert isinstance(logits, HeadLogits)
    own = product(logits.product_dtype, logits.hidden, weight, logits.bias)
    with torch.enable_grad():
        own.requires_grad_()
        value = share * loss(replace(part, logits=through(logits.behind, own)), reference)
        (slope,) = torch.autograd.grad(value, own)
    return value.detach(), slope


def _with_graph(ctx: Any, grad: Tensor, own: Any) -> list[Tensor | None]:
    ctx.own, further, parts = own, torch.is_grad_enabled(), ctx.saved_tensors
    logits, needed = ctx.student.scores, ctx.needs_input_grad[4:]
    with torch.enable_grad():
        scores = through(logits.behind, product(logits.product_dtype, *parts))
        loss = ctx.loss(replace(ctx.student, logits=scores), ctx.reference)
        wanted = [part for part, need in zip(parts, needed, strict=True) if need]
        found = iter(torch.autograd.grad(loss, wanted, grad, create_graph=further))
    return [next(found) if need else None for need in needed]


def _parts(student: Prediction, over: Units, most: int) -> Iterator[Part]:
    """Parts of at most so many rows; a unit is never cut, and may have more."""
    count = len(student.example)
    if over == "rows":
        for index in torch.arange(count, device=student.example.device).split(most):
            yield Part(index, len(index) / count)
        return
    unit = student.example % (student.batch_size // 2) if over == "pairs" else student.example
    _, place, sizes = unit.unique(return_inverse=True, return_counts=True)
    last, filled, part_of = 0, 0, []
    for size in sizes.tolist():
        last, filled = (last + 1, size) if filled and filled + size > most else (last, filled + size)
        part_of.append(last)
    part_of_row = torch.tensor(part_of, device=place.device)[place]
    for number in range(last + 1):
        yield Part((part_of_row == number).nonzero()[:, 0], part_of.count(number) / len(part_of))


def _trained(logits: HeadLogits) -> bool:
    return logits.trains and any(t is not None and t.requires_grad for t in logits.parts()[1:])


def _has_graph(reference: Likelihood | None) -> bool:
    if isinstance(reference, Prediction):
        scores = reference.scores
        return scores.trains if isinstance(scores, HeadLogits) else scores.requires_grad
    return isinstance(reference, KnownLikelihood) and reference.nll.requires_grad
