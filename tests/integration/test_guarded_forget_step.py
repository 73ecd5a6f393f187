"""`StepGuard` beside `Unlearn(optimizer=...)` acts on the forget step alone; measured from outside, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _guarded_fits import FITS, Module, Outside, Seen, fit
from _language_models import family, frozen, language
from _modules import examples, loader, quiet, same
from _private_optimizers import OWN, AfterUsersStep, Fused, states
from _scaled import scaled
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_unlearn import (
    Bounded,
    CrossEntropy,
    CyclicOrder,
    ForgetRetainData,
    GradientAscent,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.callbacks import StepGuard
from lightning_unlearn.guards import (
    Euclidean,
    History,
    MicroBatches,
    Monitor,
    NoChange,
    NoIncrease,
    OptimizerMetric,
    Rule,
)


class OutsideForget(Outside):
    """Its changes are those between the weights after the user's step and after the other; it stands before `Unlearn`."""

    def on_train_start(self, trainer: Any, module: Any) -> None:
        def between(*args: Any) -> None:
            self.weights[-1] = [p.detach().double().clone() for p in module.parameters()]

        trainer.optimizers[0].register_step_post_hook(between)


def unlearn(own: str = "adamw", **kwargs: Any) -> Unlearn:
    given = {"objective": Bounded(GradientAscent(), bound=4.0), "forget": loader(seed=2), "weight": 3.0}
    return Unlearn(**{**given, "optimizer": OWN[own], **kwargs})


@pytest.mark.parametrize("scope", ["global", "parameter"])
@pytest.mark.parametrize("rule", [NoIncrease(), NoChange()], ids=repr)
@pytest.mark.parametrize("fitted", FITS)
@pytest.mark.parametrize(
    ("optimizer", "own"), [("momentum", "adamw"), pytest.param("adamw", "momentum", marks=pytest.mark.slow)]
)
def test_the_applied_forget_step_harms_nothing_protected(
    optimizer: str, own: str, fitted: str, rule: Rule, scope: Any
) -> None:
    outside, guard = OutsideForget(mixed=fitted == "bf16-mixed"), StepGuard(rule, History(length=4), scope=scope)
    fit(outside, unlearn(own), guard, optimizer=optimizer, **FITS[fitted])
    breaches = outside.breaches(type(rule).__name__, scope, length=4)
    assert len(breaches) >= 10
    assert max(breaches) <= 1e-6
    steps = 4 if fitted == "accumulate" else 12
    assert guard._steps == {"taken": steps, "transformed": steps, "fallbacks": 0}


@pytest.mark.parametrize("own", ["plain", "momentum", "adamw"])
def test_without_a_guard_it_does_harm(own: str) -> None:
    """So the test above could fail."""
    outside = OutsideForget()
    fit(outside, unlearn(own))
    assert max(outside.breaches("NoIncrease", "global")) > 1e-2
    assert max(outside.breaches("NoChange", "global")) > 1e-2


@pytest.mark.parametrize("rule", [NoIncrease(), NoChange()], ids=repr)
@pytest.mark.parametrize("geometry", [Euclidean(), OptimizerMetric()], ids=repr)
def test_only_rounding_stands_in_the_way(geometry: Any, rule: Rule) -> None:
    """The user's plain SGD has no moments to read: it is the other optimizer's metric."""
    outside, guard = OutsideForget(), StepGuard(rule, History(length=4), geometry)
    _, trainer = fit(outside, unlearn(), guard, optimizer="sgd", precision="64-true")
    assert max(outside.breaches(type(rule).__name__, "global", length=4)) <= 1e-12
    assert trainer.callback_metrics["guard/cosine"] <= 1e-12


@pytest.mark.parametrize("fitted", FITS)
@pytest.mark.parametrize("scope", ["global", "parameter"])
def test_the_users_part_of_the_step_is_untouched_to_the_bit(scope: Any, fitted: str) -> None:
    """That of the first step is that of the fit without any of us; what follows it is not."""

    def first(*callbacks: pl.Callback) -> tuple[list[Tensor], list[Tensor], Any]:
        seen = AfterUsersStep()
        module, trainer = fit(seen, *callbacks, max_steps=1, **FITS[fitted])
        return seen.weights[0], states(trainer.optimizers[0]), module

    *alone, _ = first()
    *unguarded, before = first(unlearn())
    *guarded, after = first(unlearn(), StepGuard(NoChange(), scope=scope))
    for wanted, found, too in zip(alone, unguarded, guarded, strict=True):
        assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(wanted, found, too, strict=True))
    assert not same(before, after)


def test_the_whole_step_is_not_what_is_guarded() -> None:
    """Of it, the user's part lowers the retain loss; `Null` on the whole step would take that out."""
    outside = Outside()
    fit(unlearn(), StepGuard(NoChange()), outside, optimizer="sgd")
    for rows, change in zip(outside.gradients, outside.changes, strict=True):
        g, d = (torch.cat([v.flatten() for v in vector]) for vector in (rows[0], change))
        assert float(g @ d) < -1e-4


@pytest.mark.parametrize("fitted", FITS)
@pytest.mark.parametrize("directions", [History(4), MicroBatches()], ids=repr)
def test_the_order_of_callbacks_does_not_matter(directions: Any, fitted: str) -> None:
    first, _ = fit(StepGuard(NoChange(), directions), unlearn(), **FITS[fitted])
    last, _ = fit(unlearn(), StepGuard(NoChange(), directions), **FITS[fitted])
    assert same(first, last)


def test_a_watched_fit_is_the_fit_without_a_guard_to_the_bit() -> None:
    bare, _ = fit(unlearn())
    watched, trainer = fit(StepGuard(Monitor(), History(4)), unlearn())
    assert same(bare, watched)
    assert trainer.callback_metrics["guard/kept"] == 1


def test_a_safe_forget_step_is_left_alone_to_the_bit() -> None:
    """Its gradient is nearly the retain one, not the other way around: the data are hardly others."""
    x, y = examples(1).tensors
    forget = DataLoader(TensorDataset(1.001 * x, y), batch_size=4)
    learn = {"objective": CrossEntropy(), "forget": forget}
    bare, _ = fit(unlearn("plain", **learn), accumulate_grad_batches=6)
    guarded, trainer = fit(unlearn("plain", **learn), StepGuard(NoIncrease()), accumulate_grad_batches=6)
    assert same(bare, guarded)
    assert trainer.callback_metrics["guard/active"] == 0
    assert trainer.callback_metrics["guard/retain_after"] < -1e-3


def test_what_is_logged_is_what_was_applied() -> None:
    outside, seen = OutsideForget(), Seen()
    fit(outside, unlearn(), StepGuard(NoChange()), seen)
    for rows, change, logged in zip(outside.gradients, outside.changes, seen.logged, strict=True):
        g, d = (torch.cat([v.flatten() for v in vector]) for vector in (rows[0], change))
        assert logged["guard/cosine"] == pytest.approx(abs(float(F.cosine_similarity(g, d, dim=0))), abs=1e-7)
        assert logged["guard/retain_after"] == pytest.approx(float(g @ d), abs=1e-7)
        assert abs(logged["guard/retain_before"]) > 1e-4
        assert 0 < logged["guard/kept"] < 1
        assert logged["guard/active"] == 1


def test_a_retain_set_of_its_own_is_protected_from_forgetting() -> None:
    """What the fit trains on is then none of the guard's business."""
    outside, guard = OutsideForget(), StepGuard(NoChange(), retain=loader(seed=5))
    _, trainer = fit(outside, unlearn(), guard)
    assert trainer.callback_metrics["guard/cosine"] < 1e-6
    assert max(outside.breaches("NoChange", "global")) > 1e-2


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("module_class", [Module, Fused])
@pytest.mark.parametrize("order", [1, -1])
def test_steps_that_a_scaler_skips_are_neither_guarded_nor_remembered(order: int, module_class: Any) -> None:
    guard = StepGuard(NoChange(), History(100))
    _, trainer = fit(*[unlearn(), guard][::order], module=module_class(), **scaled(2.0**20))
    assert 0 < guard._steps["taken"] == guard._steps["transformed"] < trainer.global_step == 12
    assert len(guard.directions._past) == guard._steps["taken"]
    assert trainer.callback_metrics["guard/cosine"] < 1e-6


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_adapters_are_guarded() -> None:
    network = family("llama", lora=True)
    module = UnlearningModule(network, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2))
    guard = StepGuard(NoChange(), scope="parameter")
    trainer = quiet(callbacks=[unlearn(objective=GradientAscent(), forget=language(0)), guard], max_steps=4)
    base = frozen(network)
    trainer.fit(module, language(1))
    assert guard._steps == {"taken": 4, "transformed": 4, "fallbacks": 0}
    assert trainer.callback_metrics["guard/cosine"] < 1e-6
    assert all(torch.equal(a, b) for a, b in zip(base, frozen(network), strict=True))


def test_no_hook_stays_behind() -> None:
    callback, guard = unlearn(), StepGuard(NoChange())
    _, trainer = fit(callback, guard)
    assert not trainer.optimizers[0]._optimizer_step_post_hooks
    assert not callback.forget_optimizer._optimizer_step_pre_hooks
    assert not callback.forget_optimizer._optimizer_step_post_hooks


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("interrupted_at", [3, 6])
def test_resumed_equals_uninterrupted(interrupted_at: int, tmp_path: Path) -> None:
    def run(folder: str, ckpt_path: Path | None = None, **kwargs: Any) -> tuple[Any, StepGuard]:
        guard, forgetting = StepGuard(NoChange(), History(4)), unlearn(forget=None)
        saved = ModelCheckpoint(tmp_path / folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        trainer = quiet(callbacks=[guard, forgetting, saved], enable_checkpointing=True, max_epochs=2, **kwargs)
        module = Module("adamw")
        data = ForgetRetainData(retain=loader(seed=1), forget=loader(seed=2), order=CyclicOrder())
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return module, guard

    whole, _ = run("whole")
    run("first", max_steps=interrupted_at)
    resumed, guard = run("second", tmp_path / "first" / f"step={interrupted_at}.ckpt")
    assert same(whole, resumed)
    assert guard._steps == {"taken": 12, "transformed": 12, "fallbacks": 0}


# What is refused


def test_a_metric_that_the_forget_optimizer_does_not_have() -> None:
    """Whatever the user's has."""
    with pytest.raises(NotImplementedError, match="second moments.*Found `SGD`. Use `geometry=Euclidean"):
        fit(StepGuard(geometry=OptimizerMetric()), unlearn("momentum"), optimizer="adamw")


@pytest.mark.parametrize("other", [{"optimizer": None}, {}], ids=["merging", "apart"])
def test_several_that_forget_of_which_only_one_would_be_guarded(other: dict[str, Any]) -> None:
    second = unlearn(**{"objective": GradientAscent(), **other})
    number = 1 if other else 2
    with pytest.raises(NotImplementedError, match=f"all forgetting in one step.*Found 2 `Unlearn`, {number} of them.*"):
        fit(unlearn(), second, StepGuard())


def test_steps_that_were_not_guarded_are_noticed() -> None:
    class Bypassing(Module):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any) -> None:
            optimizer_closure()
            optimizer.optimizer.step()

    with pytest.raises(RuntimeError, match="Every optimizer step should be guarded. Found 12 steps, of which 0 were"):
        fit(StepGuard(), unlearn(), module=Bypassing("adamw"))
