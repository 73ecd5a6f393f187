"""On the device, too, a fit with checks or attacks is the fit without them, to the bit."""

from __future__ import annotations

from functools import cache
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _checked_fits import ATTACKS, AUDITS, check_with, fit
from _modules import HostileModule, loader, quiet
from _vantage import forgetting
from torch import Tensor

from lightning_unlearn import Quantize, RecoveryCheck, Relearn
from lightning_unlearn.engine import isolated
from lightning_unlearn.runtime import remember_random_states, seeded

pytestmark = pytest.mark.usefixtures("deterministic")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
IN_HALF = ("quantize", "relearn_adapter", "relearn_full", "sharpen", "latent", "gptq", "nf4_kernel", "int8_kernel")
CASES = [("32-true", a) for a in ATTACKS] + [(p, a) for p in PRECISIONS[1:] for a in IN_HALF]


@cache
def undisturbed(precision: str) -> list[str]:
    return fit(None, precision=precision)


def test_the_fit_itself_is_the_same_twice() -> None:
    """Without this no test below means anything."""
    assert fit(None, precision="32-true") == undisturbed("32-true")


@pytest.mark.parametrize(("precision", "attack"), CASES)
def test_fit_is_the_same_to_the_bit(attack: str, precision: str) -> None:
    check = check_with(attack)
    assert fit(check, precision=precision) == undisturbed(precision)
    expected = {"none"} if attack == "vandal_raises" else {"none", attack}
    assert {look.attack for look in check.observations} == expected
    assert {failure.attack for failure in check.failures} == ({attack} if attack == "vandal_raises" else set())


@pytest.mark.parametrize("audit", AUDITS)
def test_audits_leave_it_the_same_to_the_bit(audit: str) -> None:
    torch.save(HostileModule().state_dict(), "control.pt")
    check = RecoveryCheck({"quantize": Quantize(3)}, audits=[AUDITS[audit]()], control="control.pt", every_n_steps=1)
    assert fit(check, precision="32-true") == undisturbed("32-true")
    assert {o.subject for o in check.observations} == {"original", "control", "unlearned"}


UNDER: dict[str, Any] = {
    "adapter": lambda: Relearn(steps=3, lr=1e-2),
    "full": lambda: Relearn(steps=3, lr=1e-2, mode="full"),
    "int4": lambda: Quantize(bits=4),
}


def weights_after(**kwargs: Any) -> list[Tensor]:
    """With dropout, whose numbers come from the device's own generator. The forget gradient is too small to move a bit."""
    pl.seed_everything(3, verbose=False)
    module = HostileModule()
    trainer = quiet(callbacks=[forgetting(weight=1e-30, **kwargs)], limit_val_batches=0)
    trainer.fit(module, loader(seed=1))
    return [p.detach().cpu() for p in module.parameters()]


@pytest.mark.parametrize("attack", UNDER)
def test_an_attack_in_the_loop_leaves_weights_and_random_numbers_alone(attack: str) -> None:
    plain, attacked = weights_after(), weights_after(under={attack: UNDER[attack]()})
    assert all(map(torch.equal, plain, attacked))


def test_the_devices_random_numbers_go_on_as_if_none_had_been_drawn(device: torch.device) -> None:
    torch.manual_seed(5)
    expected = torch.rand(8, device=device)
    for context in (seeded(1), isolated(quiet(), HostileModule().to(device))):
        torch.manual_seed(5)
        with context:
            assert not torch.equal(torch.rand(8, device=device), torch.rand(8, device=device))
        assert torch.equal(torch.rand(8, device=device), expected)
    torch.manual_seed(5)
    put_back = remember_random_states()
    torch.rand(8, device=device)
    put_back()
    assert torch.equal(torch.rand(8, device=device), expected)
