"""What a check looked at last, and where a module has to be for a check after the fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import lightning.pytorch as pl
from torch import Tensor, nn

from lightning_unlearn.runtime import checksum, on_every_rank

_AVERAGING = {"WeightAveraging", "StochasticWeightAveraging"}


@dataclass(frozen=True)
class Look:
    """A check that was made, to its end.

    Args:
        step: Optimizer step of the fit; -1 before the first look.
        weights: A hash of the weights, by rank.
        values: What it gave to log.
    """

    step: int = -1
    weights: list[int] = field(default_factory=list)
    values: Mapping[str, float] = field(default_factory=dict)

    def is_of(self, step: int, module: nn.Module) -> bool:
        """Whether it was made at ``step``, of the weights that ``module`` has now. Collective."""
        return step == self.step and self.weights == weights_on_every_rank(module)


def weights_on_every_rank(module: nn.Module) -> list[int]:
    """A hash of the weights, by rank, so that all ranks agree whether they have changed. Collective."""
    return [int(each) for each in on_every_rank(checksum(module))]


def floats(values: Mapping[str, Tensor]) -> dict[str, float]:
    """The values as plain numbers."""
    return {key: float(value) for key, value in values.items()}


def is_averaging(callback: pl.Callback) -> bool:
    """Whether it puts averaged weights into the module when training ends."""
    return bool(_AVERAGING & {kind.__name__ for kind in type(callback).__mro__})


def weights_will_change(trainer: pl.Trainer, check: pl.Callback) -> bool:
    """Whether a callback is yet to change the weights when training ends: averages, or an edit behind ``check``."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    behind = callbacks[callbacks.index(check) + 1 :] if check in callbacks else []
    return any(map(is_averaging, callbacks)) or any(getattr(c, "changes_weights_at_end", False) for c in behind)


@contextmanager
def on_its_device(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[None]:
    """Move the module to the device of the fit, and back: some strategies put it on the CPU when the fit ends."""
    before, device = pl_module.device, trainer.strategy.root_device
    if before == device:
        yield
        return
    pl_module.to(device)
    try:
        yield
    finally:
        pl_module.to(before)
