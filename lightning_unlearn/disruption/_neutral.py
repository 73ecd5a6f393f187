from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from lightning_unlearn.data import empty_set, first_batches, in_order, shared_batches
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.runtime import seeded


def neutral_batches(
    loader: Iterable[Any], engine: GradientEngine, *, most: int, rank: int = 0, world_size: int = 1
) -> list[tuple[Any, bool]]:
    """This rank's share of the first batches of ``loader``, on the device, and whether each counts here.

    The same in every run: in the order of the data, and with seeded random augmentation.

    Args:
        loader: Batches; a ``DataLoader`` is gone through in order, whatever its sampler.
        engine: Moves them to the device.
        most: How many to take.
        rank: Number of this process.
        world_size: Number of processes that share them.

    Raises:
        ValueError: If there are none.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> neutral_batches("abc", GradientEngine(nn.Linear(1, 1)), most=2)
        [('a', True), ('b', True)]
    """
    with seeded(0):
        first = list(islice(in_order(loader), most))
        if not first:
            raise ValueError(empty_set("neutral data"))
        return [(engine.to_device(batch), own) for batch, own in shared_batches(first, rank, world_size)]


def spare_neutral(trainer: pl.Trainer, most: int) -> Iterable[Any]:
    """What takes the place of neutral data if there are none: the datamodule's retain probe, or what the fit trains on."""
    data: Any = getattr(trainer, "datamodule", None)
    probes = data.probe_dataloaders() if hasattr(data, "probe_dataloaders") else {}
    what = "the retain probe" if "retain" in probes else "the first batches of what the fit trains on"
    rank_zero_info(
        f"`DisruptionBudget` measures on {what}, which the fit keeps as it is: other text may be disrupted more. Give text "
        "of another kind as `DisruptionBudget(neutral=...)`."
    )
    return probes["retain"] if "retain" in probes else first_batches(trainer.train_dataloader, most)
