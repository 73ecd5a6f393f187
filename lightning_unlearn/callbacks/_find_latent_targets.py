from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.audits import stacked_states
from lightning_unlearn.data import DataSource, loader_of
from lightning_unlearn.forgetting import ObjectiveInFit, objectives_in
from lightning_unlearn.functional.settings import check_between, check_whole
from lightning_unlearn.objectives import EncodedMatch
from lightning_unlearn.objectives.encoders import find_targets


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
        ValueError: If the types differ; in ``setup``, if no :class:`Unlearn` forgets by :class:`EncodedMatch`.

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
            for served in objectives_in(trainer, EncodedMatch, type(self).__name__):
                served.objective.clear()

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Find the targets before the first step."""
        self.see_original(trainer, pl_module)

    def see_original(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the network for the original, unless the targets are known already. Collective."""
        for served in objectives_in(trainer, EncodedMatch, type(self).__name__):
            if not served.objective.is_aimed:
                self._aim(served, pl_module)

    def _aim(self, served: ObjectiveInFit[EncodedMatch], module: pl.LightningModule) -> None:
        def latents_of(loader: Iterable[Any]) -> Tensor:
            with torch.no_grad():
                latents: Tensor = served.objective.encoder(stacked_states(served.read(module, loader)))
            return latents

        def opened(sources: Mapping[str, DataSource]) -> dict[str, Iterable[Any]]:
            return {name: loader_of(source, name, served.trainer) for name, source in sources.items()}

        loaders = opened(self.known) if self.known else {next(iter(self.unknown)): served.forget()}
        known = {name: latents_of(loader) for name, loader in loaders.items()}
        unknown = {name: latents_of(loader) for name, loader in opened(self.unknown).items()}
        neutral = None if self.neutral is None else latents_of(loader_of(self.neutral, "neutral", served.trainer))
        served.objective.aim(find_targets(known, unknown, neutral, self.count, self.activity))


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
