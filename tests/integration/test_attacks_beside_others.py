"""Real attacks in the loop, beside a guard, an optimizer of forgetting's own, half precision, accumulation and clipping."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _guarded_fits import Module, Outside
from _modules import SomebodysModule, loader, quiet
from _private_optimizers import AfterUsersStep
from _vantage import KeepsRows, assert_first_step_is, fitted, forget_loss, forgetting, forgotten
from torch import Tensor
from torch.nn import functional as F

from lightning_unlearn import Attack, Relearn, Sharpen, StepGuard
from lightning_unlearn.data import ForgetStream
from lightning_unlearn.guards import Monitor

LR, RHO = 0.01, 0.5
ATTACKS: dict[str, Attack] = {
    "relearn": Relearn(steps=1, lr=LR, batches=1, mode="full", knows="judged"),
    "sharpen": Sharpen(RHO),
}
each_attack = pytest.mark.parametrize("name", ATTACKS)


def attacked(name: str, gradient: list[Tensor]) -> list[Tensor]:
    """Where one step leads: Adam's first is `lr` along the sign, that of SAM has a fixed length."""
    if name == "relearn":
        return [-LR * g / (g.abs() + 1e-8) for g in gradient]
    length = torch.cat([g.flatten() for g in gradient]).norm()
    return [-RHO * g / length for g in gradient]


def row_by_hand(name: str, batches: list[Any], mixed: bool = False) -> list[Tensor]:
    """The mean over micro-batches, and over the weights as they are and as the attack leaves them.

    One step of `Relearn` is on the first of them; `Sharpen` steps along the gradient of each before it is judged.
    """
    total = [torch.zeros_like(p) for p in forgotten(SomebodysModule())]
    for batch in batches:
        module = SomebodysModule("sgd")
        x, y = batch if name == "sharpen" else batches[0]
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            plain = torch.autograd.grad(forget_loss(module, batch), forgotten(module))
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            towards = torch.autograd.grad(F.cross_entropy(module(x), y), forgotten(module))
        with torch.no_grad():
            for p, step in zip(forgotten(module), attacked(name, list(towards)), strict=True):
                p.add_(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            there = torch.autograd.grad(forget_loss(module, batch), forgotten(module))
        for t, a, b in zip(total, plain, there, strict=True):
            t += (a + b) / 2 / len(batches)
    return total


def judged(count: int) -> list[Any]:
    stream = ForgetStream(loader(seed=2, n=24), seed=5)
    return [next(stream) for _ in range(count)]


WAYS: dict[str, dict[str, Any]] = {
    "accumulated": {"accumulate": 3},
    "clipped": {"clip": 0.05},
    "accumulated and clipped": {"accumulate": 3, "clip": 0.05},
    "an optimizer of its own": {"own_lr": 0.02},
    "an optimizer of its own, accumulated": {"own_lr": 0.02, "accumulate": 3},
    "watched by a guard": {"callbacks": lambda: [StepGuard(Monitor())]},
}


@pytest.mark.parametrize("way", WAYS)
@each_attack
def test_gradient_and_step_are_those_by_hand(name: str, way: str) -> None:
    settings = {key: value() if callable(value) else value for key, value in WAYS[way].items()}
    row = row_by_hand(name, judged(settings.get("accumulate", 1)))
    assert_first_step_is(row, {name: ATTACKS[name]}, **settings)


@each_attack
def test_in_mixed_precision_the_gradient_is_that_under_autocast_and_weights_stay_in_float32(name: str) -> None:
    kept, module = KeepsRows(), SomebodysModule("sgd")
    fitted(forgetting(under={name: ATTACKS[name]}, transforms=[kept]), module, max_steps=1, precision="bf16-mixed")
    found = torch.cat([kept.rows[0][p].flatten() for p in forgotten(module)])
    by_hand, exact = (torch.cat([g.flatten() for g in row_by_hand(name, judged(1), m)]) for m in (True, False))
    assert {p.dtype for p in module.parameters()} == {found.dtype} == {torch.float32}
    error = (found - by_hand).norm() / by_hand.norm()
    assert error < 1e-3
    assert error < 0.5 * (exact - by_hand).norm() / by_hand.norm()  # it is another gradient in full precision


@pytest.mark.parametrize("way", [{}, {"accumulate_grad_batches": 3}, {"gradient_clip_val": 0.3}], ids=str)
@each_attack
def test_a_guarded_step_raises_no_retain_loss_to_first_order(name: str, way: dict[str, Any]) -> None:
    found = {}
    for guards in ([StepGuard()], []):
        seen = Outside()
        unlearn = forgetting(under={name: ATTACKS[name]}, weight=20.0)
        trainer = quiet(callbacks=[seen, unlearn, *guards], max_epochs=2, **way)
        trainer.fit(Module("adamw"), loader(seed=1))
        assert unlearn._vantage.counts[name]["failed"] == 0
        found[bool(guards)] = max(seen.breaches("NoIncrease", "global"))
    assert found[True] < 1e-5 < 0.02 < found[False]


@each_attack
def test_the_users_own_step_stays_plain_beside_an_optimizer_of_forgettings_own(name: str) -> None:
    """Its first step, along the retain gradient alone, is to the bit that of a fit without forgetting."""
    after, module = AfterUsersStep(), SomebodysModule()
    own = forgetting(under={name: ATTACKS[name]}, optimizer=lambda params: torch.optim.AdamW(params, lr=1e-2))
    quiet(callbacks=[after, own], max_steps=1).fit(module, loader(seed=1))
    plain = SomebodysModule()
    quiet(max_steps=1).fit(plain, loader(seed=1))
    assert all(map(torch.equal, after.weights[0], plain.parameters()))
    assert not all(map(torch.equal, module.parameters(), plain.parameters()))
