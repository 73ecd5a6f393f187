from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from robustness_parts._method import Method
from typing_extensions import override

GIB = 2**30


class Timed(Method):
    """A method whose fits are timed."""

    @override
    def callbacks(self, names: Any) -> list[Any]:
        return [*super().callbacks(names), self.described["spent"]]


def timed(method: Method, spent: Spent) -> Method:
    """The same, with a clock."""
    return Timed(method.name, {**method.described, "spent": spent})


class Spent(pl.Callback):
    """How long a fit took, and the most memory that was in use meanwhile.

    On a GPU that of tensors of this process; on a CPU all that is resident, where the system tells it.
    """

    def __init__(self) -> None:
        self.seconds, self.gib = 0.0, float("nan")

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._device = trainer.strategy.root_device
        _reset(self._device)
        self._start = time.monotonic()

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.seconds, self.gib = time.monotonic() - self._start, _peak(self._device)

    def told(self) -> dict[str, Any]:
        """As JSON has them."""
        return {"fit_s": round(self.seconds, 2), "peak_gib": round(self.gib, 3)}


def _reset(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak of resident memory starts anew


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    kilobytes = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)
    return float("nan") if kilobytes is None else kilobytes / 2**20
