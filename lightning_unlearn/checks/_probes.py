"""Finding in a trainer what a check needs: the readout and the probes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from lightning_unlearn.data import DataSource, Probe, in_order, loader_of, one_loader, rows_of
from lightning_unlearn.engine import callbacks_of, decided_readout
from lightning_unlearn.forgetting import Unlearn, forget_source
from lightning_unlearn.readouts import Readout

_TRAINING_BATCHES = 32
"""The most batches of a user's own training data to observe: a check should not take as long as an epoch."""


def measuring_readout(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    given: Readout | None = None,
    probes: Mapping[str, DataSource] | None = None,
) -> Readout:
    """The readout for measuring: ``given``, else that of an ``Unlearn``, else what the fit has decided on."""
    theirs = [c.readout for c in callbacks_of(trainer, Unlearn) if c.readout is not None]
    given = given or (theirs[0] if theirs else None)
    return decided_readout(trainer, pl_module, given, lambda: _any_probe(trainer, probes or {})).for_measuring()


def _any_probe(trainer: pl.Trainer, given: Mapping[str, DataSource]) -> Any:
    for name, source in given.items():
        return loader_of(source, name, trainer)
    return find_forget(trainer, "RecoveryCheck")


def find_probes(trainer: pl.Trainer, readout: Readout, given: Mapping[str, DataSource]) -> dict[str, Iterable[Any]]:
    """Loaders by split: those ``given``; for the others the datamodule's probes, else the data of the fit itself."""
    loaders = {name: loader_of(source, name, trainer) for name, source in given.items()}
    data: Any = getattr(trainer, "datamodule", None)
    if hasattr(data, "probe_dataloaders"):
        return {**data.probe_dataloaders(), **loaders}
    if "forget" not in loaders:
        loaders = {"forget": find_forget(trainer, "RecoveryCheck"), **loaders}
    if "retain" not in loaders and (batches := _first_training_batches(trainer, readout)):
        loaders["retain"] = batches
    return loaders


def about_probes(probes: Mapping[str, Probe]) -> dict[str, dict[str, Any]]:
    """Size, entities and content hash of each probe."""
    return {
        split: {"n": probe.size, "entities": len(set(probe.entities)), "content_hash": probe.content_hash}
        for split, probe in probes.items()
    }


def warn_of_other_probes(before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]) -> None:
    """Say so if a resumed run asks other questions than the interrupted one."""
    changed = [s for s, about in before.items() if s in now and about["content_hash"] != now[s]["content_hash"]]
    if changed:
        rank_zero_warn(
            "A resumed run should observe the same probes as before. Found other examples in "
            f"`{'`, `'.join(changed)}`: numbers from before and from now are not of the same questions. Give the former "
            "data as `RecoveryCheck(probes={...})`, or start a new run."
        )


class _FirstBatches(list[Any]):
    """Batches, and a data set that names the entity of each example in them, as a loader's may."""

    def __init__(self, batches: Iterable[Any], entities: list[str]) -> None:
        super().__init__(batches)
        self.dataset = SimpleNamespace(entities=entities)


def _first_training_batches(trainer: pl.Trainer, readout: Readout) -> list[Any]:
    """The first batches of the user's own training data, if the readout can read them; else none."""
    # In order and without shuffling: every check must ask the same examples.
    if (loader := training_loader(trainer)) is None:
        return []
    ordered = in_order(loader)
    batches = list(islice(ordered, _TRAINING_BATCHES))
    try:
        count = sum(len(readout.keys(batch)) for batch in batches)
    except (ValueError, TypeError, KeyError, AttributeError):
        return []
    named = getattr(getattr(ordered, "dataset", None), "entities", []) if rows_of(loader) is not None else []
    return _FirstBatches(batches, list(named)[:count])


def training_loader(trainer: pl.Trainer) -> Iterable[Any] | None:
    """What the fit trains on, gone through apart from the fit; ``None`` if it is not there, or only once."""
    data: Any = getattr(trainer, "datamodule", None)
    if (given := trainer.train_dataloader) is None and data is not None:
        try:
            given = data.train_dataloader()
        except Exception:  # the user's datamodule may be set up for validation only, and raise anything
            return None
    elif given is not None and not isinstance(given, DataLoader):
        if any(isinstance(part, Iterator) for part in tree_leaves(given)):
            return None  # its batches would be missing from the fit
        # Of several loaders `train_dataloader` does not tell how they are combined.
        given = trainer.fit_loop._combined_loader
    return one_loader(given)


def find_retain(trainer: pl.Trainer) -> Iterable[Any]:
    """What the fit trains on, for attacks that need retain data."""
    if (loader := training_loader(trainer)) is None:
        raise ValueError(
            "An attack that needs retain data should find training data that can be gone through again. Found "
            f"`{type(trainer.train_dataloader).__name__}`. Give a `DataLoader`, or leave the attack out."
        )
    return loader


def find_forget(trainer: pl.Trainer, who: str) -> Iterable[Any]:
    """The forget data of an ``Unlearn``, else the datamodule's."""
    given = [c.forget for c in callbacks_of(trainer, Unlearn) if c.forget is not None]
    return forget_source(trainer, given[0] if given else None, who)[0]
