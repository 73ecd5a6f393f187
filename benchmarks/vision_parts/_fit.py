from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Any

import lightning.pytorch as pl
import torch
from robustness_parts._method import Method, made
from torch import nn

from lightning_unlearn import ClassificationReadout, FinetuneFirst, ForgetRetainData, LoRA, Unlearn, UnlearningModule
from lightning_unlearn.data import ClassMeans, MixedPrototypes
from vision_parts._world import World

READOUT = ClassificationReadout()


def teach(world: World, seed: int) -> dict[str, nn.Module]:
    """The original, and the same start, trained on the retain data alone in the same way: retraining from scratch."""
    setting = world.setting
    data = ForgetRetainData(retain=world.part("retain"), forget=world.part("forget"))
    finetune = FinetuneFirst(**setting.teach, seed=seed, control=True)
    original, retrained = (
        UnlearningModule(setting.start(world.kind, seed), readout=READOUT) for _ in ("original", "retrained")
    )
    trainer(0, [finetune]).fit(original, datamodule=data)  # teaching happens in `setup`
    assert isinstance(finetune.control_weights, dict)
    retrained.load_state_dict(finetune.control_weights)  # names are those of the module
    return {"original": original.network, "retrained": retrained.network}


def forget(network: nn.Module, method: Method, rate: float, world: World, seed: int) -> nn.Module:
    """Unlearn, by the product. Gives the network, without an adapter."""
    pl.seed_everything(seed, verbose=False)
    names = meanings(world, rate)
    adapter: LoRA | None = made(method.described.get("adapter"), names)
    network = network if adapter is None else adapter.wrap(network)
    arguments = method.unlearn(names)
    forgetting = [] if arguments is None else [Unlearn(**arguments)]
    module = UnlearningModule(
        network,
        readout=READOUT,
        optimizer=lambda params: torch.optim.AdamW(params, lr=rate, weight_decay=0.0),
        **method.module(names),
    )
    forget_size, retain_size = world.setting.batch
    retain: Any = world.part("retain", retain_size, seed)
    if method.described.get("retain") == "prototypes":
        retain = points(network, world, retain_size, seed)
    data = ForgetRetainData(retain=retain, forget=world.part("forget", forget_size, seed))
    steps = method.described.get("steps", world.setting.steps)
    trainer(steps, [*forgetting, *method.callbacks(names)]).fit(module, datamodule=data)
    plain: nn.Module = network if adapter is None else network.merge_and_unload()  # type: ignore[operator]
    return plain


def points(network: nn.Module, world: World, size: int, seed: int) -> MixedPrototypes:
    """What is left of retain data that are gone."""
    setting = world.setting
    kept = ClassMeans.seen(network, world.batches("retain"), setting.head)
    loader = world.part("retain", size, seed).loader
    return MixedPrototypes(kept, count=16 * size, seed=seed, loader=loader)


def meanings(world: World, rate: float) -> Mapping[str, Any]:
    """What ``$name`` stands for in a method."""
    setting = world.setting
    # What guessing costs, and a nat more: at less, what is forgotten would be known better than by chance.
    bound = log(setting.classes(world.kind)) + 1
    forget_size, retain_size = setting.batch
    return {
        "rate": rate,
        "head": setting.head,
        "wide": list(setting.wide),
        "bound": bound,
        "forget": world.part("forget", forget_size),
        "retain": world.part("retain", retain_size),
        "some_retain": world.batches("retain", retain_size)[:3],
    }


def trainer(steps: int, callbacks: list[pl.Callback]) -> pl.Trainer:
    return pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        callbacks=callbacks,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
