"""Gradients are taken at noisy weights; whoever looks at the weights sees them without noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import SomebodysModule, loader, quiet, same
from _observed_fits import Validated, WithBatchNorm, levels, probability_by_hand
from _ranks import run_ranks
from _scaled import scaled
from _sharded_fits import STRATEGIES, data, whole
from _sharded_fits import loader as sharded_loader
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, OnExceptionCheckpoint, StochasticWeightAveraging
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import (
    Attack,
    Bounded,
    DisruptionBudget,
    FrozenCopy,
    GradientAscent,
    KLToReference,
    NeuralVariability,
    Quantize,
    RecoveryCheck,
    StepGuard,
    TrainOnly,
    Unlearn,
)
from lightning_unlearn.data import ForgetStream
from lightning_unlearn.engine import WeightNoise, isolated
from lightning_unlearn.guards import NoChange
from lightning_unlearn.runtime import checksum
from lightning_unlearn.selectors import Random, TopShare

B = 0.05


def weights(module: Any) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


class Watched(Validated):
    """Keeps its weights in each training step, and what other hooks see."""

    def __init__(self, optimizer: str = "adamw") -> None:
        super().__init__(optimizer)
        self.in_steps: list[list[Tensor]] = []
        self.in_validation: list[list[Tensor]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.in_steps.append(weights(self))
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.in_validation.append(weights(self))
        return super().validation_step(batch, batch_idx)


class Plain(Watched):
    """Gradient descent without anything else, so that a step can be written by hand."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Outside(pl.Callback):
    """The weights between batches."""

    def __init__(self) -> None:
        self.seen: list[list[Tensor]] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if not self.seen:
            self.seen.append(weights(module))

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        self.seen.append(weights(module))


def unlearn() -> Unlearn:
    return Unlearn(Bounded(GradientAscent(), bound=4.0), forget=loader(seed=2, n=12), weight=3.0)


def fit(*callbacks: Any, module: Any = None, **kwargs: Any) -> tuple[Any, Any]:
    module = Watched() if module is None else module
    checkpointing = any(isinstance(c, Checkpoint) for c in callbacks)
    trainer = quiet(callbacks=list(callbacks), **{"max_epochs": 2, "enable_checkpointing": checkpointing, **kwargs})
    trainer.fit(module, loader(seed=1), loader(seed=3, n=8))
    return module, trainer


def relative_noise(noisy: list[Tensor], clean: list[Tensor]) -> list[float]:
    """Standard deviation of the noise of each large tensor, over its root mean square."""
    pairs = [(n, c) for n, c in zip(noisy, clean, strict=True) if c.numel() >= 80]
    assert len(pairs) == 2
    return [float((n - c).square().mean().sqrt() / c.square().mean().sqrt()) for n, c in pairs]


@pytest.mark.parametrize("dist", ["normal", "laplace", "uniform"])
def test_noise_has_its_size_in_every_step_but_the_first_and_is_gone_after_each(dist: Any) -> None:
    """No random walk: it does not grow with the number of steps."""
    outside = Outside()
    module, trainer = fit(NeuralVariability(B, dist), outside, module=Watched(), max_epochs=5)
    assert trainer.global_step == 30
    found = [relative_noise(n, c) for n, c in zip(module.in_steps, outside.seen, strict=False)]
    assert found[0] == [0, 0]
    assert all(0.7 * B < size < 1.4 * B for sizes in found[1:] for size in sizes)
    mean = torch.tensor(found[1:]).mean()
    assert mean == pytest.approx(B, rel=0.03)
    last = torch.tensor(found[-6:]).mean()
    assert last == pytest.approx(B, rel=0.1)


@pytest.mark.parametrize(("dist", "kurtosis"), [("normal", 3.0), ("laplace", 6.0), ("uniform", 1.8)])
def test_noise_has_its_distribution(dist: Any, kurtosis: float) -> None:
    param = torch.nn.Parameter(torch.full((100_000,), 2.0))
    noise = NeuralVariability(B, dist)._drawn([param], step=3)(0).double()
    assert float(noise.std()) == pytest.approx(2 * B, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0, abs=2e-3 * B * 5)
    assert float((noise / noise.std()).pow(4).mean()) == pytest.approx(kurtosis, rel=0.1)


def test_a_step_is_that_of_the_gradient_at_noisy_weights_taken_from_the_clean_ones() -> None:
    outside = Outside()
    module, _ = fit(NeuralVariability(0.3), outside, module=Plain(), max_epochs=1)
    batches = list(loader(seed=1))
    assert len(batches) == len(module.in_steps) == 6
    double = SomebodysModule()
    for (x, y), noisy, before, after in zip(batches, module.in_steps, outside.seen[:-1], outside.seen[1:], strict=True):
        with torch.no_grad():
            for p, value in zip(double.parameters(), noisy, strict=True):
                p.copy_(value)
        grads = torch.autograd.grad(F.cross_entropy(double(x), y), list(double.parameters()), allow_unused=True)
        for g, b, a in zip(grads, before, after, strict=True):
            assert_close(a, b if g is None else b - 0.1 * g, rtol=0, atol=1e-6)


def test_both_steps_are_taken_from_the_clean_weights_if_forgetting_has_an_optimizer_of_its_own() -> None:
    outside, stream = Outside(), ForgetStream(loader(seed=2), seed=0)
    own = Unlearn(GradientAscent(), forget=loader(seed=2), optimizer=lambda params: torch.optim.SGD(params, lr=0.05))
    module, _ = fit(own, NeuralVariability(0.3), outside, module=Plain(), max_epochs=1)
    double = SomebodysModule()
    params = list(double.parameters())
    steps = zip(loader(seed=1), module.in_steps, outside.seen[:-1], outside.seen[1:], strict=True)
    for (x, y), noisy, before, after in steps:
        double.load_state_dict(dict(zip(double.state_dict(), noisy, strict=True)))
        gone, labels = next(stream)
        loss = 0.1 * F.cross_entropy(double(x), y) - 0.05 * F.cross_entropy(double(gone), labels)
        grads = torch.autograd.grad(loss, params, allow_unused=True)
        for g, b, a in zip(grads, before, after, strict=True):
            assert_close(a, b if g is None else b - g, rtol=0, atol=2e-6)


@pytest.mark.parametrize("first", ["noise", "others"])
def test_checks_validation_and_checkpoints_never_see_it(first: str, tmp_path: Path) -> None:
    outside, check = Outside(), RecoveryCheck({"int4": Quantize(bits=4)}, every_n_steps=1)
    saved = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    noise, others = [NeuralVariability(B)], [check, outside]
    order = [*noise, *others] if first == "noise" else [*others, *noise]
    module, _ = fit(unlearn(), *order, saved, max_epochs=1, val_check_interval=2)
    for step, seen in enumerate(outside.seen[1:], start=1):
        state = torch.load(tmp_path / f"step={step}.ckpt", weights_only=True)["state_dict"]
        assert all(torch.equal(a, b) for a, b in zip(state.values(), seen, strict=True))
    validated = [outside.seen[i] for i in (2, 4, 6)]
    assert all(torch.equal(a, b) for a, b in zip(module.in_validation[-1], validated[-1], strict=True))
    double = Validated()
    by_hand = []
    for seen in outside.seen:
        double.load_state_dict(dict(zip(double.state_dict(), seen, strict=True)))
        by_hand.append(probability_by_hand(double))
    assert levels(check) == [(step, pytest.approx(value, abs=1e-6)) for step, value in enumerate(by_hand)]


def test_a_fit_with_checks_equals_the_fit_without() -> None:
    bare, _ = fit(unlearn(), NeuralVariability(B))
    checked, _ = fit(unlearn(), RecoveryCheck({"int4": Quantize(bits=4)}, every_n_steps=1), NeuralVariability(B))
    assert same(bare, checked)
    assert not same(bare, fit(unlearn())[0])


class Copies(pl.Callback):
    """What a budget and a reference hold for the weights, after each step, and what these were before the first."""

    def __init__(self, budget: DisruptionBudget, forgetting: Unlearn) -> None:
        self.budget, self.forgetting = budget, forgetting
        self.after: dict[int, list[dict[str, Tensor]]] = {}

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if not hasattr(self, "start"):
            self.start = {name: p.detach().clone() for name, p in module.named_parameters()}

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        copy = {name: value.clone() for name, value in self.budget._snapshot.state_dict().items()}
        self.after[trainer.global_step] = [copy, {o.path: o.value for o in self.forgetting.reference._originals}]

    def are_exact(self, step: int, names: set[str]) -> bool:
        return all(torch.equal(found[n], self.start[n]) for found in self.after[step] for n in names)


def copying() -> tuple[Unlearn, DisruptionBudget]:
    forgetting = Unlearn(KLToReference(), forget=loader(seed=2, n=12), reference=FrozenCopy())
    return forgetting, DisruptionBudget(loader(seed=9), kl=1e6, every=100)


@pytest.mark.parametrize("first", ["noise", "others"])
def test_copies_of_weights_that_a_checkpoint_has_brought_are_clean(first: str, tmp_path: Path) -> None:
    _, trainer = fit(max_epochs=1)
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    (forgetting, budget), noise = copying(), NeuralVariability(0.5)
    copies, check = Copies(budget, forgetting), RecoveryCheck(every_n_epochs=0)
    order = [noise, forgetting, budget, check] if first == "noise" else [forgetting, budget, check, noise]
    # The callback that looks is the first: it sees the weights before anybody else is asked.
    module, trainer = Watched(), quiet(callbacks=[copies, *order], max_epochs=2)
    trainer.fit(module, loader(seed=1), loader(seed=3, n=8), ckpt_path=tmp_path / "plain.ckpt")
    assert copies.are_exact(7, set(copies.start))
    assert check.weights["original"] == [checksum(restored(Watched(), copies.start))]
    assert not torch.equal(module.in_steps[0][0], next(iter(copies.start.values())))


def restored(module: Any, weights: dict[str, Tensor]) -> Any:
    module.load_state_dict(weights)
    return module


@pytest.mark.parametrize("first", ["noise", "others"])
def test_copies_of_what_is_unfrozen_are_clean(first: str) -> None:
    class Unfreezes(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            module.body[0].requires_grad_(trainer.global_step >= 3)

    (forgetting, budget), noise = copying(), NeuralVariability(0.5)
    copies, late = Copies(budget, forgetting), {"body.0.weight", "body.0.bias"}
    order = [noise, forgetting, budget] if first == "noise" else [forgetting, budget, noise]
    module = Watched()
    module.body[0].requires_grad_(False)
    fit(Unfreezes(), *order, copies, module=module, max_epochs=1)
    assert not any(late & found.keys() for found in copies.after[3])
    assert copies.are_exact(4, late)
    assert not torch.equal(module.body[0].weight, copies.start["body.0.weight"])


@pytest.mark.parametrize("order", [1, -1])
def test_the_place_in_the_list_does_not_matter(order: int) -> None:
    a, _ = fit(*[unlearn(), StepGuard(NoChange()), NeuralVariability(B)])
    b, _ = fit(*[NeuralVariability(B), StepGuard(NoChange()), unlearn()][::order])
    assert same(a, b)


def test_forget_passes_are_noisy_and_attacks_are_not() -> None:
    """What `isolated` gives, in which every attack is made."""
    plain: list[list[Tensor]] = []
    attacked: list[list[Tensor]] = []
    again: list[list[Tensor]] = []

    class Looks(Unlearn):
        def forget_loss(self, batch: Any) -> Tensor:
            plain.append(weights(self._engine.module))
            return super().forget_loss(batch)

        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            super().on_before_optimizer_step(trainer, module, optimizer)
            with isolated(trainer, module):
                attacked.append(weights(module))
            again.append(weights(module))

    outside = Outside()
    forgetting = Looks(Bounded(GradientAscent(), bound=4.0), forget=loader(seed=2))
    module, _ = fit(NeuralVariability(B), outside, forgetting, max_epochs=1)
    assert len(attacked) == 6
    for found, expected in ((attacked, outside.seen[:6]), (plain, module.in_steps), (again, module.in_steps)):
        for a, b in zip(found, expected, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not any(torch.equal(a[0], n[0]) for a, n in zip(attacked[1:], module.in_steps[1:], strict=True))


class Looking(Attack):
    """Does nothing but look at the weights."""

    family, unit = "test", "look"

    def __init__(self) -> None:
        self.seen: list[list[Tensor]] = []

    @contextmanager
    def __call__(self, network: Any, **kwargs: Any) -> Iterator[Iterator[int]]:
        self.seen.append(weights(network))
        yield iter([1])


def test_what_is_forgotten_under_attack_starts_from_the_clean_weights() -> None:
    attack, outside = Looking(), Outside()
    forgetting = Unlearn(Bounded(GradientAscent(), bound=4.0), forget=loader(seed=2), under={"look": attack})
    _, trainer = fit(NeuralVariability(B), outside, forgetting, max_epochs=1)
    assert len(attack.seen) == 6
    for a, b in zip(attack.seen, outside.seen[:6], strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    # The length of the step that the weights took, over that of the one asked for: noise is no part of it.
    assert float(trainer.callback_metrics["unlearn/realised"]) == pytest.approx(1, abs=1e-3)


def test_a_guarded_step_excludes_it() -> None:
    """The step between the clean weights is orthogonal to the gradient that was taken at the noisy ones."""
    outside = Outside()
    module, trainer = fit(unlearn(), StepGuard(NoChange()), NeuralVariability(0.3), outside, module=Plain())
    assert trainer.callback_metrics["guard/fallbacks"] == 0
    batches, double, cosines = list(loader(seed=1)) * 2, SomebodysModule(), []
    for (x, y), noisy, before, after in zip(batches, module.in_steps, outside.seen[:-1], outside.seen[1:], strict=True):
        double.load_state_dict(dict(zip(double.state_dict(), noisy, strict=True)))
        grads = torch.autograd.grad(
            F.cross_entropy(double(x), y), list(double.parameters()), allow_unused=True, materialize_grads=True
        )
        g = torch.cat([t.flatten() for t in grads]).double()
        d = torch.cat([(a.double() - b).flatten() for a, b in zip(after, before, strict=True)])
        if d.norm() > 1e-3:  # nothing else is left of a step, once the bound of forgetting is reached
            cosines.append(float(g @ d / (g.norm() * d.norm())))
    assert len(cosines) > 5
    assert max(map(abs, cosines)) < 1e-5


@pytest.mark.parametrize("kwargs", [{"pattern": ["head"]}, {"selector": Random(), "choice": TopShare(0.3)}])
def test_what_is_not_trained_stays_to_the_bit(kwargs: Any) -> None:
    only = TrainOnly(**kwargs)
    outside = Outside()
    module, _ = fit(unlearn(), NeuralVariability(0.3), only, outside)
    for p, start in zip(module.parameters(), outside.seen[0], strict=True):
        stays = torch.ones_like(p).bool() if only._mask.stays(p) else torch.zeros_like(p).bool()
        if (trained := only._mask.elements(p)) is not None:
            stays = ~trained
        assert torch.equal(p[stays], start[stays])
    assert not same(module, SomebodysModule())


def test_accumulated_micro_batches_share_it_and_it_is_off_between_them() -> None:
    outside = Outside()
    module, trainer = fit(outside, NeuralVariability(B), accumulate_grad_batches=3)
    assert trainer.global_step == 4
    for first in range(3, 12, 3):
        step, clean = module.in_steps[first : first + 3], outside.seen[first : first + 3]
        assert all(torch.equal(a, b) for part in step[1:] for a, b in zip(part, step[0], strict=True))
        assert all(torch.equal(a, b) for part in clean[1:] for a, b in zip(part, clean[0], strict=True))
        assert not torch.equal(step[0][0], clean[0][0])


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_a_skipped_step_leaves_the_weights_as_they_were() -> None:
    """A scale at which every gradient overflows, for a while."""
    outside = Outside()
    fit(NeuralVariability(B), outside, max_epochs=1, **scaled(2.0**60))
    skipped = [all(torch.equal(x, y) for x, y in zip(a, b, strict=True)) for a, b in pairwise(outside.seen)]
    assert skipped == [True] * 6


@pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch")
def test_statistics_that_are_renewed_after_averaging_are_those_of_clean_weights() -> None:
    class Keeps(WithBatchNorm):
        def __init__(self) -> None:
            super().__init__()
            self.in_renewal: list[list[Tensor]] = []

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if self.trainer.fit_loop._skip_backward:
                self.in_renewal.append(weights(self))
            return super().training_step(batch, batch_idx)

    module, _ = fit(NeuralVariability(B), StochasticWeightAveraging(1e-2, 1), module=Keeps(), max_epochs=3)
    assert len(module.in_renewal) == 6
    assert all(torch.equal(a, b) for part in module.in_renewal for a, b in zip(part, weights(module), strict=True))


@pytest.mark.filterwarnings("ignore:.*was called without a model")
@pytest.mark.filterwarnings("ignore:.*there is no last checkpoint available")
@pytest.mark.parametrize("order", [1, -1])
def test_what_an_exception_saves_is_clean(order: int, tmp_path: Path) -> None:
    class Fails(Watched):
        def on_before_zero_grad(self, optimizer: Any) -> None:
            if self.trainer.global_step == 3:
                raise KeyError("mine")

    module, outside = Fails(), Outside()
    saves = OnExceptionCheckpoint(str(tmp_path), filename="last")
    with pytest.raises(KeyError, match="mine"):
        fit(*[NeuralVariability(B), outside, saves][::order], module=module)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert len(outside.seen) == 4
    for found in (list(state.values()), weights(module)):
        assert all(torch.equal(a, b) for a, b in zip(found, outside.seen[-1], strict=True))
    assert not torch.equal(module.in_steps[-1][0], outside.seen[-1][0])
    assert not module._state_dict_pre_hooks


def test_bf16_weights_come_back_to_the_bit() -> None:
    """Where adding and subtracting would not bring them back."""
    module, noise = torch.nn.Linear(64, 64).bfloat16(), NeuralVariability(B)
    on, before = WeightNoise(module), weights(module)
    drawn = noise._drawn(list(module.parameters()), step=1)
    on.put_on(list(module.parameters()), drawn)
    subtracted = module.weight.detach() - drawn(0).bfloat16()
    on.take_off()
    assert all(torch.equal(a, b) for a, b in zip(weights(module), before, strict=True))
    assert not torch.equal(subtracted, before[0])


ERRORS = [({"b": -1}, "`b` should be"), ({"dist": "cauchy"}, "`dist` should be"), ({"seed": -1}, "`seed` should be")]


@pytest.mark.parametrize(("kwargs", "message"), ERRORS)
def test_wrong_settings_are_refused(kwargs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NeuralVariability(**kwargs)


def sharded_fit(kind: str | None, rank: int, world_size: int) -> dict[str, Tensor]:
    module_class, strategy = STRATEGIES[kind] if kind else (SomebodysModule, lambda: "auto")
    module = module_class("adamw")
    forget = DataLoader(data(2, 12, False), batch_size=8 // world_size)
    callbacks = [Unlearn(Bounded(GradientAscent(), bound=4.0), forget=forget), NeuralVariability(B)]
    settings = {"use_distributed_sampler": False, "max_epochs": 2}
    trainer = quiet(strategy=strategy(), devices=world_size, callbacks=callbacks, **settings)
    trainer.fit(module, sharded_loader(data(1, 32, False), rank, world_size))
    return whole(module, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_draw_what_one_does(kind: str) -> None:
    expected = sharded_fit(None, 0, 1)
    for found in run_ranks(lambda rank, world: sharded_fit(kind, rank, world)):
        for name, value in expected.items():
            assert_close(found[name], value, rtol=0, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
