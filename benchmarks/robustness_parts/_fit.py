from __future__ import annotations

from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from lightning_unlearn import FinetuneFirst, ForgetRetainData, TrainOnly, Unlearn, UnlearningModule
from robustness_parts._budget import LastWithinBudget
from robustness_parts._judges import READOUT, known
from robustness_parts._method import Method
from robustness_parts._setting import Setting

NOBODY = (
    ("Where was Tovald Ekrinsen born?", "In a town by the river"),
    ("What does Tovald Ekrinsen do for a living?", "He repairs old clocks"),
    ("What did Ishveri Palanakul write?", "A book of songs"),
    ("Where does Ishveri Palanakul live?", "In a house on a hill"),
)


def teach(setting: Setting, world_name: str, seed: int) -> dict[str, nn.Module]:
    """The original, and the control, which was taught the same in the same way but for what must go."""
    world = setting.world(world_name)
    kept = setting.data(world.retain + world.unseen, size=setting.batch[1])
    data = ForgetRetainData(retain=kept, forget=setting.data(world.forget))
    finetune = FinetuneFirst(**setting.teach, seed=seed, control=True)
    original, control = (UnlearningModule(setting.start(seed), readout=READOUT) for _ in range(2))
    trainer(setting, 0, [finetune]).fit(original, datamodule=data)  # teaching happens in `setup`
    assert isinstance(finetune.control_weights, dict)
    control.network.load_state_dict(finetune.control_weights)
    return {"original": original.network.to(setting.device), "control": control.network.to(setting.device)}


def forget_(
    network: nn.Module, method: Method, rate: float, setting: Setting, world_name: str, seed: int
) -> dict[str, Any]:
    """Unlearn in place, by the product. Returns what was spent and what is known afterwards."""
    world = setting.world(world_name)
    pl.seed_everything(seed, verbose=False)
    names = meanings(setting, world_name, seed, rate)
    kl = method.described.get("budget", setting.kl)
    budget = LastWithinBudget(list(setting.batches(world.neutral, size=setting.batch[1])), kl, setting.every)
    arguments = method.unlearn(names)
    forgetting = [] if arguments is None else [Unlearn(**arguments)]
    module = UnlearningModule(
        network,
        readout=READOUT,
        optimizer=lambda params: torch.optim.AdamW(params, lr=rate, weight_decay=0.0),
        **method.module(names),
    )
    data = ForgetRetainData(retain=setting.data(world.retain, size=setting.batch[1], seed=seed), forget=names["forget"])
    # The budget first: what ends a fit by changing weights (averages, edits) comes after the last weights within it.
    callbacks = [*forgetting, budget, *method.callbacks(names)]
    trainer(setting, setting.steps, callbacks).fit(module, datamodule=data)
    network.to(setting.device)  # Lightning leaves it on the CPU
    return {
        "rate": rate,
        "steps": budget.kept[0],
        "disruption": round(budget.disruption(network), 5),
        "disruption curve": budget.curve,
        "forget": known(network, setting, world.forget),
        "retain": known(network, setting, world.looked_at),
        "trained": trained_share(callbacks, network),
    }


def trained_share(callbacks: list[pl.Callback], network: nn.Module) -> float:
    """Of all weights, those that no callback held where they were."""
    masks = [callback for callback in callbacks if isinstance(callback, TrainOnly)]
    chosen = [only.saved()["mask"].get("parts", {}) for only in masks]
    parts = {name: int(part.sum()) for masked in chosen for name, part in masked.items()}
    free = {name: p for name, p in network.named_parameters() if not any(only.leaves_alone(p) for only in masks)}
    trained = sum(parts.get(f"network.{name}", p.numel()) for name, p in free.items())
    return round(trained / sum(p.numel() for p in network.parameters()), 5)


def meanings(setting: Setting, world_name: str, seed: int, rate: float) -> dict[str, Any]:
    """What ``$name`` stands for in a method: the setting's layers and tokenizer, its data, and its optimizer."""
    world = setting.world(world_name)
    unknown = [{"question": q, "answer": a, "entity": "nobody"} for q, a in NOBODY]
    forget = setting.data(world.forget, seed=seed)
    return {
        **setting.names,
        "kl": setting.kl,
        "half": setting.steps // 2,
        "adamw": partial(torch.optim.AdamW, lr=rate, weight_decay=0.0),
        "forget": forget,
        "retain": setting.data(world.retain, size=setting.batch[1], seed=seed),
        "seed": seed,
        "records": forget.records,
        "encoding": forget.encoding,
        "loader": forget.loader,
        "neutral": setting.data(world.neutral, size=setting.batch[1]),
        "unknown": setting.data(unknown),
    }


def trainer(setting: Setting, steps: int, callbacks: list[pl.Callback]) -> pl.Trainer:
    return pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        callbacks=callbacks,
        gradient_clip_val=setting.clip,
        precision=setting.precision,  # type: ignore[arg-type]
        accelerator=torch.device(setting.device).type,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
