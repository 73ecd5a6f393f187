from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.audits import read_states
from lightning_unlearn.checks._probes import training_loader
from lightning_unlearn.data import in_order
from lightning_unlearn.engine import GradientEngine, callbacks_of, decided_readout, isolated
from lightning_unlearn.forgetting import ObjectiveInFit, Unlearn
from lightning_unlearn.objectives import PrototypeObjective
from lightning_unlearn.prediction import Prediction


class FindPrototypes(pl.Callback):
    """Show :class:`PrototypePush` and :class:`PrototypePull` the mean embedding of each class, once, in the original.

    They are found at the first batch, or before an edit: of an :class:`Unlearn` in its own forget data, of the ``retain`` of
    an :class:`UnlearningModule` in what the fit trains on. A resumed fit goes on with those of its checkpoint; a second
    ``fit`` finds them anew. Every process reads all of the data. Where a module retains by prototypes, set
    ``Trainer(num_sanity_val_steps=0)``: its loss is not known before training starts.

    A class with one example has that example as its prototype: nothing pushes it, since its gradient is exactly zero. A
    warning names such classes if most are.

    Raises:
        ValueError: In ``setup``, if the fit has no such objective.

    Example:
        >>> callback = FindPrototypes()  # Trainer(callbacks=[Unlearn(PrototypePush(bound=20.0), ...), callback])
    """

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the objectives, and forget the prototypes of an earlier fit."""
        if stage != "fit":
            return
        objectives = [*(part for part, _ in _of_unlearning(trainer)), *_of_module(pl_module)]
        if not objectives:
            raise ValueError(
                "`FindPrototypes` should find an `Unlearn` by `PrototypePush` or `PrototypePull`, or a module that retains "
                "by one. Found none. Add `Unlearn(PrototypePush(bound=...), readout=EmbeddingReadout())`, or leave it out."
            )
        for objective in objectives:
            objective.clear()

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Find them before the first step."""
        self.see_original(trainer, pl_module)

    def see_original(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the network for the original, unless prototypes are known already. Collective."""
        for objective, unlearn in _of_unlearning(trainer):
            if not objective.is_aimed:
                served = ObjectiveInFit(objective, unlearn, trainer, type(self).__name__)
                with isolated(trainer, pl_module):
                    seen = served.read(pl_module, served.forget())
                _aim(objective, seen, pl_module)
        for objective in _of_module(pl_module):
            if not objective.is_aimed:
                with isolated(trainer, pl_module):
                    seen = _read(trainer, pl_module)
                _aim(objective, seen, pl_module)  # not inside, where buffers of the module are put back


def _of_unlearning(trainer: pl.Trainer) -> list[tuple[PrototypeObjective, Unlearn]]:
    callbacks = callbacks_of(trainer, Unlearn)
    return [(part, c) for c in callbacks for part in c.objective.modules() if isinstance(part, PrototypeObjective)]


def _of_module(module: pl.LightningModule) -> Iterator[PrototypeObjective]:
    return (part for part in module.modules() if isinstance(part, PrototypeObjective))


def _read(trainer: pl.Trainer, module: pl.LightningModule) -> list[Prediction]:
    if (loader := training_loader(trainer)) is None:
        raise ValueError(
            "`FindPrototypes` should find what the fit trains on. Found no training data, or such as come only once. Give a "
            "`DataLoader`."
        )
    given = getattr(module, "retain_readout", None)
    readout = decided_readout(trainer, module, None) if given is None else given
    engine = GradientEngine(module, trainer)
    return read_states(readout.find_network(module), readout=readout, batches=in_order(loader), engine=engine)


def _aim(objective: PrototypeObjective, seen: list[Prediction], module: pl.LightningModule) -> None:
    labels = torch.cat([prediction.labels for prediction in seen])
    states = torch.cat([_features(prediction) for prediction in seen])
    classes, place, counts = labels.unique(return_inverse=True, return_counts=True)
    sums = states.new_zeros(len(classes), states.shape[1]).index_add_(0, place, states)
    if 2 * len(single := classes[counts == 1].tolist()) > len(classes):
        rank_zero_warn(
            f"A prototype should be the mean of several embeddings. Found one example of {len(single)} of {len(classes)} "
            f"classes, {single[0]} first: where an embedding is its own prototype, its gradient is zero."
        )
    objective.aim((sums / counts[:, None]).float().to(module.device), classes.to(module.device))


def _features(prediction: Prediction) -> Tensor:
    assert prediction.features is not None, "`read_states` has seen to it"
    return prediction.features.double()
