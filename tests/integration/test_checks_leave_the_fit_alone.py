"""A fit with `RecoveryCheck` every step equals the fit without it, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from _checked_fits import ATTACKS, AUDITS, check_with, fit
from _modules import CLASSES, HostileModule, SomebodysModule, loader, quiet, same
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.utils.data import DataLoader, Dataset

from lightning_unlearn import (
    Attack,
    DisruptionBudget,
    RecoveryCheck,
)
from lightning_unlearn.engine import _isolation

FITS: dict[str, Any] = {
    "fp32": dict,
    "accumulate": lambda: {"accumulate_grad_batches": 2},
    "clipping": lambda: {"gradient_clip_val": 0.01},
    "bf16-mixed": lambda: {"precision": "bf16-mixed"},
    "16-mixed": lambda: {
        "plugins": [MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=256.0))]
    },
}


@cache
def undisturbed(precision: str) -> list[str]:
    """The fit without checks: one for all attacks."""
    return fit(None, **FITS[precision]())


FAST = {("fp32", a) for a in ATTACKS} | {("16-mixed", a) for a in ("quantize", "relearn_adapter", "sharpen", "vandal")}


@pytest.mark.parametrize(
    ("precision", "attack"),
    [pytest.param(*pair, marks=() if pair in FAST else pytest.mark.slow) for pair in product(FITS, ATTACKS)],
)
@pytest.mark.filterwarnings("ignore:Attack `vandal_raises` failed")
def test_fit_is_the_same_to_the_bit(attack: str, precision: str) -> None:
    check = check_with(attack)
    assert fit(check, **FITS[precision]()) == undisturbed(precision)
    steps = {look.step for look in check.observations}
    assert len(steps) > 5  # it did run, at the start and after every step
    failed = attack == "vandal_raises"
    assert {look.attack for look in check.observations} == ({"none"} if failed else {"none", attack})


@pytest.mark.parametrize("precision", FITS)
@pytest.mark.parametrize("audit", AUDITS)
def test_audits_of_the_model_and_of_a_control_leave_it_the_same_to_the_bit(audit: str, precision: str) -> None:
    control = HostileModule()
    with torch.no_grad():
        for tensor in [*control.parameters(), *control.buffers()]:
            tensor.add_(1)
    torch.save(control.state_dict(), "control.pt")
    check = RecoveryCheck(
        {"quantize": ATTACKS["quantize"]()}, audits=[AUDITS[audit]()], control="control.pt", every_n_steps=1
    )
    assert fit(check, **FITS[precision]()) == fit(None, **FITS[precision]())
    subjects: dict[str, set[str]] = {}
    for o in check.observations:
        subjects.setdefault(o.subject, set()).add(o.attack)
    under = {"quantize"} if AUDITS[audit]().under_attack else set()
    assert subjects == {who: {"none", *under} for who in ("original", "control", "unlearned")}


@pytest.mark.parametrize("left_out", _isolation.REMEMBERED, ids=lambda remember: remember.__name__)
def test_the_comparison_notices_each_kind_of_state(left_out: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving one kind of state out gives another fit: the test above could fail."""
    whole = undisturbed("fp32")
    kept = [remember for remember in _isolation.REMEMBERED if remember is not left_out]
    monkeypatch.setattr(_isolation, "REMEMBERED", kept)
    monkeypatch.setattr("lightning_unlearn.checks._intact.checksum", lambda module: 0)
    if left_out is _isolation.remember_gradients:
        # Vandal leaves no parameter trainable, so that training itself fails.
        with pytest.raises(RuntimeError, match="does not require grad"):
            fit(check_with("vandal"))
    else:
        assert fit(check_with("vandal")) != whole


class Augmented(Dataset[Any]):
    """Rows that are drawn anew each time."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, row: int) -> Any:
        return torch.randn(8) + row, row % CLASSES


LOOKING: dict[str, Any] = {
    "retain probe": lambda data: RecoveryCheck(probes={"forget": loader(2)}, every_n_epochs=0),
    "forget probe": lambda data: RecoveryCheck(probes={"forget": data, "retain": loader(3)}, every_n_epochs=0),
    "budget": lambda data: DisruptionBudget(kl=1e6),
}


@pytest.mark.parametrize("looking", LOOKING)
def test_rows_that_are_augmented_at_random_leave_it_the_same_and_are_always_the_same_probe(looking: str) -> None:
    def run(*callbacks: Any) -> Any:
        torch.manual_seed(0)
        module = SomebodysModule()
        quiet(callbacks=list(callbacks)).fit(module, DataLoader(Augmented(), 4))
        return module

    one, other = LOOKING[looking](DataLoader(Augmented(), 4)), LOOKING[looking](DataLoader(Augmented(), 4))
    plain = run()
    assert same(plain, run(one))
    if isinstance(one, RecoveryCheck):
        torch.manual_seed(1)
        quiet(callbacks=[other], max_steps=1).fit(SomebodysModule(), DataLoader(Augmented(), 4))
        assert one.about_data() == other.about_data()


def test_weights_left_changed_stop_the_fit() -> None:
    class Forgetful(Attack):
        family, unit = "weights", "step"

        @contextmanager
        def __call__(self, network: Any, **kwargs: Any) -> Iterator[Iterator[int]]:
            with torch.no_grad():
                next(network.parameters()).add_(1e-3)
            yield iter([0])

    check = RecoveryCheck({"forgetful": Forgetful()}, every_n_steps=1)
    with pytest.raises(RuntimeError, match="`forgetful` should leave every weight as it was"):
        fit(check)


def test_a_failed_attack_is_named_and_the_fit_goes_on() -> None:
    with pytest.warns(
        UserWarning, match="`vandal_raises` failed, and the fit goes on without it: RuntimeError: an attack"
    ):
        fit(check_with("vandal_raises"))


def test_aliases_of_a_restored_list_still_hold_it() -> None:
    module = HostileModule()
    alias, before = module.history, copy.deepcopy(module.history)
    with _isolation.isolated(quiet(), module):
        module.history.append(5)
    assert module.history is alias
    assert alias == before
