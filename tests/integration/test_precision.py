"""Mixed and low precision, and compiled modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _modules import SomebodysModule, loader, quiet
from _scaled import scaled
from torch.testing import assert_close

from lightning_unlearn import Bounded, GradientAscent, LatentPerturbation, TokenwisePerturbation, Unlearn
from lightning_unlearn.forgetting._realised_step import RealisedStep
from lightning_unlearn.readouts import ClassificationReadout


def fit(module: SomebodysModule | None = None, **kwargs: Any) -> tuple[SomebodysModule, Unlearn, dict[str, float]]:
    module = SomebodysModule("sgd") if module is None else module
    unlearn = Unlearn(Bounded(GradientAscent(), bound=3.0), forget=loader(seed=2))
    trainer = quiet(callbacks=[unlearn], **kwargs)
    trainer.fit(module, loader(seed=1))
    return module, unlearn, {k: float(v) for k, v in trainer.callback_metrics.items()}


@pytest.mark.parametrize("clip", [None, 0.05])
def test_the_loss_scale_does_not_change_what_is_learnt(clip: float | None) -> None:
    small, *_ = fit(**scaled(1.0), gradient_clip_val=clip)
    large, *_ = fit(**scaled(2.0**12), gradient_clip_val=clip)
    for a, b in zip(small.parameters(), large.parameters(), strict=True):
        assert_close(a, b, rtol=0, atol=2e-4)  # fp16 rounds differently at other scales


def test_fused_optimizers_that_unscale_by_themselves_see_both_gradients_at_one_scale() -> None:
    class Fused(SomebodysModule):
        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-2, fused=True)

    small, *_ = fit(Fused(), **scaled(1.0))
    large, _, logged = fit(Fused(), **scaled(2.0**10))
    for a, b in zip(small.parameters(), large.parameters(), strict=True):
        assert_close(a, b, rtol=0, atol=2e-3)
    assert logged["unlearn/retain_norm"] < 10  # of the gradient itself, not of 1024 times it


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_forget_gradient_overflow_is_retried_and_the_users_own_is_left_to_the_scaler() -> None:
    module, unlearn, _ = fit(**scaled(2.0**20))  # overflows until the scaler has backed off
    assert unlearn._steps["merged"] == 6
    assert 0 < unlearn._steps["taken"] < 6  # skipped ones were not taken
    assert all(p.isfinite().all() for p in module.parameters())


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("attack", [LatentPerturbation, TokenwisePerturbation])
def test_an_attack_in_the_loop_is_met_where_its_gradient_overflows_at_the_scalers_factor(attack: Any) -> None:
    under, readout = {"latent": attack("body")}, ClassificationReadout()
    unlearn = Unlearn(Bounded(GradientAscent(), bound=3.0), forget=loader(seed=2), under=under, readout=readout)
    quiet(callbacks=[unlearn], max_steps=4, **scaled(2.0**34)).fit(SomebodysModule("sgd"), loader(seed=1))
    assert unlearn._vantage.counts == {"latent": {"met": 4, "failed": 0}}


def test_bf16_mixed_is_near_full_precision() -> None:
    full, _, _ = fit()
    mixed, _, logged = fit(precision="bf16-mixed")
    for a, b in zip(full.parameters(), mixed.parameters(), strict=True):
        assert_close(a, b, rtol=0, atol=2e-2)
    assert logged["unlearn/realised"] == pytest.approx(1.0, abs=1e-3)  # the weights are float32


@pytest.mark.filterwarnings("ignore:.*bf16.*")
def test_bf16_weights_that_swallow_the_step_are_named() -> None:
    class Slow(SomebodysModule):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1e-5)

    with pytest.warns(UserWarning, match="their precision swallows small steps"):
        _, _, logged = fit(Slow(), precision="bf16-true")
    assert logged["unlearn/realised"] < 0.5


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad])
def test_realised_step_of_float32_weights_is_one(kind: Any) -> None:
    layer = torch.nn.Linear(8, 8)
    optimizer = kind(layer.parameters(), lr=1e-2)
    for _ in range(3):
        layer(torch.randn(4, 8)).square().sum().backward()
        realised = RealisedStep()
        realised.before(optimizer, list(layer.parameters()))
        optimizer.step()
        assert realised.after(optimizer) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_submodule_trains_the_same(backend: str) -> None:
    plain, *_ = fit()
    module = SomebodysModule("sgd")
    module.body = torch.compile(module.body, backend=backend)
    compiled, *_ = fit(module)
    for a, b in zip(plain.parameters(), compiled.parameters(), strict=True):
        assert_close(a, b, rtol=0, atol=1e-6)
