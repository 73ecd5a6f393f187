from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
import torch
from typing_extensions import override

from lightning_unlearn.data import DataSource, in_order, loader_of
from lightning_unlearn.forgetting import ObjectiveInFit, objectives_in
from lightning_unlearn.functional.logistic import probe_direction
from lightning_unlearn.functional.settings import check_positive, check_whole
from lightning_unlearn.objectives import ProbeAlignment
from lightning_unlearn.readouts import Readout


class RefitProbeDirections(pl.Callback):
    """Fit the probes along which :class:`ProbeAlignment` aligns: before the first step, and again every few steps.

    Each is a logistic regression, in one layer, that tells what must go from its companions. The network moves away from a
    probe quickly, so that an old one is no use. Directions depend on the network and the step alone: a resumed fit has those
    of an uninterrupted one. Every process reads the whole pool.

    Args:
        every_n_steps: How often they are fitted.
        pool: Pairs to fit on, from :class:`PairedData`. Defaults to the pairs that are aligned, as in the authors' code.
            Give others: on few pairs, a probe mostly sees what is accidental in them.
        c: Inverse weight of the penalty of the logistic regressions, positive.

    Raises:
        ValueError: In ``setup``, if no :class:`Unlearn` forgets by :class:`ProbeAlignment`; at the first step, if ``pool``
            has an example of the forget data.

    Example:
        >>> callback = RefitProbeDirections(every_n_steps=25)  # Trainer(callbacks=[Unlearn(ProbeAlignment()), callback])
    """

    def __init__(self, every_n_steps: int = 25, pool: DataSource | None = None, c: float = 1.0) -> None:
        check_whole("every_n_steps", every_n_steps)
        check_positive("c", c)
        self.every_n_steps, self.pool, self.c = every_n_steps, pool, c

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the objective, and have no directions of an earlier fit."""
        if stage == "fit":
            self._fitted_at = -1
            for served in objectives_in(trainer, ProbeAlignment, type(self).__name__):
                served.objective.clear()

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Fit, if it is time."""
        step = trainer.global_step
        # With accumulation there are several batches to a step.
        if step % self.every_n_steps or step == self._fitted_at:
            return
        self._fitted_at = step
        for served in objectives_in(trainer, ProbeAlignment, type(self).__name__):
            self._fit(served, pl_module)

    def _fit(self, served: ObjectiveInFit[ProbeAlignment], module: pl.LightningModule) -> None:
        objective = served.objective
        pairs = [objective.last_states(prediction) for prediction in served.read(module, self._pool(served, module))]
        forget = torch.cat([pair.forget for pair in pairs])
        companion = torch.cat([pair.companion for pair in pairs])
        layers = zip(forget.unbind(1), companion.unbind(1), strict=True)
        objective.align_along(torch.stack([probe_direction(m, c, self.c) for m, c in layers]).float())

    def _pool(self, served: ObjectiveInFit[ProbeAlignment], module: pl.LightningModule) -> Iterable[Any]:
        if self.pool is None:
            return served.forget()
        pool = loader_of(self.pool, "pool", served.trainer)
        if served.trainer.global_step == 0:
            _refuse_overlap(pool, served.forget(), served.readout(module))
        return pool


def _refuse_overlap(pool: Iterable[Any], forget: Iterable[Any], readout: Readout) -> None:
    keys = [{key for batch in in_order(loader) for key in readout.keys(batch)} for loader in (pool, forget)]
    if common := keys[0] & keys[1]:
        raise ValueError(
            f"`pool` should share no example with the forget data. Found {len(common)}. Split the pairs: some to "
            "align, some to fit probes on, and some, seen by neither, to judge by."
        )
