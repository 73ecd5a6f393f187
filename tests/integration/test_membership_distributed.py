"""Membership in fits of two real processes: the same numbers as in one, and a fit that does not notice."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _language_models import VOCABULARY, family
from _modules import examples, quiet
from _ranks import run_ranks
from _sharded_fits import STRATEGIES, data, loader, whole
from torch.distributed.fsdp import fully_shard
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import (
    ClassificationReadout,
    ForgetRetainData,
    GradientAscent,
    Quantize,
    RecoveryCheck,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.audits import AnswerRank, Familiarity, GradientNorm, Measure, Membership
from lightning_unlearn.observation import Observation

pytestmark = pytest.mark.slow


def fit_classifier(
    kind: str, rank: int, world_size: int, checked: bool = True
) -> tuple[dict[str, Any], list[Observation]]:
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
    _, alone = fit_classifier(kind, 0, 1)
    (weights, first), (_, second) = run_ranks(lambda rank, world: fit_classifier(kind, rank, world))
    (unchecked, _), _ = run_ranks(lambda rank, world: fit_classifier(kind, rank, world, checked=False))
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


class ByBlock(UnlearningModule):
    def configure_model(self) -> None:
        mesh = self.device_mesh["data_parallel"]
        for part in (*self.network.model.layers, self.network):
            fully_shard(part, mesh=mesh)


def texts(seed: int, n: int = 6) -> DataLoader[Any]:
    tokens = torch.randint(3, VOCABULARY, (n, 7), generator=torch.Generator().manual_seed(seed))
    return DataLoader([{"input_ids": t, "labels": torch.where(torch.arange(7) > 2, t, -100)} for t in tokens], 2)


def fit_language_model(kind: str, world_size: int) -> list[Observation]:
    pl.seed_everything(0, verbose=False)
    make = ByBlock if kind == "fsdp2" and world_size > 1 else UnlearningModule
    module = make(family("llama"), optimizer=lambda p: torch.optim.SGD(p, lr=0.01))
    check = RecoveryCheck(
        {"int4": Quantize(bits=4, group_size=4)},
        audits=[Membership(most_blind=1.0), Familiarity(units=4), AnswerRank(alternates=2), GradientNorm()],
        probes={"holdout": texts(5)},
    )
    trainer = quiet(
        strategy=STRATEGIES[kind][1]() if world_size > 1 else "auto",
        devices=world_size,
        callbacks=[Unlearn(GradientAscent()), check],
        max_steps=1,
        max_epochs=-1,
        limit_val_batches=0,
    )
    trainer.fit(module, datamodule=ForgetRetainData(retain=texts(1), forget=texts(2)))
    assert not check.failures
    return [o for o in check.observations if o.subject == "original"]


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
@pytest.mark.filterwarnings("ignore:.*val_dataloader.*")
def test_a_language_model_in_two_processes_is_as_familiar_and_as_recognised_as_in_one(kind: str) -> None:
    alone = fit_language_model(kind, 1)
    first, second = run_ranks(lambda rank, world: fit_language_model(kind, world))
    assert first == second
    assert {o.metric for o in first} >= {"familiarity", "recognition", "gradient_norm", "membership_auc_loss"}
    assert {o.attack for o in first} == {"none", "int4"}
    key = [(o.metric, o.split, o.layer, o.attack) for o in alone]
    assert [(o.metric, o.split, o.layer, o.attack) for o in first] == key
    for o, of_one in zip(first, alone, strict=True):
        if o.attack == "none":  # a rounding may fall to the other side
            assert o.scores == pytest.approx(of_one.scores, rel=1e-3, abs=1e-4), o.metric
