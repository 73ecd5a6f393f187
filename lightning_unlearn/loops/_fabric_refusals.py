"""What is refused in loops with Fabric, by name and with the way out."""

from __future__ import annotations

from typing import Any

from lightning_unlearn.engine import kind_of_strategy
from lightning_unlearn.functional.settings import check_whole

_PRECISIONS = ("32-true", "bf16-mixed")


def refuse_fabric(fabric: Any, model: Any, optimizer: Any, accumulate_grad_batches: int) -> None:
    """Refuse what was not tried.

    Raises:
        TypeError: If ``model`` or ``optimizer`` have not been set up.
        NotImplementedError: Under other strategies than one process and DDP, in fp16, and of a compiled model.
    """
    check_whole("accumulate_grad_batches", accumulate_grad_batches)
    for name, given, attribute in (("model", model, "_forward_module"), ("optimizer", optimizer, "optimizer")):
        if not hasattr(given, attribute):
            raise TypeError(
                f"`{name}` should be what `fabric.setup(model, optimizer)` returned. Found `{type(given).__name__}`. "
                "Call `model, optimizer = fabric.setup(model, optimizer)` first."
            )
    if any(type(part).__name__ == "OptimizedModule" for part in (model._forward_module, model.module)):
        raise NotImplementedError(
            "`model` should be one that is not compiled. Found `torch.compile`, which was not tried here. Set up the plain "
            "module, or use `lightning.pytorch.Trainer`."
        )
    strategy, precision = fabric.strategy, fabric.strategy.precision.precision
    if kind_of_strategy(strategy) not in ("single", "ddp"):
        raise NotImplementedError(
            f"`FabricLoop` should run in one process or with DDP. Found `{type(strategy).__name__}`, which was not tried. "
            "Use `Fabric(strategy='ddp')`, or `lightning.pytorch.Trainer` with FSDP2."
        )
    if precision not in _PRECISIONS:
        raise NotImplementedError(
            f"`FabricLoop` should run in `32-true` or `bf16-mixed`. Found `precision = {precision!r}`, in which gradients "
            "are still scaled when they are merged, or which was not tried. Use `'bf16-mixed'`, or "
            "`lightning.pytorch.Trainer`, which unscales them before."
        )
