"""Membership in fits of two real processes: the same numbers as in one, and a fit that does not notice."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import examples, quiet
from _ranks import run_ranks
from _sharded_fits import STRATEGIES, data, loader, whole
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import ClassificationReadout, GradientAscent, RecoveryCheck, Unlearn
from lightning_unlearn.audits import GradientNorm, Measure, Membership
from lightning_unlearn.observation import Observation

pytestmark = pytest.mark.slow


def fit(kind: str, rank: int, world_size: int, checked: bool = True) -> tuple[dict[str, Any], list[Observation]]:
    pl.seed_everything(0, verbose=False)
    make, strategy = STRATEGIES[kind]
    module = make() if world_size > 1 else STRATEGIES["ddp"][0]()
    probes = {split: DataLoader(examples(seed, 10), 4) for split, seed in (("forget", 5), ("holdout", 6))}
    check = RecoveryCheck(
        audits=[Measure(), Membership(most_blind=1.0), GradientNorm()],
        readout=ClassificationReadout(),
        probes=probes,
        every_n_steps=2,
    )
    unlearn = Unlearn(GradientAscent(), forget=DataLoader(data(2, 16, False), 8 // world_size))
    trainer = quiet(
        strategy=strategy() if world_size > 1 else "auto",
        devices=world_size,
        callbacks=[unlearn, *([check] if checked else [])],
        use_distributed_sampler=False,
        max_steps=2,
        max_epochs=-1,
        limit_val_batches=0,
    )
    trainer.fit(module, loader(data(1, 32, False), rank, world_size))
    return whole(module, kind if world_size > 1 else None), check.observations


@pytest.mark.parametrize("kind", ["ddp", "fsdp2", "fsdp1"])
def test_two_processes_find_what_one_does_and_the_fit_does_not_notice(kind: str) -> None:
    _, alone = fit(kind, 0, 1)
    (weights, first), (_, second) = run_ranks(lambda rank, world: fit(kind, rank, world))
    (unchecked, _), _ = run_ranks(lambda rank, world: fit(kind, rank, world, checked=False))
    assert first == second
    for name, value in unchecked.items():
        assert torch.equal(weights[name], value), name
    assert {o.metric for o in first} >= {"membership_auc_min_k_plus_plus", "gradient_norm", "advantage_gradient_norm"}
    assert [(o.metric, o.split, o.step) for o in first] == [(o.metric, o.split, o.step) for o in alone]
    start = [(o, of_one) for o, of_one in zip(first, alone, strict=True) if o.subject == "original"]
    assert len(start) > 20
    for o, of_one in start:
        assert_close(torch.tensor(o.scores), torch.tensor(of_one.scores), rtol=1e-4, atol=1e-5)
        assert o.value == pytest.approx(of_one.value, rel=1e-4, abs=1e-5)
