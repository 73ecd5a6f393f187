from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from typing_extensions import override

from lightning_unlearn.data import in_order
from lightning_unlearn.engine import GradientEngine, isolated
from lightning_unlearn.forgetting import ObjectiveInFit, objectives_in
from lightning_unlearn.objectives import ImportanceScheduled
from lightning_unlearn.readouts import PairedPrediction, halves_of_rows
from lightning_unlearn.runtime import eval_without_grad


class MeasureImportance(pl.Callback):
    """Find the thresholds of :class:`ImportanceScheduled`: quantiles over the forget data, once, in the original network.

    They are found at the first batch, or before an edit, and are part of the state of ``Unlearn``: a resumed fit goes on
    with those of its checkpoint, a second ``fit`` finds them anew. Every process reads all forget data: one forward pass.

    Raises:
        ValueError: In ``setup``, if no :class:`Unlearn` forgets by :class:`ImportanceScheduled` without thresholds.

    Example:
        >>> measure = MeasureImportance()  # Trainer(callbacks=[Unlearn(ImportanceScheduled([...])), measure])
    """

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the objective, and forget the thresholds of an earlier fit."""
        if stage != "fit":
            return
        served = objectives_in(trainer, ImportanceScheduled, type(self).__name__)
        if all(one.objective.thresholds is not None for one in served):
            raise ValueError(
                "`MeasureImportance` should find an `ImportanceScheduled` without thresholds. Found `thresholds = "
                f"{served[0].objective.thresholds}`. Leave one of the two out."
            )
        for one in served:
            one.objective.clear()

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Measure before the first step."""
        self.see_original(trainer, pl_module)

    def see_original(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the network for the original, unless the thresholds are known already. Collective."""
        for served in objectives_in(trainer, ImportanceScheduled, type(self).__name__):
            if not served.objective.is_aimed:
                self._aim(served, trainer, pl_module)

    def _aim(
        self, served: ObjectiveInFit[ImportanceScheduled], trainer: pl.Trainer, module: pl.LightningModule
    ) -> None:
        readout, engine, found = served.readout(module), GradientEngine(module, trainer), []
        network = readout.find_network(module)
        with isolated(trainer, module), eval_without_grad(network):
            for batch in in_order(served.forget()):
                likelihood = engine.forward(lambda b: readout(network, b), engine.to_device(batch))
                if isinstance(likelihood, PairedPrediction):  # companions go where their halves go
                    likelihood = halves_of_rows(likelihood).forget
                found.append(served.objective.importance(likelihood)[likelihood.supervised()])
        served.objective.aim(torch.cat(found).cpu())
