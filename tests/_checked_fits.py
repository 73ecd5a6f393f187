"""Every attack and audit that a fit must not notice, and everything there is to know about a fit after each step."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import _attacks_and_audits as attacks_and_audits
import lightning.pytorch as pl
import numpy as np
import torch
from _modules import HostileModule, loader, quiet

from lightning_unlearn import Attack, GradientAscent, RecoveryCheck, Unlearn
from lightning_unlearn.audits import Audit
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


ATTACKS: dict[str, Any] = {
    **attacks_and_audits.ATTACKS,
    "vandal": lambda: Vandal(raises=False),
    "vandal_raises": lambda: Vandal(raises=True),
}
AUDITS: dict[str, Any] = {**attacks_and_audits.AUDITS, "vandal": VandalAudit}


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
        *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else ()),
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
            t.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if t.dim() else repr(t.item()).encode()
        )
    return digest.hexdigest()


def fit(check: RecoveryCheck | None, **kwargs: Any) -> list[str]:
    pl.seed_everything(3, verbose=False)
    module, watch = HostileModule(), Fingerprint()
    torch.save(HostileModule().state_dict(), attacks_and_audits.SIBLING)
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
