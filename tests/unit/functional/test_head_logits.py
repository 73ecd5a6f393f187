"""Logits that are put off are those of the head, whoever asks for them; rows of them are taken in chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_unlearn.functional.chunks import in_chunks
from lightning_unlearn.functional.divergence import kl_divergence
from lightning_unlearn.functional.head_logits import HeadLogits
from lightning_unlearn.functional.likelihood import token_nll

ROWS, WIDTH, WORDS = 11, 4, 7

# What models do behind their heads: Gemma's soft cap, Cohere's scale, Granite's, a type, and what is not taken down.
BEHIND: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda z: z,
    "soft cap": lambda z: torch.tanh(z / 3) * 3,
    "scale": lambda z: 0.25 * z,
    "float": lambda z: z.float(),
    "fewer words": lambda z: z[..., :5],
    "a bias of words": lambda z: z + torch.arange(WORDS).to(z.dtype),
}


def parts(*, weight: bool = True, bias: bool = True, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    made = [torch.randn(ROWS, WIDTH), torch.randn(WORDS, WIDTH), torch.randn(WORDS)]
    trained = (True, weight, weight and bias)
    return [t.to(dtype).requires_grad_(needed) for t, needed in zip(made, trained, strict=True)]


def put_off(hidden: Tensor, weight: Tensor, bias: Tensor | None = None, rows: int = 3) -> HeadLogits:
    return HeadLogits(hidden, weight, bias, elements=rows * len(weight))


def labels() -> Tensor:
    return torch.randint(5, (ROWS,))


@pytest.mark.parametrize("name", BEHIND)
def test_what_a_model_does_behind_its_head_happens(name: str) -> None:
    h, w, b = parts()
    expected, got = (BEHIND[name](z) for z in (F.linear(h, w, b), put_off(h, w, b)))
    assert isinstance(got, HeadLogits) == (name not in ("fewer words", "a bias of words"))
    assert (got.shape, got.dtype, got.device) == (expected.shape, expected.dtype, expected.device)
    y = labels()
    assert_close(token_nll(got, y), token_nll(expected, y), rtol=0, atol=1e-12 if name != "float" else 1e-6)
    assert_close(got + 0.0, expected, rtol=0, atol=1e-12 if name != "float" else 1e-6)


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
@pytest.mark.parametrize("name", BEHIND)
def test_gradients_are_those_of_the_whole(name: str, frozen: bool) -> None:
    h, w, b = parts(weight=not frozen)
    y, weights = labels(), torch.randn(ROWS, dtype=torch.float64)
    wanted = [t for t in (h, w, b) if t.requires_grad]

    def gradients(logits: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((token_nll(BEHIND[name](logits), y) * weights).sum(), wanted)

    for got, expected in zip(gradients(put_off(h, w, b)), gradients(F.linear(h, w, b)), strict=True):
        assert_close(got, expected, rtol=0, atol=1e-12 if name != "float" else 1e-6)


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
def test_second_derivatives_are_those_of_the_whole(frozen: bool) -> None:
    h, w, _ = parts(weight=not frozen)
    y, weights = labels(), torch.randn(ROWS, dtype=torch.float64, requires_grad=True)
    wanted = [t for t in (h, w, weights) if t.requires_grad]

    def second(logits: Tensor) -> tuple[Tensor, ...]:
        first = torch.autograd.grad((token_nll(logits, y) * weights.sin()).sum(), wanted, create_graph=True)
        return torch.autograd.grad(sum((g**2).sum() for g in first), wanted)

    for got, expected in zip(second(put_off(h, w)), second(F.linear(h, w)), strict=True):
        assert_close(got, expected, rtol=0, atol=1e-12)


def test_a_graph_may_be_gone_through_twice() -> None:
    h, w, b = parts()
    loss = token_nll(put_off(h, w, b), labels()).square().sum()
    once = torch.autograd.grad(loss, [h, w, b], retain_graph=True)
    for got, expected in zip(torch.autograd.grad(loss, [h, w, b]), once, strict=True):
        assert_close(got, expected, rtol=0, atol=0)


def test_functional_derivatives_compute_all_at_once() -> None:
    h, w, _ = parts()
    y = labels()

    def loss(hidden: Tensor, logits: Callable[..., Tensor]) -> Tensor:
        return token_nll(logits(hidden, w.detach()), y).square().sum()

    for derivative in (torch.func.grad, torch.func.hessian):
        assert_close(derivative(loss)(h.detach(), put_off), derivative(loss)(h.detach(), F.linear), rtol=0, atol=1e-12)


def test_derivatives_may_go_forward() -> None:
    h, w, _ = parts()
    direction, y = torch.randn_like(h), labels()
    of = [torch.func.jvp(lambda x, z=z: token_nll(z(x, w), y), (h,), (direction,))[1] for z in (put_off, F.linear)]
    assert_close(of[0], of[1], rtol=0, atol=1e-12)


def test_two_that_are_trained_are_computed_as_a_whole() -> None:
    h, w, b = parts()
    of = [kl_divergence(z(h, w, b), z(2 * h, w, b)).sum() for z in (put_off, F.linear)]
    got, expected = (torch.autograd.grad(loss, [h, w]) for loss in of)
    assert_close(got, expected, rtol=0, atol=1e-12)


def test_what_was_read_without_a_graph_has_none_later() -> None:
    h, w, b = parts()
    with torch.no_grad():
        original = put_off(0.9 * h, w, b)
    got = torch.autograd.grad(kl_divergence(put_off(h, w, b), original).sum(), [h, w])
    expected = torch.autograd.grad(kl_divergence(F.linear(h, w, b), F.linear(0.9 * h, w, b).detach()).sum(), [h, w])
    assert_close(got, expected, rtol=0, atol=1e-12)
    assert not token_nll(original, labels()).requires_grad


def test_some_rows_are_those_rows() -> None:
    h, w, b = parts()
    whole = F.linear(h, w, b)
    for index in (torch.tensor([4, 0, 4]), torch.arange(ROWS) % 2 == 0):
        some = put_off(h, w, b)[index]
        assert isinstance(some, HeadLogits)
        assert_close(some.whole(), whole[index], rtol=0, atol=1e-12)


def test_whoever_asked_for_all_sees_what_was_done_to_them() -> None:
    h, w, b = parts(weight=False)
    logits = put_off(h, w, b)
    logits[:, 2] = -torch.inf  # in place, as models mask words that may not be said
    assert (token_nll(logits, torch.full((ROWS,), 2)) == torch.inf).all()


def test_a_head_that_has_changed_is_not_used() -> None:
    h, w, b = parts()
    logits = put_off(h, w, b)
    with torch.no_grad():
        w.mul_(2)
    with pytest.raises(RuntimeError, match="before the head's weight changes"):
        token_nll(logits, labels())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
def test_half_precision_stays_within_its_rounding(dtype: torch.dtype, frozen: bool) -> None:
    h, w, _ = parts(weight=not frozen, dtype=dtype)
    y, wanted = labels(), [h] if frozen else [h, w]
    exact = [t.detach().double().requires_grad_() for t in (h, w)]
    expected = torch.autograd.grad(token_nll(F.linear(*exact), y).sum(), exact[: len(wanted)])

    def error(logits: Callable[..., Tensor]) -> list[float]:
        found = torch.autograd.grad(token_nll(logits(h, w), y).sum(), wanted)
        return [float((g - e).norm() / e.norm()) for g, e in zip(found, expected, strict=True)]

    for ours, theirs in zip(error(put_off), error(F.linear), strict=True):
        assert ours < 2 * theirs + torch.finfo(dtype).eps


def test_mixed_precision_multiplies_in_its_type_and_sums_in_that_of_the_weight() -> None:
    h, w, _ = parts(dtype=torch.float32)
    y = labels()

    def gradients(logits: Tensor) -> Any:
        return torch.autograd.grad(token_nll(logits, y).sum(), [h, w])

    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = gradients(F.linear(h, w))
    got = gradients(HeadLogits(h, w, dtype=torch.bfloat16, elements=3 * WORDS))
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == torch.float32
        assert_close(ours, theirs, rtol=2**-6, atol=2**-6)


def test_no_rows_give_none() -> None:
    h, w, _ = parts()
    assert in_chunks(lambda z: z.sum(-1), put_off(h[:0], w)).shape == (0,)
