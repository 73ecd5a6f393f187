"""The multiplier follows the retain loss once per optimizer step, whatever accumulation, ranks, loss scale or resume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from _gramians import SAMPLERS
from _modules import SomebodysModule, examples, loader, quiet
from _ranks import run_ranks
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from torch.testing import assert_close
from torch.utils.data import DataLoader, DistributedSampler

from lightning_unlearn import (
    Bounded,
    CyclicOrder,
    ForgetRetainData,
    GradientAscent,
    Unlearn,
    WeightedSum,
)
from lightning_unlearn.projectors import PrimalDual, Projector


def by_hand(losses, *, eps, step, initial=1.0, warm_up_steps=0):
    """The multiplier at each step, in Python floats."""
    weight, out = initial, []
    for number, loss in enumerate(losses):
        if number >= warm_up_steps:
            weight = max(0.0, weight + step * (loss - eps))
        out.append(weight)
    return out


class Spy(PrimalDual):
    """Remembers what it was shown, and its multiplier thereafter."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seen: list[tuple[float, float]] = []
        self.weights: list[float] = []

    def observe(self, forget, retain):
        super().observe(forget, retain)
        self.seen.append((float(forget), float(retain)))
        self.weights.append(float(self.multiplier))


@pytest.mark.parametrize("warm_up_steps", [0, 3])
def test_follows_the_rule(warm_up_steps):
    losses = [2.0, 0.1, 0.0, 0.0, 0.0, 0.0, 3.0, 0.5]
    spy = Spy(eps=0.5, step=2.0, initial=0.25, warm_up_steps=warm_up_steps)
    for loss in losses:
        spy.observe(torch.tensor(9.0), torch.tensor(loss, dtype=torch.float64))
    expected = by_hand(losses, eps=0.5, step=2.0, initial=0.25, warm_up_steps=warm_up_steps)
    assert spy.weights == pytest.approx(expected, abs=1e-15)
    assert 0.0 in expected  # it was held at zero, and came back
    assert expected[-1] > 1


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("m", [2, 4])
def test_weighs_retaining_alone_whatever_the_gradients(sampler, m):
    rows = sampler(m)
    projector = PrimalDual(eps=0.0, initial=0.7)
    assert_close(projector(rows @ rows.T), WeightedSum(retain=0.7)(rows @ rows.T), rtol=0, atol=0)


def test_observing_keeps_no_graph():
    projector = PrimalDual(eps=0.0)
    projector.observe(torch.ones((), requires_grad=True), torch.ones((), requires_grad=True))
    assert not projector.multiplier.requires_grad


def test_state_goes_through_a_state_dict():
    first, second = PrimalDual(eps=0.1, warm_up_steps=2), PrimalDual(eps=0.1, warm_up_steps=2)
    for _ in range(3):
        first.observe(torch.tensor(0.0), torch.tensor(2.0))
    second.load_state_dict(first.state_dict())
    for projector in (first, second):
        projector.observe(torch.tensor(0.0), torch.tensor(2.0))
    assert first.multiplier == second.multiplier == pytest.approx(1 + 2 * 1.9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": math.nan}, "`eps` should be finite. Found `eps = nan`"),
        ({"eps": 0.1, "step": 0.0}, "`step` should be positive and finite. Found `step = 0.0`"),
        ({"eps": 0.1, "initial": -1.0}, "`initial` should be finite and not negative. Found `initial = -1.0`"),
        ({"eps": 0.1, "warm_up_steps": -1}, "`warm_up_steps` should be at least 0. Found `warm_up_steps = -1`"),
    ],
)
def test_settings_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PrimalDual(**arguments)


def test_yaml_builds_it():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--projector", type=Projector)
    config = parser.parse_string(
        "projector: {class_path: lightning_unlearn.projectors.PrimalDual, init_args: {eps: 0.3}}"
    )
    built = parser.instantiate_classes(config).projector
    assert repr(built) == "PrimalDual(eps=0.3, step=1.0, initial=1.0, warm_up_steps=0)"


SETTINGS = {"eps": 1.55, "step": 0.5, "warm_up_steps": 1}


def fit(rank=0, world=1, *, accumulate=1, **kwargs):
    """The user's own losses, per micro-batch, beside what the projector was shown."""
    module, spy = SomebodysModule("sgd"), Spy(**SETTINGS)
    retain = examples(1, n=24)
    sampler = DistributedSampler(retain, world, rank, shuffle=False)
    size = 8 // world // accumulate
    unlearn = Unlearn(Bounded(GradientAscent(), bound=3.0), projector=spy, forget=DataLoader(examples(2, n=12), size))
    trainer = quiet(
        callbacks=[unlearn],
        accumulate_grad_batches=accumulate,
        max_epochs=2,
        strategy=DDPStrategy(find_unused_parameters=True) if world > 1 else "auto",
        devices=world,
        use_distributed_sampler=False,
        **kwargs,
    )
    trainer.fit(module, DataLoader(retain, size, sampler=sampler))
    return module.losses, spy.seen, spy.weights, [p.detach().clone() for p in module.parameters()], unlearn._steps


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_sees_the_mean_over_the_micro_batches_of_each_optimizer_step(accumulate):
    losses, seen, weights, _, steps = fit(accumulate=accumulate)
    means = torch.tensor(losses, dtype=torch.float64).view(-1, accumulate).mean(1).tolist()
    assert len(seen) == steps["taken"] == 6
    assert [retain for _, retain in seen] == pytest.approx(means, abs=1e-6)
    assert weights == pytest.approx(by_hand(means, **SETTINGS), abs=1e-5)
    assert len({round(w, 3) for w in weights}) > 3  # it did move


def test_an_incomplete_window_counts_what_there_was():
    losses, seen, *_ = fit(accumulate=4, limit_train_batches=6)
    assert [retain for _, retain in seen][:2] == pytest.approx([sum(losses[:4]) / 4, sum(losses[4:6]) / 2], abs=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_see_the_mean_of_both(accumulate):
    _, seen, weights, parameters, _ = fit(accumulate=accumulate)
    ranks = run_ranks(lambda rank, world: fit(rank, world, accumulate=accumulate))
    assert ranks[0][0] != ranks[1][0]  # their own losses differ
    for _, seen_there, weights_there, parameters_there, _ in ranks:
        assert_close(torch.tensor(seen_there), torch.tensor(seen), rtol=0, atol=1e-5)
        assert weights_there == ranks[0][2] == pytest.approx(weights, abs=1e-5)
        for a, b in zip(parameters_there, parameters, strict=True):
            assert_close(a, b, rtol=0, atol=1e-5)


def scaled(init_scale):
    """`precision="16-mixed"` silently becomes bf16 on the CPU; so the plugin by hand."""
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=1000)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=scaler)]}


def test_the_loss_scale_is_undone():
    losses, seen, *_ = fit(accumulate=2, **scaled(2.0**10))
    means = torch.tensor(losses).view(-1, 2).mean(1).tolist()
    assert [retain for _, retain in seen] == pytest.approx(means, abs=1e-5)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_steps_the_scaler_skips_do_not_count():
    _, seen, _, _, steps = fit(**scaled(2.0**20))
    assert len(seen) == steps["taken"] < steps["merged"]


def test_the_retain_gradient_is_weighed():
    """One step of SGD on a fresh module, against two gradients taken by hand."""

    class Plain(SomebodysModule):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module, by_autograd = Plain(), Plain()
    projector = PrimalDual(eps=1.0, step=2.0)
    data = {"retain": loader(1, n=4), "forget": loader(2, n=4)}
    unlearn = Unlearn(GradientAscent(), projector=projector, forget=data["forget"], weight=0.5)
    quiet(callbacks=[unlearn]).fit(module, data["retain"])
    params = [p for name, p in by_autograd.named_parameters() if name != "unused"]
    gradients = {}
    for name, batches in data.items():
        x, y = next(iter(batches))
        loss = torch.nn.functional.cross_entropy(by_autograd(x), y)
        gradients[name] = torch.autograd.grad(loss, params)
        if name == "retain":
            weight = max(0.0, 1 + 2 * (loss.item() - 1))
    assert float(projector.multiplier) == pytest.approx(weight, abs=1e-6)
    after = [p for name, p in module.named_parameters() if name != "unused"]
    for p, q, f, r in zip(after, params, gradients["forget"], gradients["retain"], strict=True):
        assert_close(p, q - 0.1 * (weight * r - 0.5 * f), rtol=0, atol=1e-6)


class Stop(Callback):
    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_end(self, trainer, *args: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.at


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    def run(folder: str, *callbacks: Any, ckpt_path: Path | None = None) -> Any:
        module, spy = SomebodysModule("adamw"), Spy(**SETTINGS)
        data = ForgetRetainData(retain=loader(1), forget=loader(2, n=10), order=CyclicOrder())
        saves = ModelCheckpoint(tmp_path / folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        unlearn = Unlearn(Bounded(GradientAscent(), bound=3.0), projector=spy)
        trainer = quiet(callbacks=[unlearn, saves, *callbacks], enable_checkpointing=True, max_epochs=2)
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return module, spy

    whole, spy = run("whole")
    run("first", Stop(4))
    resumed, again = run("second", ckpt_path=tmp_path / "first" / "step=4.ckpt")
    assert again.weights == spy.weights[4:]
    assert spy.weights[3] != 1.0
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
