"""Audits of leakage find what a network was taught and what it refuses, on any number of processes, and no fit notices."""

from __future__ import annotations

import os
import signal
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import quiet
from _ranks import run_ranks
from _sharded_fits import LANGUAGE_MODELS
from _taught_language_models import FORGET, RETAIN, network, rows, split, taught_weights
from torch.utils.data import DataLoader

from lightning_unlearn import (
    Bounded,
    CrossEntropy,
    GradientAscent,
    LoRA,
    RecoveryCheck,
    Relearn,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.audits import Audit, ExactLeak, Generation, HalfRecall, SampledLeak, Verbatim
from lightning_unlearn.audits.leakage import ContainsAnswer, Phrased, TrueFalse
from lightning_unlearn.runtime import checksum

STYLES = {"brief": Phrased("{question} Be brief."), "yes_no": TrueFalse()}


def audits(length: int = 32) -> list[Audit]:
    return [
        ExactLeak(k=(1, 4)),
        Generation("bundled", styles=STYLES, max_new_tokens=length),
        HalfRecall("bundled", max_new_tokens=length),
        Verbatim("bundled", prefixes=(2,), continuation=length),
        SampledLeak("bundled", k=(1, 4), per_round=4, samples=8, width=0.5, max_new_tokens=length),
    ]


def module(lora: LoRA | None = None) -> UnlearningModule:
    built = network()
    built.load_state_dict(taught_weights())
    return UnlearningModule(
        built if lora is None else lora.wrap(built), optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3)
    )


def test_what_was_taught_leaks_in_every_way_and_what_is_refused_in_none_but_beginnings() -> None:
    trainer = quiet(callbacks=[RecoveryCheck(audits=audits())])
    (values,) = trainer.validate(module(), datamodule=split(), verbose=False)
    found = {key.removeprefix("recovery/none/"): value for key, value in values.items()}
    for metric in ("rouge_l", "said", "any_style", "half_recall", "reproduced_2", "leak_at_4", "exact_leak_at_4"):
        assert found[f"retain_{metric}"] == pytest.approx(1, abs=0.02)
    # What is sampled may also say the answer and go on.
    assert 0.5 < found["retain_exact_leak_at_1"] < found["retain_leak_at_1"] + 0.05
    assert found["retain_superficial"] == found["retain_refusals"] == 0
    for metric in ("said", "leak_at_1", "exact_leak_at_1"):
        assert found[metric] < 0.02
    assert found["refusals"] == 1


class Fingerprint(pl.Callback):
    """Weights, optimizer, modes and random states after every step."""

    def __init__(self) -> None:
        self.steps: list[list[Any]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        state = trainer.optimizers[0].state_dict()["state"]
        tensors = [*pl_module.state_dict().values(), *(v for s in state.values() for v in s.values())]
        plain = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith("recovery/")}
        modes = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in pl_module.modules()]
        self.steps.append([[t.clone() for t in tensors], plain, modes, torch.get_rng_state()])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(
    "lora", [None, LoRA(r=2, dropout=0.3, target_modules=["q_proj", "v_proj"])], ids=["full", "lora"]
)
@pytest.mark.slow
def test_a_fit_with_all_of_them_in_every_step_is_the_same_to_the_bit(lora: LoRA | None, precision: Any) -> None:
    def fit(*checks: RecoveryCheck) -> list[list[Any]]:
        torch.manual_seed(0)
        watch = Fingerprint()
        unlearn = Unlearn(Bounded(GradientAscent(), bound=9.0))
        settings = {"max_epochs": 1, "limit_val_batches": 0, "precision": precision}
        quiet(callbacks=[unlearn, *checks, watch], **settings).fit(module(lora), datamodule=split())
        return watch.steps

    few = {"forget": rows((0, 2)), "retain": rows((6, 8))}
    check = RecoveryCheck({"relearn": Relearn(steps=1)}, audits=audits(3), every_n_steps=1, probes=few)
    without, with_checks = fit(), fit(check)
    assert {o.metric for o in check.observations if o.attacked} == {name for a in audits() for name in a.definitions()}
    assert not check.failures
    assert len(without) == len(with_checks) == 2
    for one, other in zip(without, with_checks, strict=True):
        assert one[1:3] == other[1:3]
        assert all(torch.equal(a, b) for a, b in zip([*one[0], one[3]], [*other[0], other[3]], strict=True))


def logged(make: type[UnlearningModule], **settings: Any) -> dict[str, float]:
    """All values of a fit that learns nothing. Batches of three: ranks get two and one, and rows are done at their time."""
    built = network()
    built.load_state_dict(taught_weights())
    unlearn = Unlearn(CrossEntropy(), forget=rows(FORGET), weight=1e-9)
    check = RecoveryCheck(audits=audits(20), probes={"forget": rows((4, 8)), "retain": rows((6, 9))})
    trainer = quiet(use_distributed_sampler=False, callbacks=[unlearn, check], limit_train_batches=1, **settings)
    loader = DataLoader(rows(RETAIN).dataset, 3, collate_fn=rows(RETAIN).val_dataloader().collate_fn)
    trainer.fit(make(built, optimizer=lambda p: torch.optim.SGD(p, lr=1e-9)), loader)
    assert not check.failures
    return {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("recovery/")}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, about its first FSDP
@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_two_processes_find_what_one_does(kind: str) -> None:
    make, strategy = LANGUAGE_MODELS[kind]
    expected = logged(UnlearningModule)
    assert 0 < expected["recovery/none/leak_at_1"] < 1  # some rows are done after a round
    for found in run_ranks(lambda rank, world_size: logged(make, strategy=strategy(), devices=world_size)):
        assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, about its first FSDP
@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_no_fit_of_two_processes_notices(kind: str) -> None:
    make, strategy = LANGUAGE_MODELS[kind]

    def fit(*checks: RecoveryCheck) -> tuple[int, list[int]]:
        torch.manual_seed(0)
        # Sharded rows are packed if the first that were asked could be: those of audits do not count.
        unlearn = Unlearn(Bounded(GradientAscent(), bound=9.0), forget=rows(FORGET))
        settings = {"use_distributed_sampler": False, "limit_train_batches": 2}
        trainer = quiet(strategy=strategy(), devices=2, callbacks=[unlearn, *checks], **settings)
        fitted = make(network(), optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3))
        loader = DataLoader(rows(RETAIN).dataset, 3, collate_fn=rows(RETAIN).val_dataloader().collate_fn)
        trainer.fit(fitted, loader)
        return checksum(fitted), torch.get_rng_state().tolist()

    def on_rank(rank: int, world_size: int) -> tuple[Any, Any, int]:
        few = {"forget": rows((0, 3)), "retain": rows((6, 7))}
        check = RecoveryCheck(audits=audits(3), every_n_steps=1, probes=few)
        without, with_checks = fit(), fit(check)
        assert not check.failures
        return without, with_checks, len({o.step for o in check.observations})

    for without, with_checks, looks in run_ranks(on_rank):
        assert with_checks == without
        assert looks == 3


def test_sigterm_is_heeded_between_generations() -> None:
    class Killing(ContainsAnswer):
        judged = 0

        def __call__(self, said: str, right: Any) -> float:
            self.judged += 1
            if self.judged == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__call__(said, right)

    judge = Killing()
    audit = SampledLeak("bundled", judge, k=(1,), per_round=100, samples=100, max_new_tokens=1, at_once=1)
    unlearn, few = Unlearn(Bounded(GradientAscent(), bound=9.0)), {"forget": rows((0, 2))}
    trainer = quiet(callbacks=[unlearn, RecoveryCheck(audits=[audit], probes=few)], max_epochs=1)
    with pytest.raises(SystemExit):
        trainer.fit(UnlearningModule(network()), datamodule=split())
    assert judge.judged == 3
