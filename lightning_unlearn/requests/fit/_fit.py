from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable
from torch import nn
from typing_extensions import override

from lightning_unlearn.functional.settings import check_positive, check_whole
from lightning_unlearn.objectives import NPO, CrossEntropy, KLToReference, Objective, RandomLabel
from lightning_unlearn.projectors import Projector
from lightning_unlearn.requests._request import Request
from lightning_unlearn.requests._request_fit import Job
from lightning_unlearn.requests._trainer_fit import TrainerFit
from lightning_unlearn.requests.fit._embedding_gradient import embedding_gradient
from lightning_unlearn.requests.fit._losses import batches
from lightning_unlearn.requests.fit._redundancy import RedundancyFilter, told
from lightning_unlearn.requests.fit._thresholds import AtQuantiles, Thresholds
from lightning_unlearn.requests.fit._top_layers import only_top_layers

_LEVELS: tuple[tuple[Objective, Objective], ...] = (
    (RandomLabel(), CrossEntropy()),
    (NPO(beta=0.1), CrossEntropy()),
    (NPO(beta=0.1), KLToReference()),
)


class FIT(TrainerFit):
    """FIT for each request: leave out what was asked for before, choose the objective, train the layers that matter.

    1. *Filter.* Rows that say what an earlier request said are not trained on: see :class:`RedundancyFilter`.
    2. *Importance.* By the gradient of the loss at the embedded tokens (:func:`embedding_gradient`), the objective is
       random labels, NPO, or NPO with the divergence from the original as retain loss. Where a level has no retain term of
       its own in FIT, the cross-entropy of retain data is kept here.
    3. *Targeted layers.* Of the blocks without which the forget loss moves most, attention and feed-forward layers are
       trained, and nothing else: see :func:`only_top_layers`.

    AdamW with betas 0.9 and 0.95 and decay 0.1; the rate rises over a tenth of the steps, and falls along a cosine to a
    tenth. What was chosen is in the ledger: ``dropped``, ``importance``, ``level``, ``layers``.

    Args:
        network: As in :class:`TrainerFit`.
        redundancy: The filter.
        thresholds: From which importance on the next objective is used: among the requests so far, or
            ``AtValues(6, 12)`` as published, for one model.
        layers: How many blocks are trained.
        lr: Highest rate.
        epochs: Passes over the rows of a request.
        batch_size: Rows per batch.
        retain_batch_size: As in :class:`TrainerFit`.
        projector: As in :class:`Unlearn`, such as ``WeightedSum(retain=10.0)``.
        trainer: As in :class:`TrainerFit`.

    Example:
        >>> from lightning_unlearn import TinyCausalLM
        >>> FIT(TinyCausalLM).settings()["thresholds"][:11]
        'AtQuantiles'

    References:
        Xu et al., `FIT <https://arxiv.org/abs/2601.21682>`_, 2026, and its code, but for its term called KL, which is a
        cross-entropy, and its gradients, which add up over chunks.
    """

    def __init__(
        self,
        network: Callable[[], nn.Module],
        *,
        redundancy: RedundancyFilter | None = None,
        thresholds: Thresholds | None = None,
        layers: int = 8,
        lr: float = 3e-5,
        epochs: int = 3,
        batch_size: int = 8,
        retain_batch_size: int | None = None,
        projector: Projector | None = None,
        trainer: Mapping[str, Any] | None = None,
    ) -> None:
        check_whole("layers", layers)
        check_positive("lr", lr)
        adamw = partial(torch.optim.AdamW, lr=lr, betas=(0.9, 0.95), weight_decay=0.1)
        super().__init__(
            network,
            NPO(beta=0.1),
            optimizer=adamw,
            epochs=epochs,
            batch_size=batch_size,
            retain_batch_size=retain_batch_size,
            projector=projector,
            trainer=trainer,
        )
        self.redundancy = RedundancyFilter() if redundancy is None else redundancy
        self.thresholds = AtQuantiles() if thresholds is None else thresholds
        self.layers, self.lr = layers, lr

    @override
    def forget_(self, job: Job) -> dict[str, Any]:
        kept, dropped = self.redundancy(job)
        job = replace(job, request=Request(job.request.id, kept))
        found = embedding_gradient(job.network, kept, job.encoding)
        before = [entry.figures["fit"]["importance"] for entry in job.done if "importance" in entry.figures["fit"]]
        level = self.thresholds.level(found, before)
        with only_top_layers(job.network, list(batches(kept, job.encoding)), self.layers) as layers:
            told_of_fit = self.fit_(job, *_LEVELS[level])
        return {**told_of_fit, "dropped": told(dropped), "importance": found, "level": level, "layers": layers}

    @override
    def scheduler_for(self, job: Job) -> LRSchedulerCallable:
        shape = partial(warm_cosine, total=self.steps(job))
        return lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, shape)

    @override
    def settings(self) -> dict[str, Any]:
        own = {"redundancy": repr(self.redundancy), "thresholds": repr(self.thresholds)}
        levels = [[repr(forget), repr(retain)] for forget, retain in _LEVELS]
        return {**super().settings(), **own, "objective": levels, "layers": self.layers, "lr": self.lr}


def warm_cosine(step: int, total: int) -> float:
    """The share of the highest rate: up over a tenth of the steps, then along a cosine down to a tenth.

    Example:
        >>> [round(warm_cosine(step, 20), 2) for step in (0, 1, 2, 11, 20)]
        [0.5, 1.0, 1.0, 0.55, 0.1]
    """
    warm = max(1, round(total / 10))
    if step < warm:
        return (step + 1) / warm
    share = min((step - warm) / max(total - warm, 1), 1.0)
    return 0.1 + 0.9 * (1 + math.cos(math.pi * share)) / 2
