"""A guarded fit in two real processes equals the one in one process, for every rule, scope and kind of sharding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from _guarded_fits import NAMES
from _modules import SomebodysModule, quiet
from _ranks import run_ranks
from _sharded_fits import STRATEGIES, data, loader, whole
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import Bounded, GradientAscent, Unlearn
from lightning_unlearn.callbacks import StepGuard, TrainOnly
from lightning_unlearn.guards import (
    Directions,
    History,
    MicroBatches,
    Monitor,
    NoChange,
    NoIncrease,
    OptimizerMetric,
    RetainGradient,
    Rule,
)
from lightning_unlearn.selectors import Random, TopShare

pytestmark = pytest.mark.slow  # two processes each; `test_distributed.py` has one fit of every kind in `make test`


def fit(
    kind: str | None,
    rank: int,
    world_size: int,
    retain: bool = False,
    exact: bool = False,
    beside: Callable[[], list[Any]] = list,
    **guard: Any,
) -> Any:
    module_class, strategy = STRATEGIES[kind] if kind else (SomebodysModule, lambda: "auto")
    module = module_class("adamw")
    if exact:
        module.double()
    unlearn = Unlearn(
        Bounded(GradientAscent(), bound=4.0),
        forget=DataLoader(data(2, 12, exact), batch_size=8 // world_size),
        weight=10.0,
    )
    source = {"retain": DataLoader(data(5, 16, exact), batch_size=8 // world_size)} if retain else {}
    stepguard = StepGuard(**guard, **source)
    trainer = quiet(
        strategy=strategy(),
        devices=world_size,
        callbacks=[unlearn, stepguard, *beside()],
        accumulate_grad_batches=2,
        use_distributed_sampler=False,
        max_epochs=2,
    )
    trainer.fit(module, loader(data(1, 32, exact), rank, world_size))
    assert stepguard._steps == {"taken": 4, "transformed": 4, "fallbacks": 0}
    logged = {name: float(trainer.callback_metrics[f"guard/{name}"]) for name in (*NAMES, "cosine")}
    return whole(module, kind), logged


def assert_equal_to_one_process(kind: str, exact: bool = False, **guard: Any) -> None:
    expected, logged = fit(None, 0, 1, exact=exact, **guard)
    for parameters, logged_there in run_ranks(lambda rank, world: fit(kind, rank, world, exact=exact, **guard)):
        for name, value in expected.items():
            if kind == "fsdp1" and name == "unused":
                continue  # FSDP1 gives unused parameters a zero gradient, so they decay, with or without us
            assert_close(
                parameters[name], value, rtol=0, atol=1e-9 if exact else 1e-6, msg=lambda m, name=name: f"{name}: {m}"
            )
        assert logged_there["cosine"] < 1e-5
        for name in NAMES:
            assert logged_there[name] == pytest.approx(logged[name], abs=2e-6, rel=1e-4), name
    watched, _ = fit(None, 0, 1, exact=exact, **{**guard, "rule": Monitor()})
    assert any(not torch.equal(watched[name], expected[name]) for name in expected)


@pytest.mark.parametrize("scope", ["global", "module", "parameter"])
@pytest.mark.parametrize("rule", [NoIncrease(), NoChange()], ids=repr)
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_every_rule_and_scope(kind: str, rule: Rule, scope: Any) -> None:
    assert_equal_to_one_process(kind, rule=rule, scope=scope)


@pytest.mark.parametrize("directions", [History(3), MicroBatches()], ids=repr)
@pytest.mark.parametrize("kind", ["ddp", "ddp_bucket_view", "fsdp2"])
def test_all_directions(kind: str, directions: Directions) -> None:
    assert_equal_to_one_process(kind, rule=NoChange(), directions=directions)


@pytest.mark.parametrize("directions", [RetainGradient(), MicroBatches()], ids=repr)
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_a_retain_set_of_its_own(kind: str, directions: Directions) -> None:
    assert_equal_to_one_process(kind, exact=True, rule=NoChange(), directions=directions, retain=True)


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_the_optimizers_metric(kind: str) -> None:
    """In float64: where a gradient is nearly zero, Adam, and so its metric, makes much of the last digit of float32."""
    assert_equal_to_one_process(kind, exact=True, rule=NoChange(), geometry=OptimizerMetric())


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_beside_a_mask_of_single_elements(kind: str) -> None:
    def mask() -> list[Any]:
        return [TrainOnly(selector=Random(), choice=TopShare(0.3))]

    assert_equal_to_one_process(kind, rule=NoChange(), directions=History(3), beside=mask)


@pytest.mark.parametrize("rule", [NoIncrease(), NoChange()], ids=repr)
def test_flat_shards(rule: Rule) -> None:
    assert_equal_to_one_process("fsdp1", rule=rule)
