"""Real attacks in the loop of a fit with dropout, BatchNorm and all else that an inner loop can disturb."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import lightning.pytorch as pl
import pytest
import torch
from _fingerprints import Log, bits, differences, fingerprint
from _modules import HostileModule, loader, quiet

from lightning_unlearn import (
    Attack,
    GradientAscent,
    Interpolate,
    LatentPerturbation,
    Noise,
    Prune,
    Quantize,
    Relearn,
    Sharpen,
    TruncateUpdate,
    Unlearn,
)

TINY = 1e-300
"""Times any float32 gradient this is zero."""

ATTACKS: dict[str, Callable[[], Attack]] = {
    "relearn": lambda: Relearn(steps=3, lr=1e-2),
    "relearn-full": lambda: Relearn(steps=3, lr=1e-2, mode="full"),
    "sharpen": lambda: Sharpen(0.3),
    "noise": lambda: Noise(0.1),
    "latent": lambda: LatentPerturbation(r"net\.0", eps=0.3, steps=2),
    "prune": lambda: Prune(0.3),
    "int4": lambda: Quantize(4),
    "interpolate": lambda: Interpolate(0.5),
    "truncate": lambda: TruncateUpdate(1),
}


class EachStep(pl.Callback):
    """All there is to know about a fit after each step, and the gradient that the optimizer was given."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        # Plus zero: the sum with a vanishing gradient may turn -0.0 into 0.0.
        gradients = {n: p.grad + 0.0 for n, p in module.named_parameters() if p.grad is not None}
        found = {f"gradient {name}": bits(gradient) for name, gradient in gradients.items()}
        found |= {f"trained {name}": p.requires_grad for name, p in module.named_parameters()}
        found |= {f"mode {name}": m.training for name, m in module.named_modules()}
        found["hooks"] = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()]
        found |= fingerprint(trainer, module)
        found["attributes "].pop("_metric_attributes", None)  # Lightning's, by the addresses of metrics
        self.steps.append(found)


def fit(unlearn: Unlearn | None, **kwargs: Any) -> list[dict[str, Any]]:
    pl.seed_everything(3, verbose=False)
    module, watch = HostileModule(), EachStep()
    callbacks = [*([unlearn] if unlearn else []), watch]
    trainer = quiet(callbacks=callbacks, logger=Log(), max_epochs=2, num_sanity_val_steps=0, **kwargs)
    trainer.fit(module, loader(seed=1, shuffle=True), loader(seed=3))
    return [*watch.steps, fingerprint(trainer, module)]


@pytest.mark.parametrize(
    "kwargs",
    [{}, pytest.param({"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}, marks=pytest.mark.slow)],
    ids=["plain", "accumulated and clipped"],
)
@pytest.mark.parametrize("name", ATTACKS)
def test_with_a_weight_that_vanishes_each_step_is_that_of_the_plain_fit(name: str, kwargs: dict[str, Any]) -> None:
    unlearn = Unlearn(GradientAscent(), forget=loader(seed=2, shuffle=True), weight=TINY, under={name: ATTACKS[name]()})
    attacked, plain = fit(unlearn, **kwargs), fit(None, **kwargs)
    assert len(attacked) == len(plain) == 13
    assert [differences(*step) for step in zip(attacked, plain, strict=True)] == [[]] * 13
    assert unlearn._vantage.counts[name] == {"met": 12 // kwargs.get("accumulate_grad_batches", 1), "failed": 0}


class BreaksOff(Relearn):
    """Three steps of relearning, which fail in the midst of the second in every other call."""

    def __init__(self, mode: Literal["adapter", "full"], *, breaks: bool) -> None:
        super().__init__(steps=3, lr=1e-2, mode=mode)
        self.breaks, self.calls, self.passes = breaks, 0, 0

    def drawn(self, generator: torch.Generator) -> Relearn:
        return self

    @contextmanager
    def __call__(self, network: Any, *, loss: Any = None, **kwargs: Any) -> Iterator[Any]:
        self.calls += 1
        self.passes = 0

        def breaking(batch: Any) -> torch.Tensor:
            self.passes += 1
            value: torch.Tensor = loss(batch)
            if self.breaks and self.calls % 2 == 0 and self.passes == 2:
                raise RuntimeError("out of memory")
            return value

        with super().__call__(network, loss=breaking, **kwargs) as points:
            yield points


@pytest.mark.filterwarnings("ignore:Attack `relearn` of .* failed.*out of memory")
@pytest.mark.parametrize("mode", ["adapter", "full"])
def test_where_relearning_breaks_off_the_fit_is_that_in_which_it_was_not_met(mode: Any) -> None:
    """Met in every step, and broken off in every other one; or due in every other step only."""
    found = []
    for breaks in (True, False):
        under = {"relearn": BreaksOff(mode, breaks=breaks)}
        forget, every = loader(seed=2, shuffle=True), 1 if breaks else 2
        unlearn = Unlearn(GradientAscent(), forget=forget, weight=0.1, under=under, under_every=every)
        found.append(fit(unlearn))
        assert unlearn._vantage.counts["relearn"] == {"met": 6, "failed": 6 if breaks else 0}
    assert len(found[0]) == 13
    assert [differences(*step) for step in zip(*found, strict=True)] == [[]] * 13
    assert differences(found[0][-1], fit(None)[-1])


def test_something_that_moves_is_noticed() -> None:
    unlearn = Unlearn(GradientAscent(), forget=loader(seed=2, shuffle=True), weight=1e-6)
    found = differences(fit(unlearn)[0], fit(None)[0])
    assert {"gradient net.0.weight", "weight net.0.weight"} <= set(found)
    assert torch.is_tensor(HostileModule().net[1].running_mean)  # there is a buffer to disturb
