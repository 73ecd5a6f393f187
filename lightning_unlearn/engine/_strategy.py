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
    """The kind of strategy that the trainer runs.

    Recognised by class name along the inheritance: ``pytorch_lightning`` and ``lightning.pytorch`` both have each class.

    Raises:
        NotImplementedError: If extra gradients cannot be computed under it.
    """
    if (kind := kind_of_strategy(trainer.strategy)) is not None:
        return kind
    raise NotImplementedError(
        "The strategy should be single-device, DDP, FSDP or ModelParallelStrategy (FSDP2). "
        f"Found `{type(trainer.strategy).__name__}`. Use one of those."
    )


def kind_of_strategy(strategy: Any) -> StrategyKind | None:
    """The kind of a strategy of Lightning's trainer or of Fabric; ``None`` if it is another one."""
    # The most derived class first: a user's subclass counts as the nearest strategy it inherits from.
    names = [cls.__name__ for cls in type(strategy).__mro__]
    return next((_KINDS[name] for name in names if name in _KINDS), None)


def process_group(trainer: pl.Trainer) -> Any:
    """The process group of FSDP1's flat parameters; ``None`` under other strategies, where a ``DTensor`` knows its own."""
    return trainer.strategy.model.process_group if strategy_kind(trainer) == "fsdp1" else None  # type: ignore[union-attr]


def is_fsdp1(module: nn.Module) -> bool:
    """Whether any part of ``module`` is wrapped by FSDP1."""
    return any(type(m).__name__ == "FullyShardedDataParallel" for m in module.modules())
