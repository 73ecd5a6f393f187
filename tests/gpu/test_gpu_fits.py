"""Fits on the device: in every precision, with every part, they do what they do on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _guarded_fits import Outside
from _guarded_fits import fit as guarded_fit
from _guarded_fits import unlearn as guarded_unlearn
from _modules import ACCELERATOR, HostileModule, SomebodysModule, examples, loader, quiet, same
from _vantage import BOUND, fitted, forgetting
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import (
    NPO,
    BilevelUnlearn,
    Bounded,
    CachedLogLikelihood,
    CyclicOrder,
    DisruptionBudget,
    ForgetRetainData,
    FrozenCopy,
    GradientAscent,
    HalfSpace,
    Interpolate,
    KLToReference,
    NeuralVariability,
    Orthogonal,
    PenalizedUnlearn,
    Quantize,
    RecoveryCheck,
    Refresh,
    Relearn,
    RowMask,
    SignGate,
    SpectralCollapse,
    StepGuard,
    SubspaceGuard,
    TrainingStepReadout,
    TrainOnly,
    Unlearn,
)
from lightning_unlearn.guards import (
    BFloat16,
    History,
    InputSubspace,
    Int8,
    MainMemory,
    NoChange,
    NullSpace,
    OptimizerMetric,
    PerExample,
)
from lightning_unlearn.objectives import RandomLabel
from lightning_unlearn.selectors import ConditionNumber, FisherRatio, ModuleDrift, Random, TopShare

pytestmark = [
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.usefixtures("deterministic"),
]


def npo(**kwargs: Any) -> Unlearn:
    return Unlearn(NPO(beta=0.5), **{"forget": loader(seed=2, n=12), **kwargs})


WAYS: dict[str, Any] = {
    "plain": lambda: [forgetting()],
    "projected": lambda: [forgetting(projector=Orthogonal())],
    "half-space": lambda: [forgetting(projector=HalfSpace())],
    "rows": lambda: [forgetting(transforms=[RowMask(0.5)])],
    "spectral": lambda: [forgetting(transforms=[SpectralCollapse()])],
    "private": lambda: [forgetting(optimizer=lambda params: torch.optim.AdamW(params, lr=5e-3))],
    "cached": lambda: [npo(reference=CachedLogLikelihood())],
    "frozen": lambda: [Unlearn(KLToReference(), forget=loader(seed=2, n=12), reference=FrozenCopy())],
    "own loss": lambda: [forgetting(readout=TrainingStepReadout())],
    "random labels": lambda: [Unlearn(RandomLabel(), forget=loader(seed=2, n=12))],
    "under full": lambda: [forgetting(under={"a": Relearn(steps=2, lr=1e-2, mode="full")})],
    "under adapter": lambda: [forgetting(under={"a": Relearn(steps=2, lr=1e-2)}, under_retain=True)],
    "under others": lambda: [forgetting(under={"int4": Quantize(4), "back": Interpolate()})],
    "guard": lambda: [forgetting(), StepGuard(NoChange(), History(4))],
    "guard per example": lambda: [forgetting(), StepGuard(NoChange(), PerExample(limit=2))],
    "guard in metric": lambda: [forgetting(), StepGuard(geometry=OptimizerMetric(), scope="parameter")],
    "guard bf16": lambda: [forgetting(), StepGuard(NoChange(), History(4), storage=BFloat16())],
    "guard int8": lambda: [forgetting(), StepGuard(NoChange(), History(4), storage=Int8())],
    "guard in main memory": lambda: [forgetting(), StepGuard(NoChange(), History(4), storage=MainMemory())],
    "subspace": lambda: [forgetting(), SubspaceGuard(NullSpace(0), retain=loader(seed=1, n=4), batches=1)],
    "sketch": lambda: [forgetting(), SubspaceGuard(InputSubspace(0.9, width=6), retain=loader(seed=1, n=8), batches=2)],
    "sign gate": lambda: [forgetting(), SignGate()],
    "train only": lambda: [forgetting(), TrainOnly(selector=Random(), choice=TopShare(0.5))],
    "train only by ratio": lambda: [
        forgetting(),
        TrainOnly(
            selector=FisherRatio(over="retain"),
            choice=TopShare(0.5),
            forget=loader(seed=2, n=12),
            retain=loader(seed=1, n=12),
        ),
    ],
    "train only by condition": lambda: [
        forgetting(),
        TrainOnly(selector=ConditionNumber(shape_matched=True), choice=TopShare(0.5)),
    ],
    "train only by drift": lambda: [
        forgetting(),
        TrainOnly(
            selector=ModuleDrift(),
            choice=TopShare(0.5),
            forget=loader(seed=2, n=12),
            retain=loader(seed=1, n=12),
        ),
    ],
    "variability": lambda: [forgetting(), NeuralVariability(0.02)],
    "bilevel": lambda: [BilevelUnlearn(Bounded(GradientAscent(), bound=BOUND), forget=loader(seed=2, n=12))],
    "penalized": lambda: [PenalizedUnlearn(Bounded(GradientAscent(), bound=BOUND), forget=loader(seed=2, n=12))],
    "budget": lambda: [forgetting(), DisruptionBudget(loader(seed=5), kl=0.3, every=2)],
}
# What draws on the device draws other numbers there.
DRAWN_THERE = {"variability"}


def weights_after(way: str, **kwargs: Any) -> tuple[nn.Module, dict[str, float]]:
    first, *rest = WAYS[way]()
    module, trainer = fitted(first, callbacks=rest, **kwargs)
    return module, {k: float(v) for k, v in trainer.callback_metrics.items()}


@pytest.mark.parametrize("way", WAYS)
def test_a_fit_learns_what_it_learns_on_the_cpu(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there, logged = weights_after(way)
    assert all(p.isfinite().all() for p in there.parameters())
    monkeypatch.setenv(ACCELERATOR, "cpu")
    here, expected = weights_after(way)
    assert logged.keys() == expected.keys()
    if way in DRAWN_THERE:
        return
    a, b = (torch.cat([p.detach().cpu().flatten() for p in m.parameters()]) for m in (there, here))
    # Adam's first steps go by signs: where a gradient is zero but for rounding, a device may step the other way.
    assert float(((a - b).abs() <= 1e-3 + 1e-2 * b.abs()).float().mean()) > 0.9


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "bf16-true", "16-true"])
@pytest.mark.parametrize("readout", [None, TrainingStepReadout], ids=["logits", "own loss"])
def test_half_precision_is_near_full(precision: Any, readout: Any) -> None:
    def logged(precision: Any) -> tuple[Any, dict[str, float]]:
        module, trainer = fitted(forgetting(readout=readout and readout()), SomebodysModule("sgd"), precision=precision)
        return module, {k: float(v) for k, v in trainer.callback_metrics.items()}

    full, expected = logged("32-true")
    half, found = logged(precision)
    for a, b in zip(half.parameters(), full.parameters(), strict=True):
        assert_close(a.float().cpu(), b.cpu(), rtol=0, atol=3e-2)
    assert found["unlearn/forget"] == pytest.approx(expected["unlearn/forget"], abs=0.1)
    assert found.keys() == expected.keys()


def scaled(init_scale: float, device: torch.device) -> dict[str, Any]:
    scaler = torch.amp.GradScaler(device.type, init_scale=init_scale, growth_interval=1000)
    return {"plugins": [MixedPrecision("16-mixed", device.type, scaler=scaler)]}


@pytest.mark.parametrize("readout", [None, TrainingStepReadout], ids=["logits", "own loss"])
def test_the_loss_scale_does_not_change_what_is_learnt(readout: Any, device: torch.device) -> None:
    made = [
        fitted(forgetting(readout=readout and readout()), SomebodysModule("sgd"), **scaled(scale, device))[0]
        for scale in (1.0, 2.0**12)
    ]
    for a, b in zip(*(m.parameters() for m in made), strict=True):
        assert_close(a, b, rtol=0, atol=5e-4)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_an_overflow_is_retried_and_the_users_own_is_left_to_the_scaler(device: torch.device) -> None:
    unlearn = forgetting()
    module, _ = fitted(unlearn, SomebodysModule("sgd"), **scaled(2.0**20, device))
    assert unlearn._steps["merged"] == 6
    assert 0 < unlearn._steps["taken"] < 6
    assert all(p.isfinite().all() for p in module.parameters())


class Chosen(SomebodysModule):
    """AdamW in the forms that a device has."""

    def __init__(self, **form: bool) -> None:
        super().__init__()
        self.form = form

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=0.1, **self.form)


FORMS: dict[str, dict[str, bool]] = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "capturable": {"capturable": True, "foreach": True},
    "loop": {"foreach": False},
}


def module_of(form: str, device: torch.device) -> Chosen:
    if form == "capturable" and device.type == "cpu":
        pytest.skip("`capturable` is for CUDA")
    return Chosen(**FORMS[form])


@pytest.mark.parametrize("guard", ["history", "in metric", "int8"])
@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_the_optimizer_harms_what_is_protected(form: str, guard: str, device: torch.device) -> None:
    guards: dict[str, Any] = {
        "history": lambda: StepGuard(NoChange(), History(4)),
        "in metric": lambda: StepGuard(NoChange(), History(4), OptimizerMetric()),
        "int8": lambda: StepGuard(NoChange(), History(4), storage=Int8()),
    }
    outside, checked = Outside(), guards[guard]()
    guarded_fit(guarded_unlearn(), checked, outside, module=module_of(form, device))
    breaches = outside.breaches("NoChange", "global", length=4)
    assert len(breaches) >= 10
    assert max(breaches) <= (1e-2 if guard == "int8" else 1e-5)
    assert checked._steps["fallbacks"] == 0


def test_without_a_guard_it_is_harmed(device: torch.device) -> None:
    outside = Outside()
    guarded_fit(guarded_unlearn(), outside, module=module_of("fused", device))
    assert max(outside.breaches("NoChange", "global")) > 1e-2


@pytest.mark.parametrize("form", FORMS)
def test_outputs_at_protected_inputs_stay(form: str, device: torch.device) -> None:
    """Eight-dimensional inputs of the first layer, of which four are protected."""
    module = module_of(form, device)
    guard = SubspaceGuard(NullSpace(0), retain=loader(seed=1, n=4), batches=1)
    fitted(forgetting(), module, callbacks=[guard])
    inputs, start = examples(1, n=4).tensors[0].double(), SomebodysModule()
    now, then = (m.body[0].double().cpu()(inputs) for m in (module, start))
    assert_close(now, then, rtol=0, atol=1e-5)
    assert not torch.equal(module.body[0].weight.cpu(), start.body[0].weight)


@pytest.mark.parametrize("part", ["body", "whole"])
def test_a_compiled_module_trains_the_same(part: str, device: torch.device) -> None:
    if device.type == "cuda":
        pytest.importorskip("triton", reason="the compiler of GPUs")
    backend = "inductor" if device.type == "cuda" else "aot_eager"
    check = RecoveryCheck({"int4": Quantize(4), "relearn": Relearn(steps=2, lr=1e-2, mode="full")}, every_n_steps=3)
    plain, _ = fitted(forgetting(), SomebodysModule("sgd"), callbacks=[check])
    module = SomebodysModule("sgd")
    if part == "body":
        module.body = torch.compile(module.body, backend=backend)
    else:
        module.compile(backend=backend)
    compiled, _ = fitted(forgetting(), module, callbacks=[check])
    for a, b in zip(plain.parameters(), compiled.parameters(), strict=True):
        assert_close(a, b, rtol=0, atol=1e-5)


# Resuming: states come from files, on the CPU


class AllUsed(SomebodysModule):
    def __init__(self) -> None:
        super().__init__()
        del self.unused

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([*self.body.parameters(), *self.head.parameters()], lr=1e-2)


RESUMED = [*WAYS, "refresh", "checked"]
WITHOUT_DATA: dict[str, Any] = {
    "refresh": lambda: [Refresh()],
    "checked": lambda: [forgetting(), RecoveryCheck({"back": Interpolate(), "int4": Quantize(4)}, every_n_steps=2)],
}


@pytest.mark.parametrize("way", RESUMED)
def test_resumed_equals_uninterrupted(way: str, tmp_path: Path) -> None:
    def fit(folder: str, ckpt_path: Any = None, **kwargs: Any) -> nn.Module:
        module = AllUsed()
        callbacks = {**WAYS, **WITHOUT_DATA}[way]()
        saving = ModelCheckpoint(tmp_path / folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        trainer = quiet(callbacks=[*callbacks, saving], enable_checkpointing=True, max_epochs=2, **kwargs)
        data = ForgetRetainData(retain=loader(seed=1), forget=loader(seed=2, n=12), order=CyclicOrder())
        if way == "refresh":
            trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        else:
            trainer.fit(module, loader(seed=1), ckpt_path=ckpt_path)
        return module

    whole = fit("whole")
    fit("first", max_steps=6)
    assert same(whole, fit("second", tmp_path / "first" / "step=6.ckpt"))


# After Lightning's teardown


def test_the_final_look_is_at_weights_that_were_moved_away_and_back(device: torch.device) -> None:
    """Lightning moves the network to the CPU when the fit ends; averaged weights are looked at only then."""
    from lightning.pytorch.callbacks import StochasticWeightAveraging

    module = HostileModule()
    check = RecoveryCheck({"relearn": Relearn(steps=1, mode="full")}, probes={"retain": loader(seed=1)})
    averaging = StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1)
    trainer = quiet(callbacks=[forgetting(), check, averaging], max_epochs=3, limit_val_batches=0)
    trainer.fit(module, loader(seed=1))
    assert next(module.parameters()).device.type == "cpu"
    assert not check.failures
    assert check.restored
    last = max(o.step for o in check.observations)
    assert {o.attack for o in check.observations if o.step == last} == {"none", "relearn"}


def test_the_same_parts_serve_a_second_fit(device: torch.device) -> None:
    module, unlearn, check = SomebodysModule(), npo(), RecoveryCheck({"int4": Quantize(4)})
    guard = StepGuard(NoChange(), History(2))
    for _ in range(2):
        trainer = quiet(callbacks=[unlearn, guard, check], max_epochs=1)
        trainer.fit(module, loader(seed=1))
        assert trainer.global_step == 6
    assert not check.failures


def test_pinned_memory_and_workers_give_the_same(device: torch.device) -> None:
    made = []
    for settings in ({}, {"pin_memory": device.type == "cuda", "num_workers": 1, "persistent_workers": True}):
        unlearn = forgetting(forget=DataLoader(examples(2, n=24), batch_size=4, **settings))
        made.append(fitted(unlearn, SomebodysModule("sgd"))[0])
    assert same(*made)
