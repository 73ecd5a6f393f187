"""Fits of a small language model, plain or with an adapter, in one process or two, and all that is left after each step."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from _attacks_and_audits import FORGET, SIBLING
from _modules import quiet
from _sharded_fits import LANGUAGE_MODELS
from torch import nn

from lightning_unlearn import (
    Attack,
    Bounded,
    Encoding,
    FileRecords,
    ForgetRetainData,
    GradientAscent,
    LoaderSettings,
    LoRA,
    QuestionAnswerData,
    RecoveryCheck,
    TinyCausalLM,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.audits import Audit
from lightning_unlearn.runtime import local

RETAIN = (12, 24)
FEW = {"forget": FORGET, "retain": (12, 18)}
ALL = {
    "forget": FORGET,
    "retain": RETAIN,
    "forget_perturbed": (24, 36),
    "retain_perturbed": (36, 48),
    "holdout": (60, 72),
}
CONTROL = "control.pt"


STRATEGIES: dict[str, Any] = {"single": (UnlearningModule, lambda: "auto"), **LANGUAGE_MODELS}
NETWORKS: dict[str, LoRA | None] = {
    "plain": None,
    "adapter": LoRA(r=2, dropout=0.3, target_modules=["q_proj", "v_proj"]),
}


def rows(which: tuple[int, int], batch_size: int = 6) -> QuestionAnswerData:
    records = FileRecords("bundled:people", entity="entity", paraphrase="paraphrase", rows=which)
    return QuestionAnswerData(records, Encoding("bundled"), LoaderSettings(batch_size, shuffle=False))


def network(kind: str, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        plain, lora = TinyCausalLM(hidden_size=32, num_hidden_layers=1), NETWORKS[kind]
        return plain if lora is None else lora.wrap(plain)


class Breaking(RecoveryCheck):
    """Calls ``moment`` at each forward pass of a look, but not of the first one, which a fit cannot do without."""

    moment: Callable[[], None] = staticmethod(lambda: None)

    def check(self, trainer: Any, pl_module: Any) -> Any:
        handle = pl_module.network.register_forward_pre_hook(lambda *_: self.moment())
        try:
            return super().check(trainer, pl_module)
        finally:
            handle.remove()


def check_of(
    attacks: Mapping[str, Callable[[], Attack]], audits: Mapping[str, Callable[[], Audit]], **settings: Any
) -> Breaking:
    made = [make() for make in audits.values()]
    asked = FEW if set(audits) == {"measure"} else ALL
    return Breaking(
        {name: make() for name, make in attacks.items()},
        audits=made,
        every_n_steps=1,
        probes={split: rows(which, 12) for split, which in asked.items()},
        attack_data={"other": rows((48, 54))},
        **settings,
    )


class Watching(pl.Callback):
    """Everything there is to know about a fit, after every step."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        self.steps.append(fingerprint(trainer, module))


def fingerprint(trainer: Any, module: Any) -> str:
    optimizer = trainer.optimizers[0].state_dict()
    tensors = [
        *module.parameters(),
        *module.buffers(),
        *(p.grad for p in module.parameters() if p.grad is not None),
        *(v for s in optimizer["state"].values() for v in s.values() if torch.is_tensor(v)),
        torch.get_rng_state(),
    ]
    plain = (
        [(n, p.requires_grad, p.grad is None) for n, p in module.named_parameters()],
        [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks), sorted(vars(m))) for m in module.modules()],
        {k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith("recovery/")},
        (random.getstate(), np.random.get_state()[1].tolist()),
    )
    digest = hashlib.sha256(repr(plain).encode())
    for tensor in tensors:
        held = local(tensor.detach()).contiguous()
        digest.update(held.flatten().view(torch.uint8).numpy().tobytes() if held.numel() else b"")
    return digest.hexdigest()


def fit(
    check: RecoveryCheck | None, kind: str = "single", net: str = "plain", steps: int = 2, **settings: Any
) -> list[str]:
    """Fingerprints after each step, and after the fit, however it ended."""
    pl.seed_everything(3, verbose=False)
    make, strategy = STRATEGIES[kind]
    module, watch = make(network(net), optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3)), Watching()
    callbacks = [Unlearn(Bounded(GradientAscent(), bound=9.0)), *([check] if check else []), watch]
    devices = 1 if kind == "single" else 2
    about: dict[str, Any] = {"max_steps": steps, "max_epochs": 9, "limit_val_batches": 0, **settings}
    trainer = quiet(callbacks=callbacks, strategy=strategy(), devices=devices, **about)
    with in_a_folder_of_its_own():
        torch.save(network(net, seed=1).state_dict(), SIBLING)
        torch.save(network(net, seed=2).state_dict(), CONTROL)
        try:
            trainer.fit(module, datamodule=ForgetRetainData(retain=rows(RETAIN), forget=rows(FORGET)))
        except SystemExit:
            return [*watch.steps, "interrupted", fingerprint(trainer, module)]
    return [*watch.steps, fingerprint(trainer, module)]


@contextmanager
def in_a_folder_of_its_own() -> Iterator[None]:
    """Each process writes its own files."""
    before, own = Path.cwd(), Path(f"rank-{os.environ.get('RANK', 0)}")
    own.mkdir(exist_ok=True)
    os.chdir(own)
    try:
        yield
    finally:
        os.chdir(before)
