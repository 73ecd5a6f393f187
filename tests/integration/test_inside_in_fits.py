"""A fit that looks inside its network every step equals the fit that does not, bit for bit, under every strategy."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _insides import FORGET, HOLDOUT, RETAIN, rows, taught, untaught
from _modules import quiet
from _ranks import run_ranks
from _sharded_fits import LANGUAGE_MODELS
from torch.distributed.tensor import DTensor

from lightning_unlearn import Bounded, GradientAscent, LoRA, Quantize, RecoveryCheck, Unlearn, UnlearningModule
from lightning_unlearn.audits import (
    Audit,
    Calibration,
    IdempotenceDrift,
    KnowledgeDepth,
    LayerProbe,
    LogitLens,
    Measure,
)
from lightning_unlearn.observation import Observation
from lightning_unlearn.report.analysis.over_time import over_time, unlearning_depth


def insides() -> list[Audit]:
    return [
        Measure(),
        LayerProbe(permutations=20, hidden=4),
        LogitLens(),
        KnowledgeDepth(),
        IdempotenceDrift(max_new_tokens=4),
        Calibration(),
    ]


def checking(**kwargs: Any) -> RecoveryCheck:
    return RecoveryCheck(
        {"int4": Quantize(bits=4)},
        audits=insides(),
        every_n_steps=1,
        probes={"forget": rows(FORGET), "retain": rows(RETAIN), "holdout": rows(HOLDOUT)},
        **kwargs,
    )


class Watching(pl.Callback):
    """Weights, optimizer, modes, hooks and random states after every step."""

    def __init__(self) -> None:
        self.steps: list[list[Any]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        state = trainer.optimizers[0].state_dict()["state"]
        values = [*pl_module.state_dict().values(), *(v for s in state.values() for v in s.values())]
        tensors = [v.to_local() if isinstance(v, DTensor) else v for v in values]
        modes = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in pl_module.modules()]
        self.steps.append([[t.clone() for t in tensors], modes, torch.get_rng_state()])


def fit(*checks: RecoveryCheck, lora: LoRA | None = None, make: Any = UnlearningModule, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    network = (taught() if lora is None else lora.wrap(taught())).train()
    watch = Watching()
    unlearn = Unlearn(Bounded(GradientAscent(), bound=9.0), forget=rows(FORGET))
    trainer = quiet(callbacks=[unlearn, *checks, watch], max_steps=2, limit_val_batches=0, **kwargs)
    loader = rows(RETAIN).val_dataloader()  # not shuffled
    trainer.fit(make(network), loader, loader)
    return watch.steps


def assert_equal(one: list[list[Any]], other: list[list[Any]]) -> None:
    assert len(one) == len(other) == 2
    for a, b in zip(one, other, strict=True):
        assert a[1] == b[1]
        assert all(torch.equal(x, y) for x, y in zip([*a[0], a[2]], [*b[0], b[2]], strict=True))


def keys_of(observations: list[Observation]) -> set[tuple[Any, ...]]:
    return {(o.subject, o.metric, o.split, o.layer, o.attack) for o in observations}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*says nothing here")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("lora", [None, LoRA(r=2, target_modules=["q_proj", "v_proj"])], ids=["full", "lora"])
def test_a_fit_is_the_same_to_the_bit(lora: LoRA | None, precision: Any) -> None:
    check = checking()
    assert_equal(fit(lora=lora, precision=precision), fit(check, lora=lora, precision=precision))
    assert not check.failures
    metrics = {o.metric for o in check.observations}
    assert metrics >= {name for audit in insides() for name in audit.definitions()} - {"loss"}
    assert {o.step for o in check.observations} == {0, 1, 2}
    start = [o for o in check.observations if (o.subject, o.attack) == ("original", "none")]
    by_metric = {(o.metric, o.layer, o.split): o.value for o in start}
    assert by_metric["depth_kept", "", "forget"] == 1.0  # it was shown the original, which is this
    assert by_metric["idempotence_drift", "", "retain"] == 0.0
    rounded = {o.metric for o in check.observations if o.attack == "int4"}
    assert ("depth_lost" in rounded) is (lora is None)  # a frozen base that was rounded is no longer the original's


def test_the_control_is_the_model_that_never_knew_of_the_published_depth_score() -> None:
    torch.save(untaught().state_dict(), "control.pt")
    audits: list[Audit] = [Measure(), KnowledgeDepth()]
    check = RecoveryCheck(audits=audits, control="control.pt", probes={"forget": rows(FORGET), "retain": rows(RETAIN)})
    fit(check)
    assert not check.failures
    kept = {o.subject: o.value for o in check.observations if o.metric == "depth_kept"}
    assert kept["original"] == 1.0
    assert kept["control"] < kept["unlearned"] < 1.0
    depth = unlearning_depth(check.observations)
    assert depth is not None
    assert 0 < depth < 1
    found = over_time(check.observations, "probability")
    assert found["unlearning_depth"] == depth
    by_split = {row["split"]: row["forget_ratio"] for row in found["transfer"] if not row["entity"]}
    assert by_split["forget"] > by_split["retain"]


def test_a_control_with_another_base_is_not_taken_for_the_original() -> None:
    """Its base is swapped in under the adapter. Of the original's a fit has a hash only; a file has the values."""
    torch.save(untaught().state_dict(), "control.pt")
    torch.save(taught().state_dict(), "original.pt")

    def kept(original: str | None) -> dict[str, float]:
        of = {"forget": rows(FORGET), "retain": rows(RETAIN)}
        check = RecoveryCheck(audits=[Measure(), KnowledgeDepth(original)], control="control.pt", probes=of)
        fit(check, lora=LoRA(r=2, target_modules=["q_proj", "v_proj"]))
        assert not check.failures
        return {o.subject: o.value for o in check.observations if o.metric == "depth_kept"}

    with pytest.warns(UserWarning, match="`KnowledgeDepth` says nothing here"):
        shown = kept(None)
    assert set(shown) == {"original", "unlearned"}
    read = kept("original.pt")
    assert read == {**shown, "control": read["control"]}
    assert read["control"] < 0.2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, about its first FSDP
@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_two_processes_observe_what_one_does_and_their_fit_is_the_same_to_the_bit(kind: str) -> None:
    make, strategy = LANGUAGE_MODELS[kind]

    def on_rank(rank: int, world_size: int) -> Any:
        def go(*checks: RecoveryCheck) -> Any:
            return fit(*checks, make=make, strategy=strategy(), devices=world_size, use_distributed_sampler=False)

        check = checking()
        assert_equal(go(), go(check))
        assert not check.failures
        return check.observations

    taught()  # once, before processes are forked
    first, second = run_ranks(on_rank, timeout=280)
    assert [(o.metric, o.split, o.layer, o.value, o.scores) for o in first] == [
        (o.metric, o.split, o.layer, o.value, o.scores) for o in second
    ]
    alone = checking()
    fit(alone)
    assert keys_of(first) == keys_of(alone.observations)
    mine, theirs = (
        {(o.metric, o.split, o.layer): o.value for o in each if (o.subject, o.attack) == ("original", "none")}
        for each in (alone.observations, first)
    )
    assert theirs == pytest.approx(mine, abs=0.02)
