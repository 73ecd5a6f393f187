"""Forget gradients under attack: two processes equal one, in half precision too, and beside a trained adapter."""

from __future__ import annotations

import copy
import os
from typing import Any

import pytest
import torch
from _language_models import VOCABULARY, adapted, family
from _modules import SomebodysModule, examples, loader, quiet
from _ranks import run_ranks
from _scaled import scaled
from _sharded_fits import STRATEGIES, whole
from _vantage import Failing, Shift, fitted, forgetting
from torch.testing import assert_close
from torch.utils.data import DataLoader, DistributedSampler

from lightning_unlearn import (
    GPTQ,
    NPO,
    AblateDirection,
    AdapterDisabled,
    BitsAndBytes,
    Interpolate,
    LatentPerturbation,
    Merge,
    Noise,
    PackedCausalLMReadout,
    Prune,
    Quantize,
    Relearn,
    Sharpen,
    TokenwisePerturbation,
    TruncateUpdate,
    Unlearn,
    UnlearningModule,
    Wanda,
)
from lightning_unlearn.data import ForgetStream


def sibling() -> str:
    """Each process writes its own file."""
    torch.save(SomebodysModule().state_dict(), path := f"sibling-{os.getpid()}.pt")
    return path


ATTACKS: dict[str, Any] = {
    "full": lambda: Relearn(steps=3, lr=1e-3, mode="full"),
    "adapter": lambda: Relearn(steps=3, lr=1e-3),
    "int4": lambda: Quantize(bits=4),
    "sharpen": lambda: Sharpen(0.3),
    "noise": lambda: Noise(0.1),
    "prune": lambda: Prune(0.3),
    "interpolate": lambda: Interpolate(0.5),
    "truncate": lambda: TruncateUpdate(1),
    "gptq": lambda: GPTQ(4, head=True),
    "wanda": lambda: Wanda(0.3, head=True),
    "nf4-kernel": lambda: BitsAndBytes("nf4", head=True),
    "merge": lambda: Merge(sibling(), 0.5),
    "ablate": lambda: AblateDirection([r"body\.0"]),
    "latent": lambda: LatentPerturbation(r"body\.0", eps=0.3, steps=3),
    "tokenwise": lambda: TokenwisePerturbation(r"body\.0", eps=0.3, steps=3),
}


def fit(kind: str | None, attack: str, world_size: int, rank: int, accumulate: int = 1) -> Any:
    module_class, strategy = STRATEGIES[kind] if kind else (SomebodysModule, lambda: "auto")
    module, retain = module_class("sgd"), examples(1, n=32)
    unlearn = Unlearn(
        NPO(beta=0.5),
        forget=DataLoader(examples(2, n=48), batch_size=8 // world_size),
        under={attack: ATTACKS[attack]()},
        under_retain=attack == "int4",
    )
    trainer = quiet(
        strategy=strategy(),
        devices=world_size,
        callbacks=[unlearn],
        accumulate_grad_batches=accumulate,
        use_distributed_sampler=False,
    )
    sampler = DistributedSampler(retain, world_size, rank, shuffle=False)
    trainer.fit(module, DataLoader(retain, batch_size=8 // world_size, sampler=sampler))
    assert unlearn._vantage.counts[attack] == {"met": 4 // accumulate, "failed": 0}
    return whole(module, kind), float(trainer.callback_metrics[f"unlearn/under/{attack}"])


@pytest.mark.parametrize(
    "attack", [name if name == "full" else pytest.param(name, marks=pytest.mark.slow) for name in ATTACKS]
)
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_equal_one(kind: str, attack: str) -> None:
    accumulate = 2 if kind == "ddp" else 1
    expected, loss = fit(None, attack, 1, 0, accumulate)
    for parameters, loss_there in run_ranks(lambda rank, world: fit(kind, attack, world, rank, accumulate)):
        assert loss_there == pytest.approx(loss, abs=1e-6)
        for name, value in expected.items():
            assert_close(parameters[name], value, rtol=0, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def test_fp16_with_a_scaler_that_finds_infinities_equals_float32_to_its_precision() -> None:
    attack = {"full": Relearn(steps=2, lr=1e-3, mode="full")}
    half, trainer = fitted(forgetting(under=attack), SomebodysModule("sgd"), **scaled(2.0**14))
    full, _ = fitted(forgetting(under=attack), SomebodysModule("sgd"))
    assert "unlearn/under/full" in trainer.callback_metrics
    for p, q in zip(half.parameters(), full.parameters(), strict=True):
        assert_close(p, q, rtol=0, atol=2e-3)


def rows(seed: int) -> DataLoader[Any]:
    """Twelve texts of six tokens, supervised after the second."""
    tokens = torch.randint(3, VOCABULARY, (12, 6), generator=torch.Generator().manual_seed(seed))
    labels = tokens.clone()
    labels[:, :2] = -100
    return DataLoader([{"input_ids": t, "labels": y} for t, y in zip(tokens, labels, strict=True)], batch_size=4)


@pytest.mark.parametrize("mode", ["adapter", "full"])
def test_an_attacker_works_beside_the_adapter_that_is_trained(mode: str) -> None:
    """The base stays frozen, the attacker's own adapter leaves nothing, and the fit's adapter has moved."""
    network = family("llama", lora=True)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    flags = {name: p.requires_grad for name, p in network.named_parameters()}
    unlearn = Unlearn(
        NPO(beta=0.5),
        forget=rows(2),
        under={"relearn": Relearn(steps=2, lr=1e-3, mode=mode)},
    )
    quiet(callbacks=[unlearn], max_steps=3).fit(UnlearningModule(network), rows(1), rows(1))
    assert unlearn._vantage.counts["relearn"] == {"met": 3, "failed": 0}
    assert {name: p.requires_grad for name, p in network.named_parameters()} == flags
    moved = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, trains in flags.items() if trains}
    assert not any(m._forward_hooks for m in network.modules())


def test_the_original_is_not_the_one_under_attack() -> None:
    """The reference is the network without its adapter, whose base the attack has moved: it is asked outside of it."""
    network, objective = adapted(family("llama")), NPO(beta=0.5)
    fresh, readout = copy.deepcopy(network), PackedCausalLMReadout()
    unlearn = Unlearn(objective, reference=AdapterDisabled(), forget=rows(2), under={"up": Shift(0.05)})
    trainer = quiet(callbacks=[unlearn], max_steps=1)
    trainer.fit(UnlearningModule(network), rows(1), rows(1))

    batch = next(ForgetStream(rows(2)))
    with torch.no_grad():
        with fresh.disable_adapter():
            original = readout(fresh, batch)
        with Shift(0.05)(fresh):
            expected = objective(readout(fresh, batch), original)
            with fresh.disable_adapter():
                wrong = objective(readout(fresh, batch), readout(fresh, batch))
    assert float(trainer.callback_metrics["unlearn/under/up"]) == pytest.approx(float(expected), rel=1e-5)
    assert float(wrong) != pytest.approx(float(expected), rel=1e-2)


def test_an_attack_that_fails_on_one_rank_ends_the_fit_on_both() -> None:
    def run(rank: int, world: int) -> str:
        module_class, strategy = STRATEGIES["ddp"]
        attack = Failing(0) if rank == 0 else Failing()
        unlearn = forgetting(under={"failing": attack})
        with pytest.raises(RuntimeError) as raised:
            quiet(strategy=strategy(), devices=world, callbacks=[unlearn]).fit(module_class(), loader(seed=1))
        return str(raised.value)

    for message in run_ranks(run):
        assert "should fail on every rank or on none" in message
