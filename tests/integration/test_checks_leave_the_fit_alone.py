"""A fit with `RecoveryCheck` every step equals the fit without it, bit for bit."""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import product
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from _modules import HostileModule, loader, quiet
from lightning.pytorch.plugins.precision import MixedPrecision

from lightning_unlearn import (
    GGUF,
    GPTQ,
    Attack,
    BitsAndBytes,
    ConceptShift,
    FactSplit,
    GradientAscent,
    Interpolate,
    LatentPerturbation,
    Merge,
    Noise,
    PassiveRecovery,
    Prune,
    Quantize,
    Recalibrate,
    RecoveryCheck,
    Relearn,
    Sharpen,
    TruncateUpdate,
    Unlearn,
    Wanda,
)
from lightning_unlearn.audits import (
    AnswerRank,
    Audit,
    BucketFlips,
    Calibration,
    ExactLeak,
    GradientNorm,
    Measure,
    Membership,
    Specificity,
)
from lightning_unlearn.engine import _isolation
from lightning_unlearn.observation import Observation


class Vandal(Attack):
    """Disturbs everything that must be put back, then raises or not."""

    family = "vandal"
    unit = "step"

    def __init__(self, raises: bool) -> None:
        self.raises = raises

    @contextmanager
    def __call__(self, network: Any, **kwargs: Any) -> Iterator[Iterator[int]]:
        saved = [p.detach().clone() for p in network.parameters()]
        try:
            with torch.no_grad():
                for p in network.parameters():
                    p.add_(1.0)
                for b in network.buffers():
                    b.add_(1)
            for p in network.parameters():
                p.requires_grad_(False)
                p.grad = torch.ones_like(p)
            network.train(not network.training)
            network.calls += 100
            network.history.append(-1)
            network.noise[:] = 7
            network.mean_loss.update(1e6)
            torch.rand(3), np.random.rand(3), random.random()
            if self.raises:
                raise RuntimeError("an attack that fails")
            yield iter([0])
        finally:
            with torch.no_grad():
                for p, value in zip(network.parameters(), saved, strict=True):
                    p.copy_(value)


class VandalAudit(Audit):
    """Disturbs all that an audit should not, but the weights."""

    def definitions(self) -> dict[str, str]:
        return {"vandalism": "Nothing."}

    def __call__(self, network: Any, **kwargs: Any) -> list[Observation]:
        with Vandal(raises=False)(network):
            pass
        return [Observation("vandalism", "forget", 1.0)]


def sibling() -> str:
    torch.save(HostileModule().state_dict(), "sibling.pt")
    return "sibling.pt"


ATTACKS: dict[str, Any] = {
    "quantize": lambda: Quantize(bits=3, skip=()),
    "relearn_adapter": lambda: Relearn(steps=3, lr=1e-2),
    "relearn_full": lambda: Relearn(steps=3, lr=1e-2, mode="full"),
    "relearn_some_layers": lambda: Relearn(steps=2, lr=1e-2, mode="full", layers=["4"], data="other", repeats=2),
    "relearn_some_facts": lambda: Relearn(steps=2, lr=1e-2, facts=FactSplit(by="fact"), order_seed=1),
    "passive": lambda: PassiveRecovery(0.5, steps=3, lr=1e-2),
    "concept_shift": lambda: ConceptShift("other", every=1, steps=3, lr=1e-2),
    "recalibrate": Recalibrate,
    "noise": Noise,
    "sharpen": Sharpen,
    "latent": lambda: LatentPerturbation("0", steps=2),
    "prune": Prune,
    "wanda": lambda: Wanda(head=True),
    "gptq": lambda: GPTQ(3, head=True),
    "gguf": lambda: GGUF("Q4_0", head=True),
    "nf4_kernel": lambda: BitsAndBytes("nf4"),
    "int8_kernel": lambda: BitsAndBytes("int8"),
    "merge": lambda: Merge(sibling()),
    "interpolate": Interpolate,
    "truncate": lambda: TruncateUpdate(1),
    "vandal": lambda: Vandal(raises=False),
    "vandal_raises": lambda: Vandal(raises=True),
}
AUDITS: dict[str, Any] = {
    "exact_leak": ExactLeak,
    "measure": Measure,
    "membership": lambda: Membership(holdout="retain"),
    "gradient_norm": lambda: GradientNorm(holdout="retain"),
    "answer_rank": lambda: AnswerRank(alternates=2, holdout="retain"),
    "specificity": Specificity,
    "bucket_flips": BucketFlips,
    "calibration": Calibration,
    "vandal": lambda: VandalAudit(),
}
FITS: dict[str, Any] = {
    "fp32": dict,
    "accumulate": lambda: {"accumulate_grad_batches": 2},
    "clipping": lambda: {"gradient_clip_val": 0.01},
    "bf16-mixed": lambda: {"precision": "bf16-mixed"},
    "16-mixed": lambda: {
        "plugins": [MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=256.0))]
    },
}


class Fingerprint(pl.Callback):
    """Everything there is to know about a fit, after every step."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        self.steps.append(fingerprint(trainer, module))


def fingerprint(trainer: Any, module: Any) -> str:
    optimizer, scaler = trainer.optimizers[0].state_dict(), getattr(trainer.precision_plugin, "scaler", None)
    tensors = [
        *module.parameters(),
        *module.buffers(),
        *(p.grad for p in module.parameters() if p.grad is not None),
        *(v for s in optimizer["state"].values() for v in s.values() if torch.is_tensor(v)),
        *(v for v in module.mean_loss.metric_state.values()),
        torch.get_rng_state(),
    ]
    plain = (
        [p.requires_grad for p in module.parameters()],
        [m.training for m in module.modules()],
        {k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith("recovery/")},
        (module.calls, module.history, module.noise.tolist(), module.mean_loss._update_count),
        (trainer.global_step, trainer.lr_scheduler_configs[0].scheduler.get_last_lr()),
        None if scaler is None else scaler.state_dict(),
        (random.getstate(), np.random.get_state()[1].tolist()),
    )
    digest = hashlib.sha256(repr(plain).encode())
    for t in tensors:
        digest.update(
            t.detach().contiguous().view(torch.uint8).numpy().tobytes() if t.dim() else repr(t.item()).encode()
        )
    return digest.hexdigest()


def fit(check: RecoveryCheck | None, **kwargs: Any) -> list[str]:
    pl.seed_everything(3, verbose=False)
    module, watch = HostileModule(), Fingerprint()
    unlearn = Unlearn(GradientAscent(), forget=loader(seed=2, shuffle=True))
    callbacks = [unlearn, *([check] if check else []), watch]
    trainer = quiet(callbacks=callbacks, max_epochs=2, num_sanity_val_steps=0, **kwargs)
    trainer.fit(module, loader(seed=1, shuffle=True), loader(seed=3))
    return [*watch.steps, fingerprint(trainer, module)]


PROBES = {"retain": loader(seed=1)}


def check_with(attack: str) -> RecoveryCheck:
    return RecoveryCheck(
        {attack: ATTACKS[attack]()}, every_n_steps=1, probes=PROBES, attack_data={"other": loader(seed=4)}
    )


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
