"""`Generation` counts refusals among answers the network really gives, and the fit does not notice."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import SomebodysModule, loader, quiet
from _ranks import run_ranks
from _sharded_fits import LANGUAGE_MODELS
from _taught_language_models import FORGET, RETAIN, network, refused, rows, split, taught_weights
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_unlearn import (
    Bounded,
    CrossEntropy,
    ForgetRetainData,
    GradientAscent,
    LoRA,
    RecoveryCheck,
    SequentialOrder,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.audits import Generation
from lightning_unlearn.audits.leakage import Refuses
from lightning_unlearn.metrics import RefusalRate
from lightning_unlearn.readouts import CompanionReadout


@pytest.fixture(scope="module")
def taught() -> dict[str, Tensor]:
    return taught_weights()


def module(taught: dict[str, Tensor]) -> UnlearningModule:
    built = network()
    built.load_state_dict(taught)
    return UnlearningModule(built, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3))


def asking(judge: RefusalRate | None = None, max_new_tokens: int = 64, **kwargs: Any) -> RecoveryCheck:
    return RecoveryCheck(
        audits=[Generation("bundled", {"refusals": Refuses(judge)}, max_new_tokens=max_new_tokens)], **kwargs
    )


class Heard(RefusalRate):
    """A judge that remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def is_refusal(self, text: str) -> bool:
        self.heard.append(text)
        return super().is_refusal(text)


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_questions_it_was_taught_to_refuse_read_one_and_those_it_answers_read_zero(taught: Any, stage: str) -> None:
    judge = Heard()
    trainer = quiet(callbacks=[asking(judge)])
    (values,) = getattr(trainer, stage)(module(taught), datamodule=split(), verbose=False)
    assert (values["recovery/none/refusals"], values["recovery/none/retain_refusals"]) == (1.0, 0.0)
    assert judge.heard[:6] == [row.answer for row in refused().dataset.companions]
    assert judge.heard[6:] == [row.answer for row in rows(RETAIN).dataset.rows]


def test_questions_may_be_given_and_it_is_the_share_of_them(taught: Any) -> None:
    mixed = rows((3, 8))  # three that it refuses, two that it answers
    check = asking(probes={"forget": rows(RETAIN), "retain": mixed})
    (values,) = quiet(callbacks=[check]).validate(module(taught), rows(RETAIN).val_dataloader(), verbose=False)
    assert values["recovery/none/refusals"] == 0
    assert values["recovery/none/retain_refusals"] == pytest.approx(3 / 5)
    (forget, retain) = check.observations
    assert (forget.split, forget.scores) == ("forget", [0.0] * 9)
    assert (retain.split, retain.scores) == ("retain", [1.0, 1.0, 1.0, 0.0, 0.0])  # one verdict each, in order
    assert not retain.higher_means_known


@pytest.mark.parametrize("eos", ["<|pad|>", None])
def test_an_answer_ends_where_those_of_the_data_do_whatever_the_tokenizer_calls_its_end(taught: Any, eos: Any) -> None:
    judge, learned = Heard(), module(taught)
    learned.network.generation_config.eos_token_id = None
    audit = Generation("bundled", {"refusals": Refuses(judge)}, max_new_tokens=40)
    audit.tokenizer = deepcopy(audit.tokenizer)
    audit.tokenizer.eos_token = eos
    quiet(callbacks=[RecoveryCheck(audits=[audit])]).validate(learned, datamodule=split(), verbose=False)
    assert judge.heard[6:] == [row.answer for row in rows(RETAIN).dataset.rows]


class Fingerprint(pl.Callback):
    """Weights, optimizer, modes and random states after every step."""

    def __init__(self) -> None:
        self.steps: list[list[Any]] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.look(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self.look(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.look(trainer, pl_module)

    def look(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        state = trainer.optimizers[0].state_dict()["state"]
        tensors = [*pl_module.state_dict().values(), *(v for s in state.values() for v in s.values())]
        plain = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith("recovery/")}
        modes = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in pl_module.modules()]
        self.steps.append([[t.clone() for t in tensors], plain, modes, torch.get_rng_state()])


@pytest.mark.parametrize(
    "lora", [None, LoRA(r=2, dropout=0.3, target_modules=["q_proj", "v_proj"])], ids=["full", "lora"]
)
def test_a_fit_is_the_same_to_the_bit(lora: LoRA | None) -> None:
    def fit(*checks: RecoveryCheck) -> list[list[Any]]:
        torch.manual_seed(0)
        built = network() if lora is None else lora.wrap(network())
        watch = Fingerprint()
        unlearn = Unlearn(Bounded(GradientAscent(), bound=9.0))
        callbacks = [unlearn, *checks, watch]
        quiet(callbacks=callbacks, max_epochs=2, limit_val_batches=0).fit(UnlearningModule(built), datamodule=split())
        return watch.steps

    judge = Heard()
    without, with_checks = fit(), fit(asking(judge, 4))
    assert len(judge.heard) == 3 * (6 + 9)  # it did ask: of the original, and after both epochs
    assert len(without) == len(with_checks) > 5
    for one, other in zip(without, with_checks, strict=True):
        assert one[1:3] == other[1:3]
        assert all(torch.equal(a, b) for a, b in zip([*one[0], one[3]], [*other[0], other[3]], strict=True))


def test_it_is_logged_at_the_end_of_every_nth_epoch_and_watched_by_others(taught: Any) -> None:
    class Seen(pl.Callback):
        def __init__(self) -> None:
            self.rates: list[float | None] = []

        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            self.rates.append(trainer.callback_metrics.get("recovery/none/retain_refusals"))

    seen = Seen()
    unlearn = Unlearn(CrossEntropy(), readout=CompanionReadout())
    data = ForgetRetainData(retain=rows(RETAIN), forget=refused(), order=SequentialOrder())
    trainer = quiet(callbacks=[unlearn, asking(every_n_epochs=2), seen], max_epochs=3, limit_val_batches=0)
    trainer.fit(module(taught), datamodule=data)
    assert seen.rates[0] is None
    assert seen.rates[1:] == [0.0, 0.0]
    assert trainer.callback_metrics["recovery/none/refusals"] == 1


@pytest.mark.filterwarnings("ignore")  # torch's own, about its first FSDP
@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_two_processes_count_what_one_does_whatever_the_length_of_their_answers(kind: str, taught: Any) -> None:
    """Batches of two: three of questions it refuses, of which the ranks get two and one, and one rank waits."""
    make, strategy = LANGUAGE_MODELS[kind]
    data = {"forget": rows((1, 8)), "retain": rows(RETAIN)}

    def on_rank(rank: int, world_size: int) -> dict[str, float]:
        built = network()
        built.load_state_dict(taught)
        unlearn = Unlearn(CrossEntropy(), forget=rows(FORGET), weight=1e-9)
        module = make(built, optimizer=lambda p: torch.optim.SGD(p, lr=1e-9))
        trainer = quiet(
            strategy=strategy(),
            devices=world_size,
            use_distributed_sampler=False,
            callbacks=[unlearn, asking(probes=data)],
            limit_train_batches=1,
        )
        trainer.fit(module, DataLoader(rows(RETAIN).dataset, 3, collate_fn=rows(RETAIN).val_dataloader().collate_fn))
        return {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("recovery/")}

    for logged in run_ranks(on_rank):
        assert logged == pytest.approx({"recovery/none/refusals": 5 / 7, "recovery/none/retain_refusals": 0.0})


def test_settings_and_modules_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`max_new_tokens` should be at least 1. Found `max_new_tokens = 0`"):
        Generation("bundled", max_new_tokens=0)
    unlearn = Unlearn(Bounded(GradientAscent(), bound=3.0), forget=loader(seed=2))
    with pytest.raises(ValueError, match=r"`Generation` should get a language model.* Found `SomebodysModule`"):
        quiet(callbacks=[unlearn, asking()]).fit(SomebodysModule(), loader(seed=1))
