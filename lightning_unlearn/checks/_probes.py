from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lightning_unlearn.data import in_order, loader_of, shared_batches
from lightning_unlearn.engine import GradientEngine, callbacks_of
from lightning_unlearn.forgetting import Unlearn, forget_source
from lightning_unlearn.metrics import KnowledgeMetric
from lightning_unlearn.readouts import Readout, choose_readout
from lightning_unlearn.runtime import eval_without_grad

_TRAINING_BATCHES = 32
"""Of a user's own training data, so many are looked at: a check should not take longer than an epoch."""


@dataclass(frozen=True)
class Probe:
    """Data on which knowledge is measured.

    Args:
        batches: This process's share: batch, number of each of its examples in the whole data, and whether it counts.
        entities: Whom or what each example of the whole data is about; empty if the data set does not say.
        content_hash: Of all examples, in order.
        size: Number of examples of the whole data.
    """

    batches: list[tuple[Any, Tensor, bool]]
    entities: list[str]
    content_hash: str
    size: int


def measuring_readout(trainer: pl.Trainer, pl_module: pl.LightningModule, given: Readout | None = None) -> Readout:
    """How the network is run to be measured: as given, as ``Unlearn`` was told, or as fits the module."""
    theirs = [c.readout for c in callbacks_of(trainer, Unlearn) if c.readout is not None]
    chosen = given or (theirs[0] if theirs else choose_readout(pl_module))
    return chosen.for_measuring()


def load_probe(loader: Iterable[Any], readout: Readout, rank: int, world_size: int) -> Probe:
    """Take this rank's share of ``loader``, each example of which is counted on one rank only."""
    keys: list[str] = []
    numbered = []
    for batch in in_order(loader):
        start = len(keys)
        keys += readout.keys(batch)
        numbered.append((batch, torch.arange(start, len(keys))))
    shared = [(batch, index, own) for (batch, index), own in shared_batches(numbered, rank, world_size)]
    entities = list(getattr(getattr(loader, "dataset", None), "entities", []))
    return Probe(shared, entities, blake2b("".join(keys).encode(), digest_size=8).hexdigest(), len(keys))


def find_probes(trainer: pl.Trainer, readout: Readout, given: Mapping[str, Any]) -> dict[str, Iterable[Any]]:
    """Loaders of the forget and retain probes: those given, else the datamodule's, else what the fit itself goes over."""
    loaders = {name: loader_of(source, name, trainer) for name, source in given.items() if source is not None}
    data: Any = getattr(trainer, "datamodule", None)
    if hasattr(data, "probe_dataloaders"):
        return {**data.probe_dataloaders(), **loaders}
    if "forget" not in loaders:
        loaders = {"forget": find_forget(trainer, "RecoveryCheck"), **loaders}
    if "retain" not in loaders and (batches := _first_training_batches(trainer, readout)):
        loaders["retain"] = batches
    return loaders


def _first_training_batches(trainer: pl.Trainer, readout: Readout) -> list[Any]:
    """The first batches of the user's own training data, if the readout can read them."""
    loader = _training_loader(trainer)
    if not isinstance(loader, Iterable) or isinstance(loader, Mapping):
        return []
    batches = list(islice(in_order(loader), _TRAINING_BATCHES))
    try:
        for batch in batches:
            readout.keys(batch)
    except (ValueError, TypeError, KeyError, AttributeError):
        return []
    return batches


def _training_loader(trainer: pl.Trainer) -> Any:
    data: Any = getattr(trainer, "datamodule", None)
    if trainer.train_dataloader is not None or data is None:
        return trainer.train_dataloader
    try:
        return data.train_dataloader()
    except Exception:  # whatever a user's datamodule does that was set up for validation only
        return None


def find_attack_data(trainer: pl.Trainer, given: Any) -> Iterable[Any]:
    """What an attacker has to relearn from."""
    if given is not None:
        return loader_of(given, "attack", trainer)
    data: Any = getattr(trainer, "datamodule", None)
    return data.attack_dataloader() if hasattr(data, "attack_dataloader") else find_forget(trainer, "RecoveryCheck")


def find_forget(trainer: pl.Trainer, who: str) -> Iterable[Any]:
    """The forget data ``Unlearn`` was given, or the datamodule's."""
    given = [c.forget for c in callbacks_of(trainer, Unlearn) if c.forget is not None]
    return forget_source(trainer, given[0] if given else None, who)[0]


@torch.no_grad()
def measure(
    engine: GradientEngine,
    network: nn.Module,
    readout: Readout,
    probe: Probe,
    metrics: Mapping[str, KnowledgeMetric],
) -> dict[str, Tensor]:
    """Score of each example by each metric, ``[n]`` float64 on the CPU, the same on every rank."""
    for metric in metrics.values():
        metric.reset()
        metric.to(next(network.parameters()).device)
    for batch, index, counts in probe.batches:
        with eval_without_grad(network):
            prediction = engine.forward(lambda b: readout(network, b), engine.to_device(batch))
        for metric in metrics.values() if counts else ():
            metric.update(prediction, index)
    return {name: _gathered(metric) for name, metric in metrics.items()}


def _gathered(metric: KnowledgeMetric) -> Tensor:
    with metric.sync_context(should_sync=metric._to_sync):
        return metric.scores().cpu()
