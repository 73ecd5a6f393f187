"""What every gradient transform keeps to; a new one joins `ALL_TRANSFORMS`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers.pytorch_utils import Conv1D

from lightning_unlearn.transforms import GradientTransform, OnlyIn, RowMask, SpectralCollapse

MASKS: list[Callable[[], GradientTransform]] = [
    lambda: RowMask(share=0.3),
    lambda: RowMask(share=1.0),
    lambda: OnlyIn(["0", "3"]),
]
ALL_TRANSFORMS: list[Callable[[], GradientTransform]] = [
    *MASKS,
    lambda: SpectralCollapse(q=1),
    lambda: SpectralCollapse(fraction=0.5, kind="both", refresh_every=2),
]
SCALES_WITH_ITS_GRADIENT = ALL_TRANSFORMS
IDEMPOTENT = MASKS
# Where it closes a tensor altogether, nothing descends there.
DESCENDS = [build for build in ALL_TRANSFORMS if not isinstance(build(), OnlyIn)]

SHAPES = [(7, 3), (5,), (), (4, 2, 3), (1, 6)]


def of(transforms: list[Callable[[], GradientTransform]]) -> Any:
    return pytest.mark.parametrize("build", transforms, ids=lambda build: str(build()))


def params() -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def attached(build: Callable[[], GradientTransform], weights: list[nn.Parameter]) -> GradientTransform:
    transform = build()
    transform.attach(nn.ParameterList(weights))
    return transform


def row_of(params: list[nn.Parameter], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(p.shape, dtype=dtype) for p in params]


def copied(row: list[Tensor]) -> list[Tensor]:
    return [t.clone() for t in row]


# Shared properties


@of(ALL_TRANSFORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_shape_type_and_device_are_kept(build: Any, dtype: torch.dtype) -> None:
    weights = params()
    before = row_of(weights, dtype)
    after = attached(build, weights)(copied(before), weights)
    assert [(t.shape, t.dtype, t.device) for t in after] == [(t.shape, t.dtype, t.device) for t in before]
    assert all(not t.requires_grad for t in after)


@of(ALL_TRANSFORMS)
def test_a_parameter_without_a_gradient_keeps_none(build: Any) -> None:
    weights = params()
    row = row_of(weights)
    assert attached(build, weights)([None, *row[1:]], weights)[0] is None


@of(ALL_TRANSFORMS)
def test_parameters_and_their_own_gradients_are_left_alone(build: Any) -> None:
    weights = params()
    for p in weights:
        p.grad = torch.randn(p.shape)
    before = [(p.detach().clone(), p.grad, p.grad.clone()) for p in weights]
    attached(build, weights)(row_of(weights), weights)
    for p, (value, grad, retain) in zip(weights, before, strict=True):
        assert torch.equal(p, value)
        assert p.grad is grad
        assert torch.equal(grad, retain)


@of(ALL_TRANSFORMS)
def test_the_same_gradient_gives_the_same_result_to_the_bit(build: Any) -> None:
    """Each process transforms its copy of the gradient."""
    weights = params()
    row = row_of(weights)
    one, other = (attached(build, weights)(copied(row), weights) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@of(SCALES_WITH_ITS_GRADIENT)
def test_a_larger_gradient_gives_a_result_larger_by_as_much(build: Any) -> None:
    weights = params()
    row = row_of(weights)
    scaled = attached(build, weights)([4 * t for t in row], weights)
    for a, b in zip(attached(build, weights)(copied(row), weights), scaled, strict=True):
        assert torch.equal(4 * a, b)  # a power of two rounds nothing


@of(IDEMPOTENT)
def test_twice_is_once(build: Any) -> None:
    weights = params()
    once = attached(build, weights)(row_of(weights), weights)
    twice = attached(build, weights)(copied(once), weights)
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


@of(DESCENDS)
def test_what_it_gives_still_descends(build: Any) -> None:
    weights = params()
    row = row_of(weights)
    for a, b in zip(row, attached(build, weights)(copied(row), weights), strict=True):
        assert float((a * b).sum()) > 0


@of(ALL_TRANSFORMS)
def test_its_state_comes_back(build: Any) -> None:
    weights = params()
    transform, again = attached(build, weights), attached(build, weights)
    transform(row_of(weights), weights)
    again.load_state_dict(transform.state_dict())
    row = row_of(weights)
    assert all(
        torch.equal(a, b) for a, b in zip(transform(copied(row), weights), again(copied(row), weights), strict=True)
    )


# The base


def test_a_result_of_another_shape_or_type_is_refused() -> None:
    class Halves(GradientTransform):
        def of(self, gradient: Tensor, param: Tensor) -> Tensor:
            return gradient.half()

    with pytest.raises(
        ValueError, match=r"`Halves.of` should return .* type torch.float32. Found \(2,\) and torch.float16"
    ):
        Halves()([torch.ones(2)], [nn.Parameter(torch.ones(2))])


def test_what_it_does_not_change_it_is_not_asked_for() -> None:
    first, second = params()[:2]

    class Negates(GradientTransform):
        def changes(self, param: Tensor) -> bool:
            return param is first

        def of(self, gradient: Tensor, param: Tensor) -> Tensor:
            assert param is first
            return -gradient

    row = row_of([first, second])
    after = Negates()(copied(row), [first, second])
    assert torch.equal(after[0], -row[0])
    assert torch.equal(after[1], row[1])


# RowMask


def by_hand(gradient: Tensor, share: float, *, columns: bool = False) -> Tensor:
    """In float64, one unit at a time: it stays if fewer than the number kept are larger."""
    units = gradient.double().T if columns else gradient.double()
    kept = math.ceil(round(share * len(units), 6))
    sizes = [math.sqrt(sum(float(x) ** 2 for x in unit.flatten())) for unit in units]
    stays = torch.tensor([sum(other > size for other in sizes) < kept for size in sizes])
    masked = torch.where(stays.view(-1, *[1] * (units.dim() - 1)), units, torch.zeros((), dtype=torch.float64))
    return masked.T if columns else masked


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("shape", [(10, 4), (30, 2), (9,), (6, 2, 3)])
def test_row_mask_is_what_one_writes_by_hand(share: float, shape: tuple[int, ...]) -> None:
    gradient = torch.randn(shape)
    (masked,) = RowMask(share)([gradient.clone()], [nn.Parameter(torch.zeros(shape))])
    assert_close(masked.double(), by_hand(gradient, share), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("share", "rows", "kept"), [(0.1, 30, 3), (0.1, 31, 4), (0.001, 5, 1), (0.7, 10, 7), (1.0, 4, 4)]
)
def test_row_mask_keeps_so_many_rows(share: float, rows: int, kept: int) -> None:
    (masked,) = RowMask(share)([torch.randn(rows, 3)], [nn.Parameter(torch.zeros(rows, 3))])
    assert int(masked.any(1).sum()) == kept


def test_row_mask_of_everything_is_the_very_gradient() -> None:
    gradient = torch.randn(5, 3)
    assert RowMask(1.0)([gradient], [nn.Parameter(torch.zeros(5, 3))])[0] is gradient


def test_of_rows_of_equal_norm_the_first_are_kept() -> None:
    (masked,) = RowMask(0.5)([torch.ones(4, 2)], [nn.Parameter(torch.zeros(4, 2))])
    assert masked.any(1).tolist() == [True, True, False, False]


def test_the_units_of_conv1d_are_its_columns() -> None:
    layer = nn.Sequential(Conv1D(6, 4), nn.Linear(4, 6))
    gradients = [torch.randn(p.shape) for p in layer.parameters()]
    mask = RowMask(0.5)
    mask.attach(layer)
    masked = mask([g.clone() for g in gradients], list(layer.parameters()))
    assert_close(masked[0].double(), by_hand(gradients[0], 0.5, columns=True), rtol=0, atol=0)
    assert_close(masked[2].double(), by_hand(gradients[2], 0.5), rtol=0, atol=0)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_a_share_outside_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"`share` should be above 0 and at most 1. Found `share = "):
        RowMask(share)
