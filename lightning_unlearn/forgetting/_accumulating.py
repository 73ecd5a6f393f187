from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.engine import GradientEngine, is_joined, taken_pass
from lightning_unlearn.forgetting._ending import EndingCallback
from lightning_unlearn.forgetting._merger import Merger
from lightning_unlearn.functional.gradient_places import Place, added_in_place, takes_in_place


class AccumulatingCallback(EndingCallback):
    """What ``Unlearn`` does around the fit's own backward pass: a micro-batch adds to the gradient of those before it.

    Autograd computes each gradient beside the one that is there, and then adds it. Those of the output head and the
    embedding, by far the largest, are added where they are computed; on one device, and where no hook waits for them.
    """

    _engine: GradientEngine
    _merger: Merger
    _adding: ExitStack

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Where Lightning begins a gradient, so do we: if an epoch was cut short, micro-batches are left without a step."""
        if batch_idx % trainer.accumulate_grad_batches == 0 and not is_joined(trainer):
            self._pass_over()

    @override
    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Say where gradients are, of micro-batches before this one."""
        taken_pass(pl_module)  # a training step that does not ask for a pass has left the offer
        self._adding = ExitStack()
        if self._engine.kind == "single":
            params = [p for group in trainer.optimizers[0].param_groups for p in group["params"]]
            places = {p: Place(p.grad) for p in params if p.grad is not None and takes_in_place(p, p.grad)}
            self._adding.enter_context(added_in_place(places))

    @override
    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gradients are autograd's again."""
        self._adding.close()

    def _pass_over(self) -> None:
        """Micro-batches until now are for no step of ours."""
        self._one_pass.pass_over()
        self._vantage.pass_over()
        self._merger.pass_over()

    @override
    def _end(self, trainer: pl.Trainer) -> None:
        super()._end(trainer)
        # After an error in the training step, or in the backward pass.
        if trainer.lightning_module is not None:  # there is none yet if the fit has failed at once
            taken_pass(trainer.lightning_module)
        if hasattr(self, "_adding"):
            self._adding.close()
