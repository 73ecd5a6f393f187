"""`Unlearn(under=...)` takes the forget gradient inside attacks, and moves nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from _modules import SomebodysModule, examples, loader, quiet
from _vantage import BOUND, Failing, Nothing, Shift, assert_first_step_is, fitted, forget_loss, forgetting
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import (
    Bounded,
    CyclicOrder,
    ForgetRetainData,
    GradientAscent,
    Interpolate,
    Noise,
    Quantize,
    Relearn,
    RowMask,
    StepGuard,
    Unlearn,
    WeightedSum,
)
from lightning_unlearn.data import ForgetStream


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


WAYS: dict[str, Any] = {
    "plain": dict,
    "accumulated": lambda: {"fit": {"accumulate_grad_batches": 3}},
    "clipped": lambda: {"fit": {"gradient_clip_val": 0.05}},
    "projected": lambda: {"unlearn": {"projector": WeightedSum()}},
    "transformed": lambda: {"unlearn": {"transforms": [RowMask(0.5)]}},
    "private": lambda: {"unlearn": {"optimizer": lambda params: torch.optim.SGD(params, lr=1e-2)}},
    "guarded": lambda: {"fit": {"callbacks": [StepGuard()]}},
    "retain, too": lambda: {"unlearn": {"under_retain": True}},
    "bf16-mixed": lambda: {"fit": {"precision": "bf16-mixed"}},
}


@pytest.mark.parametrize("way", WAYS)
def test_an_attack_that_does_nothing_changes_no_bit(way: str) -> None:
    """Twice the plain gradient over two."""
    given = WAYS[way]()
    attacked, _ = fitted(
        forgetting(under={"nothing": Nothing()}, **given.get("unlearn", {})), **WAYS[way]().get("fit", {})
    )
    without = {k: v for k, v in WAYS[way]().get("unlearn", {}).items() if k != "under_retain"}
    plain, _ = fitted(forgetting(**without), **WAYS[way]().get("fit", {}))
    assert same(attacked, plain)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_step_is_the_mean_over_vantage_points_by_hand(accumulate: int) -> None:
    attacks = {"up": Shift(0.1), "down": Shift(-0.2)}
    module, _ = fitted(forgetting(under=attacks), SomebodysModule("sgd"), accumulate_grad_batches=accumulate)

    by_hand = SomebodysModule("sgd")
    setup = by_hand.configure_optimizers()
    optimizer, scheduler = setup["optimizer"], setup["lr_scheduler"]["scheduler"]
    params, stream = list(by_hand.parameters()), ForgetStream(loader(seed=2, n=24), seed=5)
    retain, forget, number = loader(seed=1), [], 0
    for number, batch in enumerate(retain, start=1):
        forget.append(next(stream))
        (F.cross_entropy(by_hand(batch[0]), batch[1]) / accumulate).backward()
        if number % accumulate:
            continue
        with torch.no_grad():
            start = [p.clone() for p in params]
        for shift in (0.0, 0.1, -0.2):
            with torch.no_grad():
                for p, value in zip(params, start, strict=True):
                    p.copy_(value + shift)
            for batch in forget:
                (forget_loss(by_hand, batch) / accumulate / 3).backward()
        with torch.no_grad():
            for p, value in zip(params, start, strict=True):
                p.copy_(value)
        forget.clear()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    for p, q in zip(module.parameters(), by_hand.parameters(), strict=True):
        assert_close(p, q, rtol=0, atol=1e-6)


@pytest.mark.parametrize("knows", ["judged", "others"])
def test_one_step_of_relearning_gives_the_first_order_meta_gradient_by_hand(knows: Any) -> None:
    """Adam's first step is a step of `lr` along the sign of the gradient: written so, and not with an optimizer."""
    lr = 0.01
    module, stream = SomebodysModule("sgd"), ForgetStream(loader(seed=2, n=24), seed=5)
    params = [*module.body.parameters(), *module.head.parameters()]
    judged, following = next(stream), next(stream)
    known = judged if knows == "judged" else following
    plain = torch.autograd.grad(forget_loss(module, judged), params)
    towards = torch.autograd.grad(F.cross_entropy(module(known[0]), known[1]), params)
    with torch.no_grad():
        for p, g in zip(params, towards, strict=True):
            p.sub_(lr * g / (g.abs() + 1e-8))
    there = torch.autograd.grad(forget_loss(module, judged), params)
    row = [(a + b) / 2 for a, b in zip(plain, there, strict=True)]
    assert max((a - b).abs().max().item() for a, b in zip(plain, row, strict=True)) > 1e-3
    assert_first_step_is(row, {"relearn": Relearn(steps=1, lr=lr, batches=1, mode="full", knows=knows)})


def test_the_attacker_trains_on_other_examples_than_those_that_are_judged() -> None:
    class Judge(Nothing):
        needs_data = "judged"

    attacker, judge = Nothing(), Judge()
    fitted(forgetting(under={"attacker": attacker, "judge": judge}))
    assert len(attacker.given) == len(judge.given) == 6
    for theirs, judged in zip(attacker.given, judge.given, strict=True):
        known = {tuple(x.tolist()) for batch in judged for x in batch[0]}
        assert theirs
        assert not known & {tuple(x.tolist()) for batch in theirs for x in batch[0]}


def test_an_attacker_who_has_what_must_go_gets_the_judged_examples_and_those_that_follow() -> None:
    class Owner(Nothing):
        needs_data = "forget"

    class Judge(Nothing):
        needs_data = "judged"

    owner, judge = Owner(), Judge()
    fitted(forgetting(under={"owner": owner, "judge": judge}))
    for theirs, (judged,), (after,) in zip(owner.given[:-1], judge.given[:-1], judge.given[1:], strict=True):
        assert len(theirs) == 9
        assert torch.equal(theirs[0][0], judged[0])
        assert torch.equal(theirs[1][0], after[0])


def test_with_a_single_batch_the_attacker_gets_it_and_that_is_said() -> None:
    with pytest.warns(UserWarning, match="not much larger than the 1 of a step. Use a smaller batch"):
        fitted(forgetting(forget=loader(seed=2, n=4), under={"nothing": Nothing()}))


def test_steps_that_are_not_due_are_plain() -> None:
    attack = Nothing()
    fitted(forgetting(under={"nothing": attack}, under_every=4))
    assert len(attack.given) == 2  # steps 0 and 4 of six


class Draws(Nothing):
    """Keeps the number that it is given as its strength, and one that it takes from the global generator."""

    def drawn(self, generator: torch.Generator) -> Draws:
        self.strength = int(torch.randint(2**31, (), generator=generator))
        return self

    @contextmanager
    def __call__(self, network: Any, **kwargs: Any) -> Iterator[Any]:
        self.given.append([self.strength, float(torch.rand(()))])
        yield iter((0,))


def draws(seed: int) -> dict[str, list[list[float]]]:
    attacks: dict[str, Any] = {"one": Draws(), "other": Draws()}
    fitted(forgetting(under=attacks, seed=seed))
    return {name: attack.given for name, attack in attacks.items()}


def test_what_is_drawn_is_another_in_each_step_for_each_attack_and_with_another_seed() -> None:
    found = [number for seed in (5, 6) for given in draws(seed).values() for met in given for number in met]
    assert len(found) == len(set(found)) == 2 * 2 * 6 * 2


def test_with_the_same_seed_it_is_the_same_whatever_the_global_random_state() -> None:
    one = draws(5)
    torch.manual_seed(99)
    assert draws(5) == one


class NotedNoise(Noise):
    drawn_seeds: list[int]

    def drawn(self, generator: torch.Generator) -> Noise:
        self.drawn_seeds.append((made := super().drawn(generator)).seed)
        return made


class NotedRelearn(Relearn):
    drawn_steps: list[int]

    def drawn(self, generator: torch.Generator) -> Relearn:
        self.drawn_steps.append((made := super().drawn(generator)).steps)
        return made


def test_the_number_of_steps_and_the_noise_are_those_of_seed_and_step() -> None:
    found = []
    for seed in (5, 5, 6):
        noise, relearn = NotedNoise(0.1), NotedRelearn(steps=4, lr=1e-2)
        noise.drawn_seeds, relearn.drawn_steps = [], []
        fitted(forgetting(under={"noise": noise, "relearn": relearn}, seed=seed))
        found.append((noise.drawn_seeds, relearn.drawn_steps))
    (seeds, steps), again, (others, steps_of_other) = found
    assert again == (seeds, steps)
    assert len({*seeds, *others}) == 12
    assert steps != steps_of_other
    assert 1 < len(set(steps)) <= 4


def test_a_failing_attack_leaves_the_step_without_it_and_is_counted() -> None:
    with pytest.warns(UserWarning, match="Attack `failing` .* failed, and this step goes on without it: .*it broke"):
        sometimes, trainer = fitted(forgetting(under={"failing": Failing(1, 3)}))
    assert trainer.callback_metrics["unlearn/under/failing/failed"] == 2

    class OnlyThen(Shift):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def __call__(self, network: Any, **kwargs: Any) -> Any:
            self.calls += 1
            self.by = 0.0 if self.calls - 1 in (1, 3) else 0.1
            return super().__call__(network, **kwargs)

    # Where it failed the gradient is the plain one, which is the mean of two plain ones.
    other, _ = fitted(forgetting(under={"failing": OnlyThen()}))
    for p, q in zip(sometimes.parameters(), other.parameters(), strict=True):
        assert_close(p, q, rtol=0, atol=0)


def test_an_attack_that_never_works_ends_the_fit_with_an_error() -> None:
    with (
        pytest.warns(UserWarning, match="it broke"),
        pytest.raises(RuntimeError, match="`failing`. Found that it failed in each of the 6 steps"),
    ):
        fitted(forgetting(under={"failing": Failing(*range(6))}))


def test_a_gradient_that_is_not_finite_under_attack_is_left_out() -> None:
    class Broken(Shift):
        def __init__(self) -> None:
            super().__init__(float("nan"))

    with pytest.warns(UserWarning, match="should be finite"), pytest.raises(RuntimeError, match="failed in each"):
        fitted(forgetting(under={"broken": Broken()}))


@pytest.mark.parametrize("attack", ["adapter", "full", "int4"])
def test_real_attacks_leave_a_fit_that_forgets_nothing_as_it_is(attack: str) -> None:
    """With a weight near zero the forget gradient moves nothing: whatever differs, the attack has left behind."""
    attacks: dict[str, Any] = {
        "adapter": lambda: Relearn(steps=3, lr=1e-2),
        "full": lambda: Relearn(steps=3, lr=1e-2, mode="full"),
        "int4": lambda: Quantize(bits=4),
    }
    attacked, _ = fitted(forgetting(under={attack: attacks[attack]()}, weight=1e-30), SomebodysModule("sgd"))
    plain, _ = fitted(forgetting(weight=1e-30), SomebodysModule("sgd"))
    assert same(attacked, plain)


@pytest.mark.parametrize("mode", ["adapter", "full"])
def test_a_resumed_fit_meets_the_same_attacks(mode: str, tmp_path: Any) -> None:
    def run(**kwargs: Any) -> Any:
        unlearn = forgetting(under={"relearn": Relearn(steps=4, lr=1e-2, mode=mode)}, under_every=2)
        trainer = quiet(callbacks=[unlearn], **{"max_epochs": 2, **kwargs.pop("fit", {})})
        module = SomebodysModule()
        trainer.fit(module, loader(seed=1, n=20), **kwargs)
        return module, trainer, unlearn

    whole, _, _ = run()
    _, trainer, _ = run(fit={"max_epochs": 1})
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _, unlearn = run(ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    assert same(whole, resumed)
    assert unlearn._vantage.counts["relearn"] == {"met": 5, "failed": 0}


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("interrupted_at", [1, 4])
@pytest.mark.parametrize(("mode", "knows"), [("adapter", "judged"), ("full", "others")])
def test_a_fit_resumed_in_mid_epoch_meets_the_same_attacks(
    mode: Any, knows: Any, interrupted_at: int, tmp_path: Path
) -> None:
    """Three steps an epoch, of 2, 2 and 1 micro-batches: after the first of the first epoch, and of the second."""

    def run(folder: str, **kwargs: Any) -> Any:
        unlearn = Unlearn(
            Bounded(GradientAscent(), bound=BOUND),
            under={"relearn": Relearn(steps=4, lr=1e-2, mode=mode, knows=knows), "noise": Noise(0.1)},
            seed=5,
        )
        saved = ModelCheckpoint(tmp_path / folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        settings = {"max_epochs": 2, "accumulate_grad_batches": 2, "enable_checkpointing": True}
        trainer = quiet(callbacks=[unlearn, saved], max_steps=kwargs.pop("max_steps", -1), **settings)
        module, retain, forget = SomebodysModule(), loader(seed=1, n=20), loader(seed=2, n=24)
        trainer.fit(module, datamodule=ForgetRetainData(retain=retain, forget=forget, order=CyclicOrder()), **kwargs)
        return module, trainer, unlearn._vantage.counts

    whole, trainer, counts = run("whole")
    half, _, _ = run("half", max_steps=interrupted_at)
    resumed, again, counts_again = run("resumed", ckpt_path=tmp_path / "half" / f"step={interrupted_at}.ckpt")
    assert trainer.global_step == again.global_step == 6
    assert counts == counts_again == {name: {"met": 6, "failed": 0} for name in ("relearn", "noise")}
    assert same(whole, resumed)
    assert not same(whole, half)


def fit_towards_the_original(start: SomebodysModule, **kwargs: Any) -> Any:
    unlearn = forgetting(under={"towards": Interpolate(0.5)})
    trainer = quiet(callbacks=[unlearn], max_epochs=kwargs.pop("epochs", 2))
    trainer.fit(start, loader(seed=1, n=20), **kwargs)
    return start, trainer, unlearn._vantage.counts["towards"]


def test_a_resumed_fit_still_knows_the_original_that_attacks_move_towards(tmp_path: Any) -> None:
    whole, _, _ = fit_towards_the_original(SomebodysModule())
    half, trainer, _ = fit_towards_the_original(SomebodysModule(), epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _, _ = fit_towards_the_original(SomebodysModule(), ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    assert same(whole, resumed)
    # From a module that has been trained, the original is not to be had: the attack is left out, and that is said.
    with pytest.warns(UserWarning, match="`towards` .* failed, .*`Interpolate` should know the original"):
        _, _, counts = fit_towards_the_original(half, ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    assert counts == {"met": 5, "failed": 5}


def test_what_is_logged_is_the_forget_loss_there() -> None:
    module = SomebodysModule("sgd")
    _, trainer = fitted(forgetting(under={"up": Shift(0.1)}), module, max_steps=1)
    fresh, batch = SomebodysModule("sgd"), next(ForgetStream(loader(seed=2, n=24), seed=5))
    with torch.no_grad():
        for p in fresh.parameters():
            p.add_(0.1)
    logged = float(trainer.callback_metrics["unlearn/under/up"])
    assert logged == pytest.approx(forget_loss(fresh, batch).item(), rel=1e-5)


def test_the_retain_gradient_is_taken_there_too() -> None:
    module, _ = fitted(
        forgetting(under={"up": Shift(0.1)}, under_retain=True, weight=1e-30), SomebodysModule("sgd"), max_steps=1
    )
    by_hand = SomebodysModule("sgd")
    optimizer = by_hand.configure_optimizers()["optimizer"]
    x, y = next(iter(loader(seed=1)))
    params = list(by_hand.parameters())
    (F.cross_entropy(by_hand(x), y) / 2).backward()
    with torch.no_grad():
        start = [p.clone() for p in params]
        for p in params:
            p.add_(0.1)
    (F.cross_entropy(by_hand(x), y) / 2).backward()
    with torch.no_grad():
        for p, value in zip(params, start, strict=True):
            p.copy_(value)
    optimizer.step()
    for p, q in zip(module.parameters(), params, strict=True):
        assert_close(p, q, rtol=0, atol=1e-6)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(TypeError, match="a mapping from names to attacks"):
        forgetting(under=[Nothing()])
    with pytest.raises(TypeError, match=r"under\['it'\]"):
        forgetting(under={"it": 3})
    with pytest.raises(ValueError, match="words without `/`"):
        forgetting(under={"a/b": Nothing()})
    with pytest.raises(ValueError, match="under_every"):
        forgetting(under={"it": Nothing()}, under_every=0)
    with pytest.raises(ValueError, match="`under_retain=True` should come with attacks"):
        forgetting(under_retain=True)


def test_rows_of_an_unknown_order_are_taken_ahead_without_losing_one() -> None:
    """A loader that is any iterable: what the attacker has seen ahead is judged later, each batch once."""

    class Plain:
        def __iter__(self) -> Any:
            return iter(DataLoader(examples(2, 12), 4))

    class Judge(Nothing):
        needs_data = "judged"

    with_attacker, alone = Judge(), Judge()
    fitted(forgetting(forget=Plain(), under={"attacker": Nothing(), "judge": with_attacker}))
    fitted(forgetting(forget=Plain(), under={"judge": alone}))
    for theirs, ours in zip(with_attacker.given, alone.given, strict=True):
        assert_close(theirs[0][0], ours[0][0], rtol=0, atol=0)
