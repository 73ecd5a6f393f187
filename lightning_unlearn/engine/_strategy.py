from __future__ import annotations

from typing import Any, Literal

import lightning.pytorch as pl
from torch import nn

StrategyKind = Literal["single", "ddp", "fsdp1", "fsdp2", "deepspeed"]

_KINDS: dict[str, StrategyKind] = {
    "DeepSpeedStrategy": "deepspeed",
    "FSDPStrategy": "fsdp1",
    "ModelParallelStrategy": "fsdp2",
    "DDPStrategy": "ddp",
    "SingleDeviceStrategy": "single",
}


def strategy_kind(trainer: pl.Trainer) -> StrategyKind:
    """Which kind of strategy the trainer runs.

    Told by class name along the inheritance, since ``pytorch_lightning`` and ``lightning.pytorch`` have twins of each.

    Raises:
        NotImplementedError: If it is none that gradients can be taken under.
    """
    names = [cls.__name__ for cls in type(trainer.strategy).__mro__]
    for name in names:
        if name in _KINDS:
            return _KINDS[name]
    raise NotImplementedError(
        "The strategy should be single-device, DDP, FSDP or ModelParallelStrategy (FSDP2). "
        f"Found `{type(trainer.strategy).__name__}`. Use one of those."
    )


def process_group(trainer: pl.Trainer) -> Any:
    """The group FSDP1's flat parameters are sharded over; ``None`` elsewhere."""
    return trainer.strategy.model.process_group if strategy_kind(trainer) == "fsdp1" else None  # type: ignore[union-attr]


def is_fsdp1(module: nn.Module) -> bool:
    """Whether any part of ``module`` is wrapped by FSDP1."""
    return any(type(m).__name__ == "FullyShardedDataParallel" for m in module.modules())
