"""Every attack and audit that a fit must not notice, and everything there is to know about a fit after each step."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from _modules import HostileModule, loader, quiet

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
from lightning_unlearn.edits import Corrupt, Dampen, Edited
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
    "edited": lambda: Edited(Dampen(alpha=1.2)),
    "edited_without_data": lambda: Edited(Corrupt(alpha=0.5)),
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
