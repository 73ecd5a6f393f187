"""What a method costs by itself: a few steps in a process that has done nothing else."""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from robustness_parts._fit import forget_
from robustness_parts._method import Method
from robustness_parts._runner import quieten
from robustness_parts._study import load
from typing_extensions import override

from tofu_parts._settings import SETTINGS, TOFUSetting
from tofu_parts._spent import Spent, timed

STEPS, WARM = 13, 9
"""The history of a guard is full by then, and of two steps of which one is attacked there are as many of each."""


class Clock(Spent):
    """When each step began, too."""

    def __init__(self) -> None:
        super().__init__()
        self.began: list[float] = []

    @override
    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize(trainer.strategy.root_device)
        self.began.append(time.monotonic())


def cost_alone(setting: TOFUSetting, method: Method, rate: float, weights: Path) -> dict[str, Any]:
    """Seconds a step, and the most memory in use, of a fit in a new process."""
    where = (setting.name, setting.device, setting.precision, torch.get_num_threads())
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_fit, *where, method, rate, weights).result()


def _fit(
    name: str, device: str, precision: str, threads: int, method: Method, rate: float, weights: Path
) -> dict[str, Any]:
    quieten()
    torch.set_num_threads(threads)
    known = next(one for one in SETTINGS.values() if one.name == name)  # a setting has functions, which do not travel
    # Its one look at the budget comes after the last step that is timed.
    setting = replace(known.on(device, precision), steps=STEPS, every=STEPS)
    clock = Clock()
    forget_(load(setting, weights), timed(method, clock), rate, setting, "test", 0)
    seconds = clock.began[STEPS - 1] - clock.began[WARM - 1]
    return {"step_s": round(seconds / (STEPS - WARM), 3), "peak_gib": clock.told()["peak_gib"]}
