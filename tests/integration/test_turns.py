"""Steps that forget, and steps that learn: each as in a loop written by hand; and nothing moves that should stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import SomebodysModule, loader, quiet, same
from _ranks import run_ranks
from _sharded_fits import STRATEGIES, data, whole
from _sharded_fits import loader as shared_loader
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import (
    NPO,
    BilevelUnlearn,
    Bounded,
    ClassificationReadout,
    CyclicOrder,
    ForgetRetainData,
    FrozenCopy,
    GradientAscent,
    PeriodicUnlearn,
    RepairBursts,
    StepGuard,
    TrainOnly,
    Unlearn,
)
from lightning_unlearn.attacks import Attack
from lightning_unlearn.data import ForgetStream
from lightning_unlearn.forgetting import TakesTurns, Turn
from lightning_unlearn.guards import History, NoChange
from lightning_unlearn.selectors import ModuleDrift, TopShare

BOUND = 3.0
STEPS = 12  # two epochs of six
NOTHING_FORGOTTEN = "ignore:`PeriodicUnlearn.every=1000.` should forget"


def unlearn(bound: float = BOUND, **kwargs: Any) -> Unlearn:
    return Unlearn(Bounded(GradientAscent(), bound=bound), forget=loader(seed=2, n=10), seed=5, **kwargs)


def fit(*callbacks: pl.Callback, module: Any = None, **kwargs: Any) -> Any:
    module = SomebodysModule() if module is None else module
    ckpt_path = kwargs.pop("ckpt_path", None)
    trainer = quiet(callbacks=list(callbacks), **{"max_epochs": 2, **kwargs})
    if ckpt_path is None and "enable_checkpointing" not in kwargs:
        trainer.fit(module, loader(seed=1))
    else:  # loaders that know their place in an epoch
        data = ForgetRetainData(retain=loader(seed=1), forget=loader(seed=2, n=10), order=CyclicOrder())
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module


def hand_written(turns: str, accumulate: int = 1, bounds: tuple[float, ...] = (BOUND,)) -> SomebodysModule:
    """No Lightning: one letter for each step, `f` or `r`; one bound for each objective."""
    module, stream = SomebodysModule(), ForgetStream(loader(seed=2, n=10), seed=5)
    setup = module.configure_optimizers()
    optimizer, scheduler = setup["optimizer"], setup["lr_scheduler"]["scheduler"]
    retain = [batch for _ in range(2) for batch in loader(seed=1)]
    for number, turn in enumerate(turns):
        for batch in retain[number * accumulate : (number + 1) * accumulate]:
            x, y = batch if turn == "r" else next(stream)
            loss = F.cross_entropy(module(x), y)
            loss = loss if turn == "r" else sum(torch.relu(bound - loss) for bound in bounds)
            (loss / accumulate).backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    return module


# A new schedule joins here: what each of twelve steps is for, `f` or `r`.
SCHEDULES: dict[str, tuple[Callable[[int], TakesTurns], Callable[[int], str]]] = {
    "no burst": (lambda steps: RepairBursts(bursts=0), lambda steps: "f" * steps),
    "alternating": (lambda steps: RepairBursts(bursts=steps // 2, steps=1), lambda steps: "fr" * (steps // 2)),
    "at the end": (lambda steps: RepairBursts(bursts=1, steps=2), lambda steps: "f" * (steps - 2) + "rr"),
    "every third": (lambda steps: PeriodicUnlearn(every=3), lambda steps: ("rrf" * steps)[:steps]),
    "every": (lambda steps: PeriodicUnlearn(every=1), lambda steps: "f" * steps),
}


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("name", SCHEDULES)
def test_equals_the_loop_written_by_hand(name: str, accumulate: int) -> None:
    schedule, turns = SCHEDULES[name]
    steps = STEPS // accumulate
    expected = hand_written(turns(steps), accumulate)
    forgetting = unlearn()
    found = fit(forgetting, schedule(steps), accumulate_grad_batches=accumulate)
    for p, by_hand in zip(found.parameters(), expected.parameters(), strict=True):
        assert_close(p, by_hand, rtol=0, atol=1e-6)
    forgets = turns(steps).count("f")
    assert forgetting._steps == {"merged": forgets, "taken": forgets}


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_that_forgets_does_so_by_each_unlearn(accumulate: int) -> None:
    steps, bounds = STEPS // accumulate, (BOUND, 2.9)
    expected = hand_written(("rf" * steps)[:steps], accumulate, bounds)
    found = fit(*(unlearn(bound) for bound in bounds), PeriodicUnlearn(every=2), accumulate_grad_batches=accumulate)
    for p, by_hand in zip(found.parameters(), expected.parameters(), strict=True):
        assert_close(p, by_hand, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings(NOTHING_FORGOTTEN)
def test_a_period_longer_than_the_fit_is_plain_training_to_the_bit() -> None:
    periodic = PeriodicUnlearn(every=1000)
    assert same(fit(unlearn(), periodic), fit())
    assert not same(fit(unlearn()), fit())


def test_a_fit_that_never_forgot_says_so() -> None:
    with pytest.warns(UserWarning, match=r"every=1000.* should forget at least once. Found a fit of 12 steps"):
        fit(unlearn(), PeriodicUnlearn(every=1000))


class Watch(pl.Callback):
    """The weights after each step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.on_train_batch_end(trainer, module)

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        self.seen.append({name: p.detach().clone() for name, p in module.named_parameters()})

    def moved(self, step: int) -> set[str]:
        before, after = self.seen[step], self.seen[step + 1]
        return {name for name in before if not torch.equal(before[name], after[name])}


def test_a_burst_moves_what_it_may_and_all_else_stays_bit_for_bit() -> None:
    watch = Watch()
    fit(unlearn(), RepairBursts(bursts=2, steps=2, pattern="head"), watch)
    for step in range(STEPS):
        expected = {"head.weight", "head.bias"}
        if step not in (4, 5, 10, 11):
            expected |= {"body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias"}
        assert watch.moved(step) == expected, step


def test_a_selector_says_what_a_burst_may_move() -> None:
    watch = Watch()
    repair = RepairBursts(
        bursts=1,
        steps=3,
        selector=ModuleDrift(),
        choice=TopShare(0.3),
        forget=loader(seed=2, n=10),
        retain=loader(seed=1),
    )
    fit(unlearn(), repair, watch)
    chosen = set(repair.state_dict()["mask"]["whole"])
    assert 0 < len(chosen) < 6
    assert watch.moved(11) == watch.moved(9) == chosen
    assert watch.moved(8) > chosen


@pytest.mark.parametrize("guard_first", [True, False])
def test_guards_and_restrictions_hold_beside_it(guard_first: bool) -> None:
    guard, watch = StepGuard(NoChange(), History(3)), Watch()
    callbacks = [guard, unlearn(), RepairBursts(bursts=2, steps=2, pattern=["head", "body.0.*"]), TrainOnly("body.*")]
    fit(*callbacks[:: 1 if guard_first else -1], watch)
    assert guard._steps["transformed"] == guard._steps["taken"] == STEPS
    assert watch.moved(4) == {"body.0.weight", "body.0.bias"}  # what both allow
    assert watch.moved(3) == {"body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias"}


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("interrupted_at", [5, 6, 9])
@pytest.mark.parametrize(
    "schedule",
    [lambda: RepairBursts(bursts=3, steps=2, pattern="head"), lambda: PeriodicUnlearn(every=4)],
    ids=["bursts", "periodic"],
)
def test_resumed_equals_uninterrupted(schedule: Any, interrupted_at: int, tmp_path: Path) -> None:
    """Also in the middle of a burst; and the fit that was cut short would have had its bursts elsewhere."""

    def run(folder: str, **kwargs: Any) -> tuple[Any, Unlearn]:
        forgetting = Unlearn(Bounded(GradientAscent(), bound=BOUND))
        saved = ModelCheckpoint(tmp_path / folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        return fit(forgetting, schedule(), saved, enable_checkpointing=True, **kwargs), forgetting

    complete, forgetting = run("whole")
    resumed, again = run("again", ckpt_path=tmp_path / "whole" / f"step={interrupted_at}.ckpt")
    assert same(complete, resumed)
    assert forgetting._steps == again._steps
    longer, _ = run("longer", ckpt_path=tmp_path / "whole" / f"step={interrupted_at}.ckpt", max_epochs=3)
    assert not same(complete, longer)


def test_a_resumed_fit_of_more_steps_keeps_its_bursts(tmp_path: Path) -> None:
    repair = RepairBursts(bursts=3, steps=2)
    fit(unlearn(), repair)
    turns = [repair.turn(step) for step in range(STEPS)]
    again = RepairBursts(bursts=3, steps=2)
    again.load_state_dict(repair.state_dict())
    again._total = again._take_restored()["total"]
    assert [again.turn(step) for step in range(STEPS)] == turns
    assert [step for step in range(STEPS) if turns[step] is Turn.LEARN] == [2, 3, 6, 7, 10, 11]


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["bursts", "periodic"])
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_equal_one(kind: str, schedule: str) -> None:
    def run(kind: str | None, rank: int, world_size: int) -> dict[str, Tensor]:
        module_class, strategy = STRATEGIES[kind] if kind else (SomebodysModule, lambda: "auto")
        module = module_class("adamw")
        forget = DataLoader(data(2, 12, False), batch_size=8 // world_size)
        forgetting = Unlearn(Bounded(GradientAscent(), bound=4.0), forget=forget)
        turns = RepairBursts(2, 2, "head") if schedule == "bursts" else PeriodicUnlearn(3)
        trainer = quiet(
            strategy=strategy(),
            devices=world_size,
            callbacks=[forgetting, turns],
            use_distributed_sampler=False,
            max_epochs=2,
        )
        trainer.fit(module, shared_loader(data(1, 32, False), rank, world_size))
        return whole(module, kind)

    expected = run(None, 0, 1)
    for found in run_ranks(lambda rank, world: run(kind, rank, world)):
        for name, value in expected.items():
            assert_close(found[name], value, rtol=0, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
    assert not torch.equal(expected["head.weight"], SomebodysModule().head.weight)


class Asking(Attack):
    """Changes nothing, and counts the retain batches that it is given."""

    needs_data, unit = "retain", "batches"

    def __init__(self) -> None:
        self.given: list[int] = []

    @contextmanager
    def __call__(self, network: Any, *, batches: Any = (), loss: Any = None, engine: Any = None) -> Iterator[Any]:
        self.given.append(len(list(batches)))
        yield iter([1])


def test_an_attack_is_given_the_retain_data_of_its_own_step_alone() -> None:
    asking = Asking()
    fit(unlearn(under={"asking": asking}), PeriodicUnlearn(every=3))
    assert asking.given == [1, 1, 1, 1]


def test_so_it_is_where_an_attack_is_not_due_in_each_step() -> None:
    asking = Asking()
    fit(unlearn(under={"asking": asking}, under_every=3))
    assert asking.given == [1, 1, 1, 1]


def test_what_is_unfrozen_between_two_steps_that_forget_is_known_to_the_original() -> None:
    """Steps that learn move it before the original is asked for again."""

    class Unfreezes(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            module.body[0].requires_grad_(trainer.global_step >= 6)

    forgetting = Unlearn(NPO(), forget=loader(seed=2, n=10), reference=FrozenCopy(), readout=ClassificationReadout())
    module = SomebodysModule()
    module.body[0].requires_grad_(False)
    fit(Unfreezes(), forgetting, PeriodicUnlearn(every=5), module=module)
    copies = {o.path: o.value for o in forgetting.reference._originals}
    for name in ("body.0.weight", "body.0.bias"):
        start = SomebodysModule().get_parameter(name)
        assert torch.equal(copies[name], start)
        assert not torch.equal(module.get_parameter(name), start)


# What cannot work is refused


class EveryOther(TakesTurns):
    def turn(self, step: int) -> Turn:
        return Turn.LEARN if step % 2 else Turn.FORGET


def test_it_wants_an_unlearn_to_give_turns_to() -> None:
    with pytest.raises(
        ValueError, match="`EveryOther` should find an `Unlearn` whose steps it gives turns. Found none"
    ):
        fit(EveryOther())


@pytest.mark.parametrize(
    ("callbacks", "found"),
    [
        (lambda: [unlearn(), PeriodicUnlearn()], "PeriodicUnlearn"),
        (lambda: [unlearn(optimizer=torch.optim.SGD)], r"Unlearn\(optimizer=...\)"),
        (lambda: [unlearn(under={"asking": Asking()}, under_retain=True)], r"Unlearn\(under_retain=True\)"),
        (lambda: [BilevelUnlearn(NPO(), forget=loader(seed=2))], "BilevelUnlearn"),
    ],
    ids=["another", "own optimizer", "retain under attack", "bilevel"],
)
def test_what_has_steps_of_its_own_is_refused(callbacks: Any, found: str) -> None:
    with pytest.raises(NotImplementedError, match=f"only one that says which steps forget.* Found `{found}`"):
        fit(EveryOther(), *callbacks())


def test_bursts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 14 steps, 2 bursts of 7. Found 12"):
        fit(unlearn(), RepairBursts(bursts=2, steps=7))
    with pytest.raises(ValueError, match="Found inf"):
        fit(unlearn(), RepairBursts(), max_epochs=-1, max_time="00:00:00:01")
