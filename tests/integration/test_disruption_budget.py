"""`DisruptionBudget` leaves a fit alone until the budget is exceeded; then the last valid weights are handed back."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _language_models import adapted, batch, family, language
from _modules import HostileModule, SomebodysModule, loader, quiet
from _ranks import run_ranks
from _sharded_fits import AllUsed, AllUsedSharded, FSDP1OnCPU, data, fsdp2, whole
from _sharded_fits import loader as shares
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import BaseFinetuning, ModelCheckpoint, ModelPruning, WeightAveraging
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import (
    ApplyEdit,
    CausalLMReadout,
    ClassificationReadout,
    DisruptionBudget,
    GradientAscent,
    RecoveryCheck,
    TrainingStepReadout,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.edits import Edit

NEUTRAL_SEED = 5


def budget(kl: float = 0.02, every: int = 2, **kwargs: Any) -> DisruptionBudget:
    return DisruptionBudget(loader(seed=NEUTRAL_SEED), kl=kl, every=every, **kwargs)


def divergence_by_hand(module: nn.Module, original: nn.Module | None = None) -> float:
    """From probabilities, in float64."""
    original = SomebodysModule() if original is None else original
    x = loader(seed=NEUTRAL_SEED).dataset.tensors[0].to(next(module.parameters()).dtype)
    with torch.no_grad():
        p, q = (each.eval()(x).double().softmax(-1) for each in (original, module))
    return float((p * (p / q).log()).sum(-1).mean())


class Weights(pl.Callback):
    """What parameters and buffers are after each optimizer step; listed before the budget."""

    def __init__(self) -> None:
        self.at: dict[int, dict[str, Tensor]] = {}

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.at[0] = state(module)

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        self.at[trainer.global_step] = state(module)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {n: t.detach().clone() for n, t in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def fit(module: Any, *callbacks: Any, **options: Any) -> pl.Trainer:
    trainer = quiet(callbacks=list(callbacks), **{"max_epochs": 3, **options})
    with pl.utilities.seed.isolate_rng():
        pl.seed_everything(7, verbose=False)
        trainer.fit(module, loader(seed=1, batch_size=4))
    return trainer


# Until the budget is exceeded


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.parametrize("kind", [SomebodysModule, HostileModule])
def test_a_fit_within_the_budget_is_bit_for_bit_the_fit_without(kind: Any) -> None:
    bare, watched = kind(), kind()
    fit(bare)
    callback = budget(kl=1e6, every=1)
    trainer = fit(watched, callback)
    assert same(state(bare), state(watched))
    assert len(callback.history) == trainer.global_step == 18
    assert callback.exceeded_at is None
    assert callback.spent == callback.history[-1][1] > 0


def test_it_measures_at_intervals_and_at_the_end_of_each_epoch_once_a_step() -> None:
    callback = budget(kl=1e6, every=4)
    module = SomebodysModule()
    fit(module, callback, max_epochs=2, accumulate_grad_batches=1)
    assert [step for step, _ in callback.history] == [4, 6, 8, 12]
    assert callback.history[-1][1] == pytest.approx(divergence_by_hand(module), rel=1e-5)
    accumulated = budget(kl=1e6, every=2)
    fit(SomebodysModule(), accumulated, max_epochs=2, accumulate_grad_batches=2)
    assert [step for step, _ in accumulated.history] == [2, 3, 4, 6]


def test_the_divergence_is_logged_each_time(tmp_path: Path) -> None:
    callback = budget(kl=1e6, every=2)
    trainer = fit(SomebodysModule(), callback, max_epochs=1, logger=CSVLogger(str(tmp_path)), log_every_n_steps=6)
    trainer.logger.save()
    rows = (Path(trainer.logger.log_dir) / "metrics.csv").read_text().splitlines()
    assert sum("," in row for row in rows[1:]) >= 3
    assert "budget/kl" in rows[0]
    assert trainer.callback_metrics["budget/kl"] == pytest.approx(callback.history[-1][1])
    assert "budget/kl" in trainer.progress_bar_metrics


# Beyond it


@pytest.mark.parametrize("every", [1, 2, 5])
def test_the_last_weights_within_the_budget_are_handed_back_and_the_fit_stops(every: int) -> None:
    module, seen, callback = SomebodysModule(), Weights(), budget(every=every)
    free = budget(kl=1e6, every=every)
    fit(SomebodysModule(), free)
    trainer = fit(module, seen, callback)
    first = next(step for step, kl in free.history if kl > callback.kl)
    valid = [0, *(step for step, kl in free.history if step < first)][-1]
    assert callback.exceeded_at == first == trainer.global_step
    assert callback.history == [each for each in free.history if each[0] <= first]
    assert same(state(module), seen.at[valid])
    assert divergence_by_hand(module) == pytest.approx(callback.spent, rel=1e-5, abs=1e-12)
    assert callback.spent <= callback.kl < callback.history[-1][1]


def test_statistics_of_norms_are_put_back_too() -> None:
    class WithNorm(SomebodysModule):
        def __init__(self) -> None:
            super().__init__()
            self.body[1] = nn.BatchNorm1d(16)

    module, seen, callback = WithNorm(), Weights(), budget(kl=0.02, every=1)
    trainer = fit(module, seen, callback)
    now, then = state(module), seen.at[trainer.global_step - 1]
    assert callback.exceeded_at == trainer.global_step > 1
    assert all(torch.equal(now[n], then[n]) for n in now if now[n].is_floating_point())


@pytest.mark.parametrize("on_exceed", ["stop", "warn"])
def test_it_may_only_stop_or_only_warn(on_exceed: Any) -> None:
    module, seen, callback = SomebodysModule(), Weights(), budget(on_exceed=on_exceed)
    if on_exceed == "warn":
        with pytest.warns(UserWarning, match="the divergence is .*, above 0.02. The fit goes on"):
            trainer = fit(module, seen, callback)
        bare = SomebodysModule()
        fit(bare)
        assert same(state(bare), state(module))
        assert trainer.global_step == 18
    else:
        trainer = fit(module, seen, callback)
        assert trainer.global_step == callback.exceeded_at < 18
        assert divergence_by_hand(module) == pytest.approx(callback.history[-1][1], rel=1e-5)
    assert callback._snapshot is None


class Detour(pl.Callback):
    """Far away from step 5, and back before step ``until``."""

    def __init__(self, until: int) -> None:
        self.until = until

    def on_train_batch_start(self, trainer: Any, module: Any, *args: Any) -> None:
        factor = {4: 10.0, self.until - 1: 0.1}.get(trainer.global_step, 1.0)
        with torch.no_grad():
            module.head.weight.mul_(factor)


@pytest.mark.parametrize(("until", "valid"), [(11, 18), (100, 4)])
def test_it_may_go_on_and_put_the_last_valid_weights_back_at_the_end(until: int, valid: int, tmp_path: Path) -> None:
    module, seen, callback = SomebodysModule(), Weights(), budget(kl=0.2, on_exceed="restore")
    probes = {"forget": loader(seed=2), "retain": loader(seed=NEUTRAL_SEED)}
    check = RecoveryCheck(every_n_epochs=1, probes=probes)
    trainer = fit(module, Detour(until), seen, check, callback)
    bare = Weights()
    fit(SomebodysModule(), Detour(until), bare)
    assert trainer.global_step == 18
    assert all(same(seen.at[step], bare.at[step]) for step in range(19))
    above = [step for step, kl in callback.history if kl > callback.kl]
    assert callback.exceeded_at == above[0] == 6
    assert valid == max({step for step, _ in callback.history} - set(above))
    assert same(state(module), seen.at[valid])
    assert divergence_by_hand(module) == pytest.approx(callback.spent, rel=1e-5)
    again = RecoveryCheck(probes=probes)
    fit(module.train(), again, max_steps=1)
    assert {(o.split, o.metric): o.value for o in check.observations if o.step == 18} == {
        (o.split, o.metric): o.value for o in again.observations if o.step == 0
    }


@pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_fit_resumed_above_the_budget_still_puts_the_last_valid_weights_back(tmp_path: Path) -> None:
    seen, callback = Weights(), budget(kl=0.2, on_exceed="restore")
    saved = ModelCheckpoint(str(tmp_path), every_n_train_steps=8, filename="{step}")
    interrupted = [Detour(100), seen, budget(kl=0.2, on_exceed="restore"), saved]
    going_on(None, callbacks=interrupted, max_steps=8, enable_checkpointing=True)
    _, module = going_on(None, tmp_path / "step=8.ckpt", callbacks=[callback])
    assert callback.exceeded_at == 6
    assert same(state(module), seen.at[4])


def test_weights_that_became_nan_are_put_back() -> None:
    class Breaks(pl.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
            if trainer.global_step == 4:
                with torch.no_grad():
                    module.head.weight.fill_(torch.nan)

    module, callback = SomebodysModule(), budget(kl=1e6)
    fit(module, Breaks(), callback)
    assert callback.exceeded_at == 4
    assert divergence_by_hand(module) == pytest.approx(callback.history[0][1], rel=1e-5)


@pytest.mark.parametrize("first", ["budget", "check"])
def test_the_last_look_and_the_last_checkpoint_are_of_the_weights_put_back(first: str, tmp_path: Path) -> None:
    module, callback = SomebodysModule(), budget()
    check = RecoveryCheck(
        every_n_epochs=1, every_n_steps=1, probes={"forget": loader(seed=2), "retain": loader(seed=NEUTRAL_SEED)}
    )
    saved = ModelCheckpoint(str(tmp_path), save_last=True, every_n_train_steps=1)
    order = [callback, check] if first == "budget" else [check, callback]
    trainer = fit(module, *order, saved, enable_checkpointing=True)
    assert callback.exceeded_at == trainer.global_step
    fresh = RecoveryCheck(probes={"forget": loader(seed=2), "retain": loader(seed=NEUTRAL_SEED)})
    fit(module, fresh, max_steps=1)
    last = {(o.split, o.metric): o.value for o in check.observations if o.step == trainer.global_step}
    at_start = {(o.split, o.metric): o.value for o in fresh.observations if o.step == 0}
    assert last == at_start
    assert same(torch.load(saved.last_model_path, weights_only=False)["state_dict"], state(SomebodysModule())) is False
    again = SomebodysModule()
    again.load_state_dict(torch.load(saved.last_model_path, weights_only=False)["state_dict"])
    assert divergence_by_hand(again) == pytest.approx(callback.spent, rel=1e-5)


class Grow(pl.Callback):
    """Leaves other weights behind."""

    def __init__(self, hook: str, layer: str = "head") -> None:
        self.layer = layer
        setattr(self, hook, self.grow)

    def grow(self, trainer: Any, module: Any) -> None:
        with torch.no_grad():
            module.get_submodule(self.layer).weight.mul_(10)


@pytest.mark.parametrize("hook", ["on_train_epoch_end", "on_train_end"])
@pytest.mark.parametrize("ours_first", [True, False])
def test_what_others_do_to_the_weights_at_the_end_is_within_the_budget_too(hook: str, ours_first: bool) -> None:
    module, callback, other = SomebodysModule(), budget(kl=0.5), Grow(hook)
    fit(module, *([callback, other] if ours_first else [other, callback]), max_epochs=1)
    assert divergence_by_hand(module) == pytest.approx(callback.spent, rel=1e-5)
    assert callback.spent <= 0.5 < callback.history[-1][1]


@pytest.mark.filterwarnings("ignore:.*averag")
def test_averaged_weights_are_measured_when_they_are_handed_back() -> None:
    module, callback = SomebodysModule(), budget(kl=1e6)
    fit(module, callback, WeightAveraging(), max_epochs=1)
    assert callback.history[-1][1] == pytest.approx(divergence_by_hand(module), rel=1e-5)
    assert [step for step, _ in callback.history] == [2, 4, 6, 6]


@pytest.mark.filterwarnings("ignore:.*averag")
@pytest.mark.parametrize("other", [lambda: WeightAveraging(), lambda: ApplyEdit(Double(), when="end")])
@pytest.mark.parametrize("on_exceed", ["stop", "warn"])
def test_what_is_handed_back_is_measured_also_where_nothing_is_put_back(on_exceed: Any, other: Any) -> None:
    module, callback = SomebodysModule(), budget(kl=1e6, on_exceed=on_exceed)
    fit(module, callback, other(), max_epochs=1)
    assert [step for step, _ in callback.history] == [2, 4, 6, 6]
    assert callback.history[-1][1] == pytest.approx(divergence_by_hand(module), rel=1e-5)


@pytest.mark.parametrize("on_exceed", ["stop", "warn"])
def test_it_warns_of_weights_that_are_handed_back_above_the_budget(on_exceed: Any) -> None:
    callback = budget(kl=0.5, on_exceed=on_exceed)
    with pytest.warns(UserWarning, match="at step 6 the divergence is .*, above 0.5. These weights are handed back"):
        fit(SomebodysModule(), callback, Grow("on_train_end"), max_epochs=1)
    assert callback.exceeded_at == 6


class Unfreeze(BaseFinetuning):
    """The first layer is frozen at first, and trained from the second epoch on."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr

    def freeze_before_training(self, module: Any) -> None:
        self.freeze(module.body[0])

    def finetune_function(self, module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(module.body[0], optimizer, lr=self.lr)


class Adds(SomebodysModule):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=1e-3)


def test_a_layer_unfrozen_during_the_fit_is_put_back_too() -> None:
    module, callback = Adds(), budget(kl=0.02, every=50)
    trainer = fit(module, Unfreeze(lr=1.0), callback)
    assert trainer.global_step == 12
    assert callback.exceeded_at == 12
    assert torch.equal(module.body[0].weight, Adds().body[0].weight)


# The original


class Double(Edit):
    def new_values(self, network: nn.Module, **data: Any) -> Any:
        yield "head.weight", network.head.weight.detach() * 2


def test_an_edit_counts_as_disruption() -> None:
    module, callback = SomebodysModule(), budget(kl=1e-3, every=1)
    trainer = fit(module, ApplyEdit(Double()), callback)
    assert trainer.global_step == 1
    assert same(state(module), state(SomebodysModule()))


def test_a_second_fit_starts_from_its_own_original() -> None:
    module, callback = SomebodysModule(), budget()
    fit(module, callback)
    start = state(module)
    fit(module, callback)
    original = SomebodysModule()
    original.load_state_dict(start)
    assert callback.history[0][0] == 2
    assert divergence_by_hand(module, original) == pytest.approx(callback.spent, rel=1e-5, abs=1e-12)


def going_on(callback: Any, path: Path | None = None, **options: Any) -> tuple[pl.Trainer, SomebodysModule]:
    module = SomebodysModule()
    trainer = quiet(**{"callbacks": [callback], "max_epochs": 4, **options})
    trainer.fit(module, loader(seed=1, batch_size=4), ckpt_path=path)
    return trainer, module


@pytest.mark.parametrize("stop", [6, 12])
def test_a_resumed_fit_equals_the_whole_one(stop: int, tmp_path: Path) -> None:
    one, other = (budget(kl=0.058, every=4) for _ in range(2))
    _, module = going_on(one)
    trainer, _ = going_on(budget(kl=0.058, every=4), max_steps=stop)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    _, again = going_on(other, tmp_path / "half.ckpt")
    assert one.exceeded_at == other.exceeded_at == 18 > stop
    assert same(state(module), state(again))
    assert other.history == one.history


@pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_checkpoint_between_two_measurements_holds_the_last_valid_weights(tmp_path: Path) -> None:
    seen = Weights()
    saved = ModelCheckpoint(str(tmp_path), every_n_train_steps=1, save_top_k=-1, filename="{step}")
    going_on(None, callbacks=[seen, budget(kl=1e6, every=4), saved], enable_checkpointing=True)
    held = {
        step: torch.load(tmp_path / f"step={step}.ckpt", weights_only=False)["callbacks"]["DisruptionBudget"][
            "snapshot"
        ]
        for step in (4, 5, 6)
    }
    assert held[4] == held[6] == {"kept": {}}
    assert all(torch.equal(value, seen.at[4][name]) for name, value in held[5]["kept"].items())
    assert len(held[5]["kept"]) == len(seen.at[4])
    _, module = going_on(budget(kl=0.001, every=4), tmp_path / "step=5.ckpt")
    assert same(state(module), seen.at[4])


def test_a_resumed_fit_without_the_originals_weights_is_refused(tmp_path: Path) -> None:
    trainer, _ = going_on(budget(kl=1e6), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    other = SomebodysModule()
    other.load_state_dict({n: t + 1 for n, t in other.state_dict().items()})
    with pytest.raises(ValueError, match="should have the original's weights before its checkpoint is restored"):
        quiet(callbacks=[budget()], max_epochs=2).fit(other, loader(seed=1), ckpt_path=tmp_path / "half.ckpt")


def interrupted(module: Any, path: Path, *callbacks: Any) -> None:
    fit(module, *callbacks, budget(kl=1e6), max_epochs=2).save_checkpoint(path)


class Copied(pl.Callback):
    """What is copied before a checkpoint is restored."""

    def on_fit_start(self, trainer: Any, module: Any) -> None:
        known = next(c for c in trainer.callbacks if isinstance(c, DisruptionBudget))._known
        self.paths = {o.path for o in known._reference._originals}


@pytest.mark.parametrize("unfrozen", [True, False])
def test_a_layer_unfrozen_before_the_interruption_is_measured_from_where_it_was(unfrozen: bool, tmp_path: Path) -> None:
    late, module, callback, seen = (lambda: Unfreeze(lr=0.5 if unfrozen else 0.0)), Adds(), budget(kl=1e6), Copied()
    interrupted(Adds(), tmp_path / "half.ckpt", late())
    trainer = quiet(callbacks=[seen, late(), callback], max_epochs=3)
    trainer.fit(module, loader(seed=1), ckpt_path=tmp_path / "half.ckpt")
    assert torch.equal(module.body[0].weight, Adds().body[0].weight) is not unfrozen
    assert callback.history[-1] == (18, pytest.approx(divergence_by_hand(module, Adds()), rel=1e-3))
    # Not what the checkpoint leaves as it is: a frozen base may be large.
    assert ("body.0.weight" in seen.paths) is unfrozen


@pytest.mark.parametrize("edited", [True, False])
def test_of_frozen_weights_that_start_at_random_the_original_has_those_of_the_interrupted_fit(
    edited: bool, tmp_path: Path
) -> None:
    def build(seed: int) -> Any:
        module = Adds()
        module.body[0].requires_grad_(False)
        nn.init.normal_(module.body[0].weight, generator=torch.Generator().manual_seed(seed))
        return module

    first, module, callback = build(1), build(2), budget(kl=1e6)
    interrupted(first, tmp_path / "half.ckpt", *([Grow("on_train_epoch_end", "body.0")] if edited else []))
    going_on = quiet(callbacks=[callback], max_epochs=3)
    if edited:  # what they were is not known any more
        with pytest.raises(ValueError, match="Found others, or none, in 1 parameters, `body.0.weight` first"):
            going_on.fit(module, loader(seed=1), ckpt_path=tmp_path / "half.ckpt")
        return
    going_on.fit(module, loader(seed=1), ckpt_path=tmp_path / "half.ckpt")
    assert callback.history[-1][1] == pytest.approx(divergence_by_hand(module, build(1)), rel=1e-2)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_a_base_that_was_changed_below_an_adapter_is_refused_when_the_fit_is_resumed(tmp_path: Path) -> None:
    def build() -> UnlearningModule:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return UnlearningModule(adapted(family("llama")))

    def one(*callbacks: Any, path: Path | None = None, epochs: int = 1) -> pl.Trainer:
        measured = DisruptionBudget([batch()], kl=1e6, every=1)
        trainer = quiet(callbacks=[*callbacks, measured], max_epochs=epochs)
        trainer.fit(build(), language(0), ckpt_path=path)
        return trainer

    base = next(name for name, p in build().named_parameters() if not p.requires_grad).removesuffix(".weight")
    one().save_checkpoint(tmp_path / "left.ckpt")
    one(Grow("on_train_epoch_end", base)).save_checkpoint(tmp_path / "changed.ckpt")
    one(path=tmp_path / "left.ckpt", epochs=2)
    with pytest.raises(ValueError, match=r"Found: 1 weights below the adapter that the interrupted fit has changed"):
        one(path=tmp_path / "changed.ckpt", epochs=2)


def test_a_checkpoint_of_somebody_elses_is_an_original(tmp_path: Path) -> None:
    trainer, module = going_on(Weights(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "theirs.ckpt")
    callback = budget(kl=1e6)
    _, after = going_on(callback, tmp_path / "theirs.ckpt", max_epochs=2)
    assert callback.history[-1][1] == pytest.approx(divergence_by_hand(after, module), rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*The fit goes on. To stop it")
@pytest.mark.parametrize("on_exceed", ["restore", "restore_and_stop"])
@pytest.mark.parametrize("before", ["stop", "warn"])
def test_weights_that_were_left_above_the_budget_are_no_last_valid_ones(
    before: Any, on_exceed: Any, tmp_path: Path
) -> None:
    trainer, _ = going_on(budget(kl=0.03, on_exceed=before), max_steps=5)
    trainer.save_checkpoint(tmp_path / "above.ckpt")
    with pytest.raises(
        ValueError, match=r"from weights within the budget.* Found a divergence of .*, above 0.03, and no"
    ):
        going_on(budget(kl=0.03, on_exceed=on_exceed), tmp_path / "above.ckpt")
    callback = budget(kl=1e6, on_exceed=on_exceed)
    going_on(callback, tmp_path / "above.ckpt")
    assert callback.spent == callback.history[-1][1] > 0
    within = budget(kl=1e6, on_exceed=before)
    trainer, _ = going_on(within, max_steps=5)
    trainer.save_checkpoint(tmp_path / "within.ckpt")
    seen, callback = Weights(), budget(kl=1.01 * within.spent, every=100, on_exceed=on_exceed)
    _, module = going_on(None, tmp_path / "within.ckpt", callbacks=[seen, callback])
    assert callback.exceeded_at is not None
    assert same(state(module), seen.at[0])  # as it was when the fit went on


# Language models, adapters


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_forgetting_stops_within_the_budget(lora: bool, precision: Any, tmp_path: Path) -> None:
    def build() -> UnlearningModule:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = adapted(family("llama")) if lora else family("llama")
        return UnlearningModule(network, optimizer=lambda params: torch.optim.SGD(params, lr=3e-3))

    def one(callback: Any, path: Path | None = None, **options: Any) -> tuple[pl.Trainer, UnlearningModule]:
        module, unlearn = build(), Unlearn(GradientAscent(), forget=language(1), weight=2.0)
        trainer = quiet(callbacks=[unlearn, callback], precision=precision, **{"max_epochs": 20, **options})
        trainer.fit(module, language(0), ckpt_path=path)
        return trainer, module

    def neutral(**options: Any) -> DisruptionBudget:
        return DisruptionBudget([batch()], kl=0.01, every=1, **options)

    callback = neutral()
    trainer, module = one(callback)
    assert callback.exceeded_at == trainer.global_step < 80
    assert 0 < callback.spent <= 0.01
    with torch.no_grad():
        p, q = (CausalLMReadout()(m.network.eval(), batch()).logits.double().softmax(-1) for m in (build(), module))
    assert float((p * (p / q).log()).sum(-1).mean()) == pytest.approx(
        callback.spent, rel=1e-4 if precision == "32-true" else 0.3
    )
    assert callback.exceeded_at > 4
    trainer, _ = one(neutral(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    again = neutral()
    _, resumed = one(again, tmp_path / "half.ckpt")
    assert again.history == callback.history
    assert same(state(module), state(resumed))


def test_without_neutral_data_it_measures_on_what_stays_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    callback = DisruptionBudget(kl=1e6)
    fit(SomebodysModule(), callback, max_epochs=1)
    assert "measures on the first batches of what the fit trains on" in caplog.text
    assert callback.spent > 0
    assert "DisruptionBudget(neutral=...)" in caplog.text


# Two processes


def in_two(rank: int, world: int, kind: str) -> tuple[dict[str, Tensor], Any, Any]:
    module_class, strategy = {
        "single": (AllUsed, lambda: "auto"),
        "ddp": (AllUsed, lambda: "ddp"),
        "fsdp2": (AllUsedSharded, lambda: fsdp2(False)),
    }[kind]
    module, callback = module_class(), budget_of_shares()
    trainer = quiet(
        callbacks=[callback],
        strategy=strategy(),
        devices=world,
        max_epochs=3,
        use_distributed_sampler=False,
    )
    trainer.fit(module, shares(data(1, 32, exact=False), rank, world))
    return whole(module, None), callback.history, (callback.spent, callback.exceeded_at, trainer.global_step)


def budget_of_shares() -> DisruptionBudget:
    examples = data(NEUTRAL_SEED, 11, exact=False)  # three batches for two processes: one has to run a batch twice
    return DisruptionBudget(DataLoader(examples, batch_size=4), kl=0.03, every=1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, about its first FSDP
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_stop_where_one_does(kind: str) -> None:
    weights, history, (spent, exceeded_at, steps) = in_two(0, 1, "single")
    assert exceeded_at == steps
    for found, there, (spent_there, exceeded_there, steps_there) in run_ranks(partial(in_two, kind=kind)):
        assert (exceeded_there, steps_there) == (exceeded_at, steps)
        assert spent_there == pytest.approx(spent, rel=1e-4)
        assert [kl for _, kl in there] == pytest.approx([kl for _, kl in history], rel=1e-4)
        for name, value in weights.items():
            assert_close(found[name], value, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, about its first FSDP
def test_shards_resume_with_the_original_and_the_copy(tmp_path: Path) -> None:
    def one(rank: int, world: int, path: Path | None = None) -> Any:
        module, callback = AllUsedSharded(), budget(kl=0.055, every=3)
        saved = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        quiet(
            callbacks=[callback, saved],
            strategy=fsdp2(False),
            devices=world,
            max_epochs=6,
            use_distributed_sampler=False,
            enable_checkpointing=True,
        ).fit(module, shares(data(1, 32, exact=False), rank, world), ckpt_path=path)
        return whole(module, None), callback.history, callback.exceeded_at

    uninterrupted = run_ranks(one)
    for (weights, history, at), (again, history_again, at_again) in zip(
        uninterrupted, run_ranks(partial(one, path=tmp_path / "step=4.ckpt")), strict=True
    ):
        assert at == at_again is not None
        assert history == history_again
        assert same(weights, again)


# Refusals


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kl": 0}, ValueError, "`kl` should be positive and finite. Found `kl = 0`"),
        ({"every": 0}, ValueError, "`every` should be at least 1"),
        ({"batches": 0}, ValueError, "`batches` should be at least 1"),
        (
            {"on_exceed": "raise"},
            ValueError,
            '`on_exceed` should be "restore_and_stop", "restore", "stop" or "warn". Found',
        ),
        ({"readout": ClassificationReadout}, TypeError, "`readout` should be a `Readout`"),
        ({"readout": TrainingStepReadout()}, ValueError, "by a readout that gives logits. Found `TrainingStepReadout"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        budget(**options)


class OwnLoss(SomebodysModule):
    """No readout of ours computes this loss."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return (self(batch[0]) - 1).square().mean()


def test_fits_that_cannot_be_measured_are_refused() -> None:
    with pytest.raises(RuntimeError, match="Found more than one stateful callback of type `DisruptionBudget`"):
        fit(SomebodysModule(), budget(), budget())
    with pytest.raises(ValueError, match="by a readout that gives logits. Found `TrainingStepReadout"):
        fit(OwnLoss(), budget())
    callback = budget(kl=1e6, readout=ClassificationReadout())
    with pytest.warns(UserWarning, match="should compute what `training_step` does"):
        fit(OwnLoss(), callback, max_epochs=1)
    assert callback.spent > 0
    with pytest.raises(ValueError, match="The neutral data set should hold at least one example"):
        fit(SomebodysModule(), DisruptionBudget([]))


@pytest.mark.slow
class Restless(SomebodysModule):
    """Draws from a generator of its own, in evaluation mode too: no seed makes two passes the same."""

    def __init__(self) -> None:
        super().__init__()
        self.draw = partial(torch.rand, (), generator=torch.Generator().manual_seed(1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + self.draw())


@pytest.mark.filterwarnings("ignore:`ClassificationReadout..` should compute what `training_step` does")
def test_a_network_that_differs_from_itself_is_refused_before_the_first_step() -> None:
    module = Restless()
    start = state(module)
    callback = budget(kl=1e6, readout=ClassificationReadout())
    with pytest.raises(ValueError, match=r"Measured on the original itself, .* below 1e-06. Found .* by its logits"):
        fit(module, callback)
    assert same(state(module), start)
    assert module.losses == []
    assert callback.history == []


def test_flattened_parameters_are_refused() -> None:
    def attempt(rank: int, world: int) -> None:
        strategy = FSDP1OnCPU(auto_wrap_policy={nn.Linear})
        with pytest.raises(NotImplementedError, match="should find parameters as they are, to put them back. Found"):
            quiet(callbacks=[budget()], strategy=strategy, devices=world).fit(SomebodysModule(), loader(seed=1))

    run_ranks(attempt)


@pytest.mark.parametrize("on_exceed", ["restore", "restore_and_stop"])
def test_weights_that_are_replaced_in_the_fit_cannot_be_put_back(on_exceed: Any) -> None:
    def pruning(module: Any) -> ModelPruning:
        return ModelPruning("l1_unstructured", parameters_to_prune=[(module.head, "weight")], amount=0.2)

    module = SomebodysModule()
    with pytest.raises(
        NotImplementedError, match=r"to put them back. Found `ModelPruning`, which replaces them.*'stop'"
    ):
        fit(module, budget(on_exceed=on_exceed), pruning(module))
    callback = budget(kl=1e6, on_exceed="stop")
    fit(module, callback, pruning(module), max_epochs=1)
    assert callback.history[-1][1] == pytest.approx(divergence_by_hand(module), rel=1e-5)


def test_it_can_be_written_in_yaml() -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(pl.Callback, "callback")
    neutral = {
        "class_path": "lightning_unlearn.QuestionAnswerData",
        "init_args": {"records": {"path": "bundled:people"}},
    }
    given = {"class_path": "lightning_unlearn.DisruptionBudget", "init_args": {"kl": 0.02, "neutral": neutral}}
    built = parser.instantiate_classes(parser.parse_object({"callback": given})).callback
    assert (built.kl, built.every, built.on_exceed) == (0.02, 10, "restore_and_stop")
    assert built.neutral["class_path"] == "lightning_unlearn.QuestionAnswerData"
