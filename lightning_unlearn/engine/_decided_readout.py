from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary, ref

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_unlearn.data import first_batches
from lightning_unlearn.engine._gradients import GradientEngine
from lightning_unlearn.engine._readout_check import Compared, compared, unnoticed
from lightning_unlearn.readouts import Readout, TrainingStepReadout, choose_readout
from lightning_unlearn.runtime import on_every_rank, seeded

_BATCHES = 3

# By trainer: module, data, the readout that was given or `None`, and what was decided.
_decided: WeakKeyDictionary[pl.Trainer, list[tuple[Any, int, Readout | None, Readout]]] = WeakKeyDictionary()


def decided_readout(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    given: Readout | None = None,
    spare: Callable[[], Any] | None = None,
) -> Readout:
    """How the network of a fit is read: what everybody in the fit uses. Decided once, on the first training batches.

    A default is checked: its cross-entropy on a few examples has to be the loss of ``training_step``, up to a constant
    factor. If it is not, the user's own loss takes its place, with a line that says so. A readout that was given is kept;
    if it differs, a warning says by how much. All passes are in evaluation mode and leave no trace.

    Collective: every rank must call it, and all decide alike.

    Args:
        trainer: The trainer of the fit.
        module: Its module, on the device.
        given: What the user gave; ``None`` to choose.
        spare: Opens other data of the same kind, where no training batch can be had: outside of a fit, before it starts,
            or if the training data can be gone through only once.
    """
    data = id(trainer.fit_loop._data_source.instance)
    known = _decided.setdefault(trainer, [])
    for whose, source, asked, decision in known:
        if whose() is module and source == data and asked is given:
            return decision
    batches = _on_device(trainer, module, spare)
    decision = _decide(trainer, module, given, batches)
    if batches:  # without a batch nothing was checked: asked again later
        known.append((ref(module), data, given, decision))
    return decision


def _decide(trainer: pl.Trainer, module: pl.LightningModule, given: Readout | None, batches: Sequence[Any]) -> Readout:
    readout = choose_readout(module) if given is None else given
    if not batches:
        return readout
    # A module that brings a readout along trains by it, towards whatever it says: there is nothing to compare.
    if readout.gives_logits and not isinstance(getattr(module, "readout", None), Readout):
        readout = _checked(trainer, module, readout, batches, was_given=given is not None)
    return _settled(trainer, module, readout, batches[0])


def _checked(
    trainer: pl.Trainer, module: pl.LightningModule, readout: Readout, batches: Sequence[Any], *, was_given: bool
) -> Readout:
    found = compared(trainer, module, readout, batches)
    # Batches of the ranks may differ, and what is computed on them: one rank that disagrees is enough.
    verdicts: list[Compared] = [verdict for verdict in on_every_rank(found) if not verdict.agrees]
    if not verdicts:
        return readout
    if was_given:
        if verdicts[0].error is None:  # else it is meant for forget batches, which may be of another form
            rank_zero_warn(
                f"`{readout!r}` should compute what `training_step` does, up to a constant factor. Found that "
                f"{verdicts[0]}. It is used all the same, though it is not what you train on: `TrainingStepReadout()` is."
            )
        return readout
    rank_zero_info(
        f"What is forgotten is measured by the loss of your `training_step` (`TrainingStepReadout()`), since "
        f"`{readout!r}` does not fit: {verdicts[0]}. A report may have no verdict by a loss alone: give a `readout`."
    )
    return TrainingStepReadout()


def _settled(trainer: pl.Trainer, module: pl.LightningModule, readout: Readout, batch: Any) -> Readout:
    if readout.gives_logits:
        return readout
    network = readout.find_network(module)
    try:
        settled = unnoticed(trainer, module, lambda b: readout.settled(network, b), batch)
    except Exception:  # a step that needs what a later hook prepares: it is not asked any further
        settled = readout.for_mean()
    # All ranks have to give the same rows: if one cannot be asked per example, none is.
    answers = on_every_rank(settled.why_not_cached)
    return settled if len(set(answers)) == 1 else settled.for_mean()


def _on_device(trainer: pl.Trainer, module: pl.LightningModule, spare: Callable[[], Any] | None) -> list[Any]:
    engine = GradientEngine(module, trainer)
    try:
        with seeded(0):  # random augmentation of rows, and of batches on their way to the device
            batches = first_batches(_training_loader(trainer), _BATCHES)
            if not batches and spare is not None:
                batches = first_batches(spare(), _BATCHES)
            return [engine.to_device(batch) for batch in batches]
    except Exception:  # data of the user's that are not ready yet may raise anything: then nothing is checked
        return []


def _training_loader(trainer: pl.Trainer) -> Any:
    data: Any = getattr(trainer, "datamodule", None)
    if trainer.train_dataloader is not None or data is None or trainer.state.fn == TrainerFn.FITTING:
        return trainer.train_dataloader  # before a fit has opened it there is none, and it is not ours to open
    return data.train_dataloader()
