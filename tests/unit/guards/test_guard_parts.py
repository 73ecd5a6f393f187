"""Parts of a guard by themselves."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from lightning_unlearn.guards import (
    BFloat16,
    Euclidean,
    Float32,
    History,
    MainMemory,
    MicroBatches,
    Monitor,
    NoChange,
    NoIncrease,
    OptimizerMetric,
    RetainGradient,
    Rule,
)


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
