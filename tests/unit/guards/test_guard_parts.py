"""Parts of a guard by themselves; a new one joins the list of its kind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.testing import assert_close

from lightning_unlearn.guards import (
    BFloat16,
    Direction,
    Directions,
    Euclidean,
    Float32,
    Geometry,
    History,
    Int8,
    MainMemory,
    MicroBatches,
    Monitor,
    NoChange,
    NoIncrease,
    OptimizerMetric,
    PerExample,
    RetainGradient,
    Rule,
    Storage,
)

RULES: list[Rule] = [NoIncrease(), NoChange(), Monitor()]
DIRECTIONS: list[Callable[[], Directions]] = [RetainGradient, MicroBatches, PerExample, lambda: History(3)]
GEOMETRIES: list[Geometry] = [Euclidean(), OptimizerMetric()]
# And by how much of the largest element of 256 what is kept may differ. `MatrixFree` keeps none: `test_per_example.py`.
STORAGES: list[tuple[Storage, float]] = [(Float32(), 0), (MainMemory(), 0), (BFloat16(), 2**-8), (Int8(), 1 / 127)]
every_directions = pytest.mark.parametrize("make", DIRECTIONS, ids=lambda make: repr(make()))


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_what_a_rule_leaves_of_a_step_keeps_it_and_a_step_that_keeps_it_is_left(rule: Rule) -> None:
    rows, step = torch.randn(4, 9, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    taken = rule.multipliers(rows @ rows.T, rows @ step).multipliers
    left = step - taken @ rows
    cosines = rows @ left / (rows.norm(dim=1) * step.norm())
    assert float(rule.breach(rows @ step / (rows.norm(dim=1) * step.norm()))) > 0.1
    assert float(rule.breach(cosines)) < 1e-9 or not rule.corrects
    assert bool(taken.any()) == rule.corrects
    across = step - torch.linalg.lstsq(rows.T, step[:, None]).solution[:, 0] @ rows
    again = rule.multipliers(rows @ rows.T, rows @ across).multipliers
    assert_close(again @ rows, torch.zeros(9, dtype=torch.float64), rtol=0, atol=1e-9)


def new_directions(*values: float) -> list[Direction]:
    return [[torch.tensor(value), None] for value in values]


@every_directions
def test_what_is_new_is_protected_first_and_left_as_it_is(make: Callable[[], Directions]) -> None:
    directions = make()
    for step in range(5):
        new = new_directions(step, step + 0.5)
        protected = directions.protected(new)
        assert all(a is b for a, b in zip(protected, new, strict=False))
        directions.remember(new)
        assert [float(row[0]) for row in new] == [step, step + 0.5]  # type: ignore[arg-type]


@every_directions
def test_directions_come_back_from_their_state(make: Callable[[], Directions]) -> None:
    directions, again = make(), make()
    for step in range(5):
        directions.remember(new_directions(step))
    again.load_state_dict(directions.state_dict())
    new = new_directions(9)
    for one, other in zip(again.protected(new), directions.protected(new), strict=True):
        assert one[0] == other[0]
    assert repr(again) == repr(directions)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=repr)
def test_a_metric_is_not_negative_and_nothing_is_touched_to_find_it(geometry: Geometry) -> None:
    weight = torch.nn.Parameter(torch.randn(6, 2))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.grad = torch.randn(6, 2)
    optimizer.step()
    geometry.refuse_unsupported(optimizer)
    kept = [t.clone() for t in (weight.detach(), weight.grad, *optimizer.state[weight].values())]
    metric = geometry.inverse_metric(optimizer, weight, optimizer.param_groups[0])
    assert metric is None or (metric.shape in {weight.shape, torch.Size()} and bool((metric >= 0).all()))
    now = (weight.detach(), weight.grad, *optimizer.state[weight].values())
    assert all(torch.equal(a, b) for a, b in zip(now, kept, strict=True))


@pytest.mark.parametrize(("storage", "loses"), STORAGES, ids=repr)
def test_rows_are_what_was_stored(storage: Storage, loses: float) -> None:
    gradients = [torch.randn(8, 64), torch.randn(8, 64)]
    given = [g.clone() for g in gradients]
    rows = storage.rows([[storage.stored(g, 2.0)] for g in gradients], [0], [512])
    for g in gradients:
        g.zero_()  # what is stored is a copy
    block = torch.empty(len(rows), 256)
    for start in (0, 256):
        rows.fill_(block, slice(start, start + 256))
        for found, g in zip(block, given, strict=True):
            expected = g.flatten()[start : start + 256] / 2
            assert_close(found, expected, rtol=0, atol=loses * float(expected.abs().max()))


def test_history_keeps_the_newest_first_and_forgets_the_oldest() -> None:
    history = History(length=3)
    for step in range(5):
        protected = [float(row[0]) for row in history.protected([[torch.tensor(float(step))]])]
        assert protected == [float(s) for s in range(step, max(step - 3, -1), -1)]
        history.remember([[torch.tensor(float(step))]])


def test_history_comes_back_from_its_state_and_an_empty_state_empties_it() -> None:
    history, again = History(length=3), History(length=3)
    for step in range(3):
        history.remember([[torch.tensor(float(step)), None]])
    again.load_state_dict(history.state_dict())
    assert [row[0].item() for row in again.protected([])] == [2.0, 1.0]
    again.load_state_dict({})
    assert again.protected([]) == []


@pytest.mark.parametrize("directions", [RetainGradient(), MicroBatches()], ids=repr)
def test_what_has_no_past_protects_what_is_new(directions: RetainGradient | MicroBatches) -> None:
    new = [[torch.ones(1)], [torch.zeros(1)]]
    directions.remember(new)
    assert directions.protected(new) == new
    assert directions.state_dict() == {}


@pytest.mark.parametrize(("rule", "expected"), [(NoIncrease(), 0.1), (NoChange(), 0.5), (Monitor(), 0.1)], ids=repr)
def test_breach_is_uphill_for_a_cone_and_either_way_for_null(rule: Rule, expected: float) -> None:
    assert float(rule.breach(torch.tensor([-0.5, 0.1]))) == pytest.approx(expected)


def test_adams_step_is_steepest_descent_in_its_metric() -> None:
    """Without momentum the step is minus the inverse metric times the gradient."""
    weight = torch.nn.Parameter(torch.zeros(50))
    optimizer = torch.optim.Adam([weight], lr=0.3, betas=(0.0, 0.9))
    for _ in range(4):
        before = weight.detach().clone()
        weight.grad = torch.randn(50)
        optimizer.step()
        metric = OptimizerMetric().inverse_metric(optimizer, weight, optimizer.param_groups[0])
        assert_close(weight.detach() - before, -metric * weight.grad, rtol=1e-5, atol=1e-6)


def test_a_parameter_without_moments_is_not_touched() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([weight])
    assert not OptimizerMetric().inverse_metric(optimizer, weight, optimizer.param_groups[0]).any()


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adamax, torch.optim.RMSprop, torch.optim.Adagrad])
def test_optimizers_without_adams_moments_are_refused_by_name(kind: type[torch.optim.Optimizer]) -> None:
    optimizer = kind([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
    with pytest.raises(NotImplementedError, match=f"Found `{kind.__name__}`. Use `geometry=Euclidean"):
        OptimizerMetric().refuse_unsupported(optimizer)
    Euclidean().refuse_unsupported(optimizer)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_what_is_stored_is_a_copy_and_loses_nothing_unless_asked(dtype: torch.dtype) -> None:
    gradient = torch.randn(5).to(dtype)
    for storage in (Float32(), MainMemory()):
        kept = storage.stored(gradient, 2.0)
        assert kept.data_ptr() != gradient.data_ptr()
        assert torch.equal(kept, gradient.to(kept.dtype) / 2)
    assert BFloat16().stored(gradient).dtype == torch.bfloat16
