"""The better of two simulated steps, as a loop written by hand would choose it; nothing but the step's length moves."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import HostileModule, SomebodysModule, loader, quiet, same
from _ranks import run_ranks
from _sharded_fits import STRATEGIES, data, whole
from _sharded_fits import loader as shared_loader
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import Bounded, GradientAscent, LookaheadRate, TrainOnly, Unlearn

BOUND = 3.0


def lookahead(**kwargs: Any) -> LookaheadRate:
    return LookaheadRate(forget=loader(seed=3), retain=loader(seed=4), **kwargs)


def fit(*callbacks: Any, module: Any = None, **kwargs: Any) -> tuple[Any, Any]:
    module = SomebodysModule() if module is None else module
    trainer = quiet(
        callbacks=[Unlearn(Bounded(GradientAscent(), bound=BOUND), forget=loader(seed=2)), *callbacks], **kwargs
    )
    trainer.fit(module, loader(seed=1))
    return module, trainer


def utility(module: nn.Module) -> float:
    def known(seed: int) -> float:
        x, y = next(iter(loader(seed, batch_size=24)))
        return float(F.softmax(module(x), 1)[torch.arange(24), y].mean())

    with torch.no_grad():
        return known(4) - known(3)


class ByHand(SomebodysModule):
    """Takes the optimizer's step itself, at three rates on copies, and goes on with the copy of the better one."""

    factor = 1.0

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any) -> None:
        before = copy.deepcopy(self.state_dict())
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        proposed = copy.deepcopy(self.state_dict())

        def at(factor: float) -> None:
            self.load_state_dict({n: before[n] + factor * (proposed[n] - before[n]) for n in before})

        found = {}
        for factor in (self.factor * 1.2, self.factor * 0.8):
            at(factor)
            found[factor] = utility(self)
        self.factor = max(found, key=found.__getitem__)
        at(self.factor)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_better_of_two_is_taken_as_by_hand(optimizer: str) -> None:
    expected, _ = fit(module=ByHand(optimizer))
    callback = lookahead(divider=5, every_n_steps=1)
    found, trainer = fit(callback, module=SomebodysModule(optimizer))
    assert callback.factor == pytest.approx(expected.factor)
    assert callback.factor != 1
    for p, by_hand in zip(found.parameters(), expected.parameters(), strict=True):
        assert_close(p, by_hand, rtol=0, atol=1e-5)
    assert trainer.callback_metrics["lookahead/factor"] == pytest.approx(callback.factor)


def test_a_simulated_step_is_the_step_at_another_learning_rate() -> None:
    """The first step of AdamW, decay included: `factor` times the rate, and not only times the gradient."""

    class Faster(SomebodysModule):
        def configure_optimizers(self) -> Any:
            setup = super().configure_optimizers()
            for group in setup["optimizer"].param_groups:
                group["lr"] *= 1.1
            return setup["optimizer"]

    class Kept(LookaheadRate):
        def _utility_at(self, step: Any, factor: float, trainer: Any) -> float:
            return factor  # the longer step is always better

    longer, _ = fit(Kept(forget=loader(3), retain=loader(4), every_n_steps=1), max_steps=1)
    faster, _ = fit(module=Faster(), max_steps=1)
    for p, q in zip(longer.parameters(), faster.parameters(), strict=True):
        assert_close(p, q, rtol=0, atol=1e-6)


class Undecided(LookaheadRate):
    """Looks in each step, and finds both alike."""

    def _utility_at(self, step: Any, factor: float, trainer: Any) -> float:
        super()._utility_at(step, factor, trainer)
        return 0.0


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_everything_is_put_back_after_a_look() -> None:
    """Dropout, BatchNorm, metrics, counters, lists, three random generators, a cosine schedule."""
    pl.seed_everything(0)
    without, alone = fit(module=HostileModule(), max_epochs=2)
    pl.seed_everything(0)
    looked = Undecided(forget=loader(3), retain=loader(4), every_n_steps=1)
    beside, trainer = fit(looked, module=HostileModule(), max_epochs=2)
    assert same(without, beside)
    assert all(torch.equal(a, b) for a, b in zip(without.buffers(), beside.buffers(), strict=True))
    assert (without.calls, without.history) == (beside.calls, beside.history)
    assert trainer.callback_metrics["train_loss"] == alone.callback_metrics["train_loss"]
    states = [t.optimizers[0].state_dict()["state"] for t in (alone, trainer)]
    assert all(torch.equal(states[0][i]["exp_avg"], states[1][i]["exp_avg"]) for i in states[0])


def test_the_users_rate_and_schedule_are_not_touched() -> None:
    rates = []
    for callbacks in ([], [lookahead(every_n_steps=1)]):
        _, trainer = fit(*callbacks)
        rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])
    assert rates[0] == rates[1]


def test_the_factor_stays_within_its_bounds() -> None:
    callback = lookahead(divider=1.25, every_n_steps=1, most=1.5)
    fit(callback, max_epochs=3)
    assert callback.factor in (pytest.approx(1.5), pytest.approx(1 / 1.5))


def test_what_a_restriction_keeps_stays_bit_for_bit() -> None:
    module, _ = fit(lookahead(every_n_steps=1), TrainOnly("head"))
    assert same(module.body, SomebodysModule().body)
    assert not same(module.head, SomebodysModule().head)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("every", [1, 4])
def test_a_resumed_fit_goes_on_with_its_factor(every: int, tmp_path: Path) -> None:
    """Where it looks in every fourth step, the last look was two steps before the checkpoint."""

    def resumable(folder: str, ckpt_path: Path | None = None) -> tuple[Any, LookaheadRate]:
        callback = lookahead(divider=5, every_n_steps=every)
        saved = ModelCheckpoint(tmp_path / folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        forgetting = Unlearn(Bounded(GradientAscent(), bound=BOUND), forget=loader(seed=2))
        trainer = quiet(callbacks=[forgetting, callback, saved], enable_checkpointing=True, max_epochs=2)
        module = SomebodysModule("adamw")
        trainer.fit(module, loader(seed=1), ckpt_path=ckpt_path)
        return module, callback

    complete, whole_fit = resumable("whole")
    resumed, again = resumable("again", tmp_path / "whole" / "step=6.ckpt")
    assert again.factor == whole_fit.factor != 1
    assert same(complete, resumed)


@pytest.mark.parametrize("name", ["divider", "most"])
def test_a_divider_that_would_stop_or_turn_the_step_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` should be larger than 1. Found `{name} = 1.0`"):
        lookahead(**{name: 1.0})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_equal_one(kind: str) -> None:
    def run(kind: str | None, rank: int, world_size: int) -> tuple[dict[str, Tensor], float]:
        module_class, strategy = STRATEGIES[kind] if kind else (SomebodysModule, lambda: "auto")
        module, callback = module_class("adamw"), lookahead(every_n_steps=1)
        forget = DataLoader(data(2, 12, False), batch_size=8 // world_size)
        trainer = quiet(
            strategy=strategy(),
            devices=world_size,
            callbacks=[Unlearn(Bounded(GradientAscent(), bound=4.0), forget=forget), callback],
            use_distributed_sampler=False,
        )
        trainer.fit(module, shared_loader(data(1, 32, False), rank, world_size))
        return whole(module, kind), callback.factor

    expected, factor = run(None, 0, 1)
    assert factor != 1
    for found, there in run_ranks(lambda rank, world: run(kind, rank, world)):
        assert there == factor
        for name, value in expected.items():
            assert_close(found[name], value, rtol=0, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.slow
def test_a_tie_on_one_process_alone_is_none_if_the_first_one_finds_a_difference() -> None:
    """Or it would not come to where the others agree on the factor. Processes may round differently."""

    class Rounds(LookaheadRate):
        def _utility_at(self, step: Any, factor: float, trainer: Any) -> float:
            super()._utility_at(step, factor, trainer)
            return 1.0 if trainer.global_rank else factor

    def run(rank: int, world_size: int) -> float:
        callback = Rounds(forget=loader(seed=3), retain=loader(seed=4), every_n_steps=1)
        strategy = STRATEGIES["ddp"][1]()
        trainer = quiet(callbacks=[callback], strategy=strategy, devices=world_size, max_steps=2)
        trainer.fit(STRATEGIES["ddp"][0]("sgd"), shared_loader(data(1, 32, False), rank, world_size))
        return callback.factor

    first, second = run_ranks(run, timeout=40)
    assert first == second == pytest.approx(1.1**2)
