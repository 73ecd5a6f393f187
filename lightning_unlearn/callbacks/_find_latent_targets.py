from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.audits import read_states, stacked_states
from lightning_unlearn.data import DataSource, in_order, loader_of
from lightning_unlearn.engine import GradientEngine, decided_readout
from lightning_unlearn.forgetting import Unlearn, forget_source, objectives_in
from lightning_unlearn.functional.settings import check_between, check_whole
from lightning_unlearn.objectives import EncodedMatch
from lightning_unlearn.objectives.encoders import Encoder, find_targets


class FindLatentTargets(pl.Callback):
    """Show :class:`EncodedMatch` what known and unknown entities look like, once, in the original network.

    Its targets are found at the first batch, or before an edit, from the hidden states that the readout of
    :class:`Unlearn` reads. They are part of the state of ``Unlearn``: a resumed fit goes on with those of its checkpoint. A
    second ``fit`` finds them anew. Every process reads all of the data.

    Args:
        unknown: Questions about entities that the network does not know, by type of entity: made-up names, for instance.
        known: Questions about entities that it knows, of the same types. Defaults to the forget data, for one type.
        neutral: Ordinary text: latents that are active there are not chosen.
        count: How many latents of the known, and how many of the unknown, to choose. Defaults to all latents. Choose for
            sparse latents only.
        activity: The largest share of neutral states in which a chosen latent is active.

    Raises:
        ValueError: In ``setup``, if no :class:`Unlearn` forgets by :class:`EncodedMatch`, or the types differ.

    Example:
        >>> callback = FindLatentTargets(unknown={"people": {"class_path": "QuestionAnswerData"}})
    """

    def __init__(
        self,
        unknown: dict[str, DataSource],
        known: dict[str, DataSource] | None = None,
        neutral: DataSource | None = None,
        count: int | None = None,
        activity: float = 0.02,
    ) -> None:
        if count is not None:
            check_whole("count", count)
        check_between("activity", activity, 0, 1)
        _refuse_types(unknown, known)
        self.unknown, self.known, self.neutral = unknown, known, neutral
        self.count, self.activity = count, activity

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the objective, and forget the targets of an earlier fit."""
        if stage == "fit":
            for _, objective in objectives_in(trainer, EncodedMatch, type(self).__name__):
                objective.clear()

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Find the targets before the first step."""
        self.see_original(trainer, pl_module)

    def see_original(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the network for the original, unless the targets are known already. Collective."""
        for unlearn, objective in objectives_in(trainer, EncodedMatch, type(self).__name__):
            if not objective.is_aimed:
                look = _Latents(trainer, pl_module, unlearn, objective.encoder)
                forget = forget_source(trainer, unlearn.forget, type(self).__name__)[0]
                known = look.by_type(self.known) if self.known else {next(iter(self.unknown)): look.of_loader(forget)}
                neutral = None if self.neutral is None else look.of(self.neutral)
                objective.aim(find_targets(known, look.by_type(self.unknown), neutral, self.count, self.activity))


class _Latents:
    """Latents of all rows of a data source."""

    def __init__(self, trainer: pl.Trainer, module: pl.LightningModule, unlearn: Unlearn, encoder: Encoder) -> None:
        self._trainer, self._encoder = trainer, encoder
        self._engine = GradientEngine(module, trainer)
        self._readout = decided_readout(trainer, module, unlearn.readout)
        self._network = self._readout.find_network(module)

    def by_type(self, sources: Mapping[str, DataSource]) -> dict[str, Tensor]:
        return {name: self.of(source) for name, source in sources.items()}

    def of(self, source: DataSource) -> Tensor:
        return self.of_loader(loader_of(source, "latent target", self._trainer))

    def of_loader(self, loader: Any) -> Tensor:
        batches = in_order(loader)
        read = read_states(self._network, readout=self._readout, batches=batches, engine=self._engine)
        with torch.no_grad():
            latents: Tensor = self._encoder(stacked_states(read))
        return latents


def _refuse_types(unknown: Any, known: Any) -> None:
    types = sorted(unknown) if isinstance(unknown, Mapping) else []
    if not types or "class_path" in types:
        raise ValueError(
            "`unknown` should be a mapping from types of entities to data, such as `{'people': QuestionAnswerData(...)}`. "
            f"Found `unknown = {unknown!r}`."
        )
    if known is None and len(types) > 1:
        raise ValueError(
            f"`known` should have the types of `unknown`. Found {', '.join(types)} and no `known`; without it, the forget "
            "data are one type. Give `known`."
        )
    if known is not None and sorted(known) != types:
        raise ValueError(
            f"`known` should have the types of `unknown`, {', '.join(types)}. Found {', '.join(sorted(known))}."
        )
