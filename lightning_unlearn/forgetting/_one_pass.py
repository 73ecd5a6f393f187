from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.engine import (
    GradientEngine,
    Left,
    SharedPass,
    left_by,
    random_numbers_kept,
)
from lightning_unlearn.forgetting._forget_batches import ForgetBatches, NumberedBatch
from lightning_unlearn.forgetting._forget_loss import ForgetLoss
from lightning_unlearn.forgetting._old_gradient import is_lightnings
from lightning_unlearn.forgetting._passes import Passes
from lightning_unlearn.prediction import Likelihood
from lightning_unlearn.readouts import (
    PackedCausalLMReadout,
    Readout,
    is_packed_exactly,
    join_rows,
    may_join,
    split_rows,
)
from lightning_unlearn.runtime import local, random_states_now, remember_random_states, unnoticed

_LOOK = ("on_before_backward", "on_after_backward", "on_before_optimizer_step", "backward")


class OnePass(SharedPass):
    """Reads a forget micro-batch in the pass of a retain micro-batch, where the gradient is that of two passes.

    The module's training step asks for it (:func:`~lightning_unlearn.engine.taken_pass`). It gives the retain loss back by
    its value, and lets backward be that of ``retain + weight * forget``: accumulation, reduction over ranks and sharding
    are those of the fit. What is not joined waits, and is run by itself before the optimizer step.

    The first micro-batch of a fit is read alone, and measured: what it keeps for backward, whether it draws random numbers
    or writes to buffers. Draws would be other ones in one pass than in two, and so these networks are never joined.

    Args:
        engine: Of the fit.
        batches: The forget data.
        loss: Gives the forget loss.
        weight: Factor on the forget gradient.
        passes: Decides by size.
    """

    def __init__(
        self,
        engine: GradientEngine,
        batches: ForgetBatches,
        loss: Callable[[], ForgetLoss],
        weight: float,
        passes: Passes,
    ) -> None:
        self._engine, self._batches, self._loss = engine, batches, loss
        self._weight, self._passes = weight, passes
        self._waiting: list[NumberedBatch] = []
        self._losses: list[Tensor] = []
        self._read_along: Tensor | None = None
        self._bytes_per_token: float | None = None  # `None` before the first reading
        self._is_still, self._is_asked = True, True

    @property
    def is_possible(self) -> bool:
        """Whether the next training step may read a forget micro-batch along."""
        # Infinities under a gradient scaler: a pass of its own is repeated at another scale, and loses no step.
        return self._engine.kind in ("single", "ddp", "fsdp2") and self._engine.scaler() is None

    def take(self) -> tuple[list[Tensor], list[NumberedBatch]]:
        """Losses of the micro-batches of this step that were joined, and those that still have to be run."""
        losses, waiting = self._losses, self._waiting
        self._losses, self._waiting = [], []
        return losses, [*waiting, *self._batches.take()]

    def pass_over(self) -> None:
        """Take none in this step. The gradients of those that were joined are dropped with the fit's."""
        self._losses, self._waiting = [], []
        self._batches.pass_over()

    def state_dict(self) -> dict[str, Any]:
        """What the first reading has shown: measured anew, a resumed fit would take one step in two passes."""
        if self._bytes_per_token is None:
            return {}
        return {"bytes_per_token": self._bytes_per_token, "is_still": self._is_still}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what was measured before."""
        self._bytes_per_token, self._is_still = state["bytes_per_token"], state["is_still"]
        self._is_asked = False  # perhaps in another process: what was found of packing is not known here

    @override
    def read(self, readout: Readout, network: nn.Module, batch: Any) -> Likelihood:
        self._waiting += self._batches.take()
        if not self._is_asked:
            self._is_asked = True
            with unnoticed(network):
                readout(network, batch)
        if self._bytes_per_token is None:
            prediction, left = left_by(network, lambda: readout(network, batch))
            self._measure(left, batch)
            return prediction
        if not self._serves(readout, network, batch):
            return readout(network, batch)
        return self._joined(readout, network, batch)

    @override
    def carry(self, loss: Tensor) -> Tensor:
        forget, self._read_along = self._read_along, None
        if forget is None:
            return loss
        self._losses.append(forget.detach().float())
        carried: Tensor = _Carried.apply(loss, forget, self._weight)  # type: ignore[no-untyped-call]
        return carried

    def _joined(self, readout: Readout, network: nn.Module, batch: Any) -> Likelihood:
        numbered, loss = self._waiting[-1], self._loss()
        with random_numbers_kept(), self._batches.opened(numbered) as forget:
            original = loss.original(forget)
        put_back, before = remember_random_states(), random_states_now()
        both: Any = readout(network, join_rows(forget, batch))
        if random_states_now() != before:  # dropout was switched on since the first reading
            self._is_still = False
            put_back()
            return readout(network, batch)
        self._waiting.pop()
        student, retain = split_rows(both, len(forget["labels"]))
        self._batches.saw_prediction(student)
        # Objectives may draw, too: as in a pass of its own, from the micro-batch's own numbers.
        with random_numbers_kept(), self._batches.opened(numbered):
            self._read_along = loss.of(student, original)
        return retain

    def _measure(self, left: Left, batch: Any) -> None:
        tokens = batch["labels"].numel() if may_join(batch, batch) else 0
        self._bytes_per_token = left.kept / tokens if tokens else 0.0
        self._is_still = bool(tokens) and not left.moved

    def _serves(self, readout: Readout, network: nn.Module, batch: Any) -> bool:
        own = self._loss().readout
        here = (
            self._is_still
            and isinstance(readout, PackedCausalLMReadout)
            and repr(readout) == repr(own)
            and may_join(batch, self._waiting[-1][1])
            and is_packed_exactly(network)
            and self._passes.join(
                activations=int(batch["labels"].numel() * (self._bytes_per_token or 0)), gradient=self._gradient_bytes()
            )
        )
        # Passes are collective: all ranks join, or none does.
        return self._engine.smallest(int(here)) == 1

    def _gradient_bytes(self) -> int:
        trained = (local(p) for p in self._engine.module.parameters() if p.requires_grad)
        return sum(p.numel() * p.element_size() for p in trained)


def retain_gradient_is_looked_at(trainer: pl.Trainer, module: pl.LightningModule, ours: pl.Callback) -> bool:
    """Whether a hook between backward and the merge would miss the retain gradient alone: a guard's, or the user's own."""
    others = [callback for callback in trainer.callbacks if callback is not ours]  # type: ignore[attr-defined]
    looks = [(other, hook) for other in others for hook in _LOOK[:3]]
    looks += [
        (module, hook) for hook in _LOOK if hook != "on_before_optimizer_step"
    ]  # the module's comes after the merge
    return any(not is_lightnings(getattr(who, hook)) for who, hook in looks)


class _Carried(torch.autograd.Function):
    """The first of two losses by its value, with the gradients of both."""

    @staticmethod
    @override
    def forward(ctx: Any, loss: Tensor, other: Tensor, weight: float) -> Tensor:
        ctx.weight, ctx.dtype = weight, other.dtype
        return loss.clone()

    @staticmethod
    @override
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        return grad, (grad * ctx.weight).to(ctx.dtype), None
