"""Each batch is unlearned by a step of relative size, and then learned again by the fit's own."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from _fingerprints import differences, fingerprint
from _modules import CLASSES, HostileModule, SomebodysModule, examples, loader, quiet, same
from _observed_fits import WithBatchNorm, levels, probability_by_hand
from _ranks import run_ranks
from _scaled import scaled
from _sharded_fits import STRATEGIES, FSDP1OnCPU, data, whole
from _sharded_fits import loader as sharded_loader
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from lightning_unlearn import (
    BilevelUnlearn,
    Bounded,
    CyclicOrder,
    ForgetRetainData,
    GradientAscent,
    NeuralVariability,
    Quantize,
    RecoveryCheck,
    Refresh,
    TrainOnly,
    Unlearn,
)

DELTA = 1e-4
W = 1  # number of the first matrix
ALONE = {"fisher_weight": 0.0, "noise": 0.0}

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step`")


def weights(module: Any) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


class InDouble(SomebodysModule):
    """In float64, where a relative step of 1e-4 can be measured to many digits. It keeps what it sees in each step."""

    def __init__(self, optimizer: str = "adamw") -> None:
        super().__init__(optimizer)
        self.double()
        self.in_steps: list[list[Tensor]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.in_steps.append(weights(self))
        return super().training_step([batch[0].double(), batch[1]], batch_idx)


class Outside(pl.Callback):
    """The weights before each batch, if it stands first in the list, and at the end."""

    def __init__(self) -> None:
        self.seen: list[list[Tensor]] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(weights(module))


def fit(*callbacks: Any, module: Any = None, batches: Any = None, **kwargs: Any) -> tuple[Any, Any]:
    module = InDouble() if module is None else module
    ckpt_path = kwargs.pop("ckpt_path", None)
    trainer = quiet(callbacks=list(callbacks), **{"max_epochs": 1, **kwargs})
    trainer.fit(module, loader(seed=1) if batches is None else batches, ckpt_path=ckpt_path)
    return module, trainer


def test_each_tensor_moves_by_its_share_up_the_gradient_of_the_batch() -> None:
    outside = Outside()
    module, _ = fit(outside, Refresh(delta=DELTA, **ALONE))
    double, moved = SomebodysModule().double(), 0
    for (x, y), before, after in zip(loader(seed=1), outside.seen, module.in_steps, strict=True):
        double.load_state_dict(dict(zip(double.state_dict(), before, strict=True)))
        params = list(double.parameters())
        loss = F.cross_entropy(double(x.double()), y)
        grads = torch.autograd.grad(loss, params, allow_unused=True)
        rise = 0.0
        for g, b, a in zip(grads, before, after, strict=True):
            if g is None or not b.norm():
                assert torch.equal(a, b)
                continue
            assert float((a - b).norm() / b.norm()) == pytest.approx(DELTA, rel=1e-9)
            assert float(F.cosine_similarity((a - b).flatten(), g.flatten(), dim=0)) == pytest.approx(1, abs=1e-9)
            rise += DELTA * float(b.norm() * g.norm())
            moved += 1
        double.load_state_dict(dict(zip(double.state_dict(), after, strict=True)))
        raised = F.cross_entropy(double(x.double()), y).item() - loss.item()
        assert raised == pytest.approx(rise, rel=5e-3)
    assert moved >= 30


def test_several_steps_move_further() -> None:
    for steps in (1, 3):
        outside = Outside()
        module, _ = fit(outside, Refresh(steps, delta=DELTA, **ALONE), max_steps=1)
        ratio = float((module.in_steps[0][W] - outside.seen[0][W]).norm() / outside.seen[0][W].norm())
        assert ratio == pytest.approx(steps * DELTA, rel=1e-2)


def test_noise_has_its_size_relative_to_the_weights() -> None:
    outside = Outside()
    module, _ = fit(outside, Refresh(delta=1e-2, fisher_weight=0.0, noise=100.0), max_steps=1)
    before, after = outside.seen[0][W], module.in_steps[0][W]
    assert float((after - before).norm() / before.norm()) == pytest.approx(1.0, rel=0.15)


def test_what_mattered_before_moves_less_and_with_much_weight_not_at_all() -> None:
    fisher = {name: torch.ones_like(p) for name, p in SomebodysModule().double().named_parameters()}
    for weight, factor in ((1.0, 0.5), (1e12, 0.0)):
        refresh, outside = Refresh(delta=DELTA, fisher_weight=weight, noise=0.0), Outside()
        refresh.load_state_dict({"fisher": fisher})
        module, _ = fit(outside, refresh, max_steps=1)
        before, after = outside.seen[0][W], module.in_steps[0][W]
        assert float((after - before).norm() / before.norm()) == pytest.approx(factor * DELTA, rel=1e-6, abs=1e-12)


def test_the_fisher_information_is_that_of_single_examples() -> None:
    refresh = Refresh(delta=DELTA, fisher_weight=1.0, noise=0.0, fisher_decay=0.25)
    earlier = {name: torch.full_like(p, 2.0) for name, p in SomebodysModule().double().named_parameters()}
    refresh.load_state_dict({"fisher": earlier})
    module, _ = fit(refresh)
    expected = {name: torch.full_like(p, 0.5) for name, p in module.named_parameters()}
    for x, y in loader(seed=1, batch_size=1):
        loss = F.cross_entropy(module(x.double()), y)
        grads = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)
        for (name, _), g in zip(module.named_parameters(), grads, strict=True):
            if g is not None:
                expected[name] += torch.exp(-loss.detach()) * g**2
    assert set(refresh.fisher) == set(expected)
    for name, value in expected.items():
        assert_close(refresh.fisher[name], value, rtol=1e-6, atol=1e-9)


def test_in_half_precision_the_fisher_information_of_many_examples_adds_up() -> None:
    x, y = (t[:1] for t in examples(1).tensors)
    rows = DataLoader(TensorDataset(x.bfloat16().repeat(600, 1), y.repeat(600)), batch_size=300)
    refresh = Refresh(delta=0.1, fisher_weight=1.0)
    module, _ = fit(refresh, module=SomebodysModule("sgd").bfloat16(), batches=rows)
    loss = F.cross_entropy(module(x.bfloat16()).float(), y)
    (gradient,) = torch.autograd.grad(loss, [module.head.bias])
    expected = 600 * torch.exp(-loss.detach()) * gradient.float().square()
    assert_close(refresh.fisher["head.bias"], expected, rtol=2e-2, atol=0.0)


def test_nothing_else_of_theirs_moves() -> None:
    """With so much weight on what mattered before that no weight moves, the fit is what it was, to the bit."""

    def hostile(*callbacks: Any) -> dict[str, Any]:
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        module, trainer = fit(*callbacks, module=HostileModule(), max_epochs=2)
        return fingerprint(trainer, module)

    refresh = Refresh(steps=2, fisher_weight=1e30)
    refresh.load_state_dict({"fisher": {name: torch.ones_like(p) for name, p in HostileModule().named_parameters()}})
    assert differences(hostile(), hostile(refresh)) == []


def test_batchnorm_counts_only_the_batches_of_the_fit() -> None:
    module, _ = fit(Refresh(delta=DELTA, steps=3), module=WithBatchNorm())
    assert int(module.head[0].num_batches_tracked) == 6


def test_with_several_micro_batches_the_first_one_is_unlearned() -> None:
    outside = Outside()
    module, trainer = fit(outside, Refresh(delta=DELTA, **ALONE), accumulate_grad_batches=3)
    assert trainer.global_step == 2
    moved = [not torch.equal(a[W], b[W]) for a, b in zip(module.in_steps, outside.seen, strict=True)]
    assert moved == [True, False, False, True, False, False]


@pytest.mark.parametrize("order", [1, -1])
def test_the_original_is_seen_before(order: int) -> None:
    check = RecoveryCheck({"int4": Quantize(bits=4)})
    unlearn = Unlearn(Bounded(GradientAscent(), bound=4.0), forget=loader(seed=2, n=12))
    fit(*[unlearn, Refresh(delta=0.1), check][::order], module=SomebodysModule())
    assert levels(check)[0] == (0, pytest.approx(probability_by_hand(SomebodysModule()), abs=1e-6))


def test_restrictions_hold_for_it() -> None:
    start = weights(InDouble())
    module, _ = fit(TrainOnly("head"), Refresh(delta=0.1))
    assert all(torch.equal(p, b) for p, b in zip(module.body.parameters(), start[1:], strict=False))
    assert not torch.equal(module.head.weight, start[-2])


@pytest.mark.parametrize("order", [1, -1])
def test_beside_noise_the_clean_weights_are_refreshed(order: int) -> None:
    """Each step is that of the noisy gradient, from refreshed clean weights."""
    outside = Outside()
    fit(outside, *[Refresh(delta=0.01, **ALONE), NeuralVariability(0.1)][::order], module=SomebodysModule("sgd"))
    alone = Outside()
    fit(alone, Refresh(delta=0.01, **ALONE), module=SomebodysModule("sgd"))
    assert all(torch.equal(a, b) for a, b in zip(outside.seen[0], alone.seen[0], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(outside.seen[1], alone.seen[1], strict=True))  # the first has no noise
    assert not torch.equal(outside.seen[2][W], alone.seen[2][W])


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_a_batch_whose_loss_is_not_finite_moves_nothing() -> None:
    """As the scaler skips the fit's own step of it."""
    inputs, labels = examples(1, n=12).tensors
    inputs[4] = torch.inf  # in the second of three batches
    outside, module = Outside(), SomebodysModule("sgd")
    batches = DataLoader(TensorDataset(inputs, labels), batch_size=4)
    fit(outside, Refresh(steps=2, delta=DELTA), module=module, batches=batches, **scaled(2.0**8))
    _, before, after = outside.seen
    assert all(map(torch.equal, before, after))
    assert all(p.isfinite().all() for p in weights(module))
    assert not all(map(torch.equal, after, weights(module)))


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_resumed_fit_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    def run(folder: str, **kwargs: Any) -> Any:
        saved = ModelCheckpoint(tmp_path / folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        batches = ForgetRetainData(retain=loader(seed=1), forget=loader(seed=2), order=CyclicOrder())
        settings = {"enable_checkpointing": True, "max_epochs": 2, "batches": batches, **kwargs}
        unlearn = Unlearn(Bounded(GradientAscent(), bound=4.0))
        return fit(unlearn, Refresh(delta=1e-3), saved, module=SomebodysModule(), **settings)[0]

    whole_fit = run("whole")
    assert same(whole_fit, run("again", ckpt_path=tmp_path / "whole" / "step=4.ckpt"))


def test_a_fit_that_goes_on_after_its_end_has_the_fisher_information_it_had(tmp_path: Path) -> None:
    def run(epochs: int, **kwargs: Any) -> Any:
        refresh, module = Refresh(delta=1e-2, fisher_weight=1e9), SomebodysModule()
        refresh.load_state_dict({"fisher": {"head.bias": torch.ones(CLASSES)}})
        return refresh, *fit(refresh, module=module, max_epochs=epochs, **kwargs)

    (first, whole, _), (_, _, ended) = run(2), run(1)
    ended.save_checkpoint(tmp_path / "ended.ckpt")
    again, resumed, _ = run(2, ckpt_path=tmp_path / "ended.ckpt")
    assert same(whole, resumed)
    assert all(torch.equal(f, again.fisher[name]) for name, f in first.fisher.items())


def test_weights_that_would_not_move_are_refused() -> None:
    x, y = examples(1).tensors
    batches = DataLoader(TensorDataset(x.bfloat16(), y), batch_size=4)
    with pytest.raises(ValueError, match=r"`Refresh` should change weights by 1e-05.*torch.bfloat16"):
        fit(Refresh(), module=SomebodysModule().bfloat16(), batches=batches, precision="bf16-true")


@pytest.mark.parametrize(
    ("dtype", "moving"), [(torch.float32, 0.997), (torch.float16, 0.019), (torch.bfloat16, 0.0025)]
)
def test_that_refusal_has_a_reason(dtype: torch.dtype, moving: float) -> None:
    """The share of weights that a relative step of 1e-5 in a random direction moves at all."""
    generator = torch.Generator().manual_seed(0)
    w = (0.02 * torch.randn(1_000_000, generator=generator)).to(dtype)
    d = torch.randn(len(w), generator=generator)
    moved = (w.float() + 1e-5 * w.float().norm() / d.norm() * d).to(dtype)
    assert float((moved != w).float().mean()) == pytest.approx(moving, rel=0.3 if moving < 0.5 else 0.005)


def test_beside_a_bilevel_fit_it_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="Found `BilevelUnlearn`"):
        fit(Refresh(), BilevelUnlearn(GradientAscent(), forget=loader(2)))


def test_flat_shards_are_refused() -> None:
    trainer = quiet(strategy=FSDP1OnCPU(auto_wrap_policy={torch.nn.Linear}), callbacks=[Refresh()])
    with pytest.raises(NotImplementedError, match="Found `FSDPStrategy`"):
        Refresh().setup(trainer, SomebodysModule(), "fit")


ERRORS = [
    ({"steps": 0}, "`steps` should be"),
    ({"delta": 0}, "`delta` should be"),
    ({"fisher_weight": -1}, "`fisher_weight` should be"),
    ({"noise": float("nan")}, "`noise` should be"),
    ({"fisher_decay": -1}, "`fisher_decay` should be"),
]


@pytest.mark.parametrize(("kwargs", "message"), ERRORS)
def test_wrong_settings_are_refused(kwargs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Refresh(**kwargs)


def sharded_fit(kind: str | None, rank: int, world_size: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    module_class, strategy = STRATEGIES[kind] if kind else (SomebodysModule, lambda: "auto")
    module, refresh = module_class("sgd").double(), Refresh(delta=1e-2, fisher_weight=1.0)
    refresh.load_state_dict({"fisher": {name: torch.ones_like(p) for name, p in module.named_parameters()}})
    unlearn = Unlearn(Bounded(GradientAscent(), 4.0), forget=DataLoader(data(2, 16, True), batch_size=8 // world_size))
    settings = {"use_distributed_sampler": False, "max_epochs": 2}
    trainer = quiet(strategy=strategy(), devices=world_size, callbacks=[unlearn, refresh], **settings)
    trainer.fit(module, sharded_loader(data(1, 32, True), rank, world_size))
    return whole(module, kind), refresh.fisher


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_equal_one(kind: str) -> None:
    expected = sharded_fit(None, 0, 1)
    for found in run_ranks(lambda rank, world: sharded_fit(kind, rank, world)):
        for ours, theirs in zip(found, expected, strict=True):
            assert set(ours) == set(theirs)
            for name, value in theirs.items():
                assert_close(ours[name], value, rtol=0, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
