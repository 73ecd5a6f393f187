"""Every objective gives the loss and the gradients of whole logits where they are put off, and never holds them together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_unlearn.functional.head_logits import HeadLogits
from lightning_unlearn.objectives import (
    CEU,
    DPO,
    FLAT,
    NPO,
    UNDIAL,
    WGA,
    Bounded,
    CrossEntropy,
    FixedRandomLabel,
    GradientAscent,
    JensUn,
    JSDToReference,
    KLToReference,
    LogitMarginFlattening,
    Objective,
    PromptDecouple,
    RandomLabel,
    SatImp,
    ScopeTerm,
    SimNPO,
    SpanPair,
    TopKKL,
    UniformLabel,
)
from lightning_unlearn.prediction import KnownLikelihood, Prediction
from lightning_unlearn.readouts import PairedPrediction

WORDS, WIDTH = 97, 6  # so many words that no other tensor has as many numbers as a few rows of logits
COUNTS = (4, 0, 3, 5, 2, 1, 4, 0)  # rows of each example; of the pairs (i, i + 4), the last has no companion
ROWS = 6  # at once: more than any example, fewer than some pairs

OBJECTIVES: list[Callable[[], Objective]] = [
    CrossEntropy,
    GradientAscent,
    lambda: Bounded(GradientAscent(), bound=9.0),
    lambda: Bounded(GradientAscent(), bound=0.01),
    lambda: Bounded(NPO(), bound=1.0),
    lambda: NPO(0.5),
    lambda: SimNPO(2.5, gamma=0.5),
    WGA,
    SatImp,
    CEU,
    lambda: CEU(skip_first_tokens=1),
    UNDIAL,
    LogitMarginFlattening,
    RandomLabel,
    FixedRandomLabel,
    UniformLabel,
    lambda: JensUn([4, 1, 3]),
    JSDToReference,
    KLToReference,
    lambda: TopKKL(k=3),
    DPO,
    FLAT,
    lambda: SpanPair(kappa=0.5),
    lambda: ScopeTerm(NPO(), eta=2.0),
    lambda: PromptDecouple(GradientAscent(), weight=0.5),
]
HEADS = ["trained", "frozen", "biased"]


class Largest(TorchDispatchMode):
    """The most rows of logits that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.dim() == 2 and out.shape[1] == WORDS:
            self.rows = max(self.rows, len(out))
        return out


def head(kind: str) -> tuple[Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(4)
    sizes = ((sum(COUNTS), WIDTH), (WORDS, WIDTH), (WORDS,))
    hidden, weight, bias = (torch.randn(s, generator=generator, dtype=torch.float64) for s in sizes)
    parts = (hidden, weight, bias) if kind == "biased" else (hidden, weight)
    for part in parts if kind != "frozen" else parts[:1]:
        part.requires_grad_()
    return hidden, weight, bias if kind == "biased" else None


def predicted(logits: Tensor) -> PairedPrediction:
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(WORDS, (sum(COUNTS),), generator=generator)
    example = torch.arange(len(COUNTS)).repeat_interleave(torch.tensor(COUNTS))
    return PairedPrediction(logits, labels, example, len(COUNTS))


def put_off(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.tanh(HeadLogits(hidden, weight, bias, elements=ROWS * WORDS) / 2) * 2


def whole(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.tanh(F.linear(hidden, weight, bias) / 2) * 2


def loss_of(make: Callable[[], Objective], logits: Callable[..., Tensor], parts: Any) -> Tensor:
    hidden, weight, bias = parts
    with torch.no_grad():
        original = predicted(logits(hidden.detach() + 0.3, weight, bias))
    return make()(predicted(logits(hidden, weight, bias)), original)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("make", OBJECTIVES, ids=lambda make: repr(make()))
def test_loss_and_gradients_are_those_of_whole_logits(make: Callable[[], Objective], kind: str) -> None:
    parts = head(kind)
    wanted = [part for part in parts if part is not None and part.requires_grad]
    expected = loss_of(make, whole, parts)
    with Largest() as seen:
        loss = loss_of(make, put_off, parts)
        gradients = torch.autograd.grad(3 * loss, wanted)
    assert_close(loss, expected, rtol=0, atol=1e-12)
    for got, gradient in zip(gradients, torch.autograd.grad(3 * expected, wanted), strict=True):
        assert_close(got, gradient, rtol=0, atol=1e-12)
    assert 0 < seen.rows <= ROWS + 3  # a pair is never cut; the largest here has nine rows


@pytest.mark.parametrize("make", [CrossEntropy, NPO, DPO, KLToReference, FLAT], ids=lambda make: make.__name__)
def test_second_derivatives_are_those_of_whole_logits(make: Callable[[], Objective]) -> None:
    parts = head("biased")

    def second(logits: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(loss_of(make, logits, parts), parts, create_graph=True)
        return torch.autograd.grad(sum((g * g.detach().sin()).sum() for g in first), parts)

    for got, expected in zip(second(put_off), second(whole), strict=True):
        assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [CrossEntropy, NPO], ids=lambda make: make.__name__)
def test_a_graph_may_be_gone_through_twice(make: Callable[[], Objective]) -> None:
    parts = head("biased")
    loss = loss_of(make, put_off, parts)
    once = torch.autograd.grad(loss, parts, retain_graph=True)
    for got, expected in zip(torch.autograd.grad(loss, parts), once, strict=True):
        assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [CrossEntropy, NPO], ids=lambda make: make.__name__)
def test_functional_derivatives_are_those_of_whole_logits(make: Callable[[], Objective]) -> None:
    parts = tuple(part.detach() for part in head("biased"))
    original = predicted(whole(*parts) + 0.2)
    got, expected = (
        torch.func.grad(lambda h, z=z: make()(predicted(z(h, *parts[1:])), original))(parts[0])
        for z in (put_off, whole)
    )
    assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", HEADS)
def test_no_product_is_computed_twice_of_a_mean(kind: str) -> None:
    def products(logits: Callable[..., Tensor]) -> int:
        with Counted() as seen:
            loss_of(lambda: NPO(0.5), logits, head(kind)).backward()
        return seen.multiplied

    # One product forward and one or two backward; the reference's is not counted twice either.
    assert products(put_off) <= products(whole)


class Counted(TorchDispatchMode):
    """Multiplications in matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.multiplied = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.addmm_.default):
            self.multiplied += out.numel() * args[-1].shape[0]
        return out


def test_a_readers_own_objective_gets_logits_by_name() -> None:
    class Confidence(Objective):
        def forward(self, student: Prediction, reference: Any = None) -> Tensor:
            return student.logits.softmax(-1).amax(-1).mean()

    parts = head("trained")[:2]
    got, expected = (torch.autograd.grad(loss_of(Confidence, z, (*parts, None)), parts) for z in (put_off, whole))
    assert_close(got, expected, rtol=0, atol=1e-12)


def test_another_forward_is_not_taken_for_a_mean() -> None:
    class WorstToken(CrossEntropy):
        def forward(self, student: Any, reference: Any = None) -> Tensor:
            return student.token_nll().max()

    parts = head("trained")[:2]
    got, expected = (torch.autograd.grad(loss_of(WorstToken, z, (*parts, None)), parts) for z in (put_off, whole))
    assert WorstToken.adds_up_over is None
    assert_close(got, expected, rtol=0, atol=1e-12)


def test_a_reference_of_likelihoods_is_cut_as_well() -> None:
    parts = head("trained")[:2]
    nll = torch.rand(sum(COUNTS), dtype=torch.float64)
    of = []
    for logits in (put_off, whole):
        student = predicted(logits(*parts, None))
        original = KnownLikelihood(nll, student.example, student.batch_size)
        of.append(torch.autograd.grad(NPO(0.5)(student, original), parts))
    assert_close(of[0], of[1], rtol=0, atol=1e-12)
