"""What its owner adds to unlearning: one part of each kind, and all that is known of `lightning_unlearn` is public."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.attacks import Attack
from lightning_unlearn.audits import Audit
from lightning_unlearn.data import Companion, EpochRows, Order, Probe, QuestionAnswer, Record, Records, RowSet
from lightning_unlearn.edits import Edit
from lightning_unlearn.metrics import KnowledgeMetric
from lightning_unlearn.objectives import Objective
from lightning_unlearn.observation import Observation
from lightning_unlearn.projectors import Projector
from lightning_unlearn.selectors import Selector, selectable
from lightning_unlearn.transforms import GradientTransform, Stage, StepTransform


class Confidence(Objective):
    """Mean of the largest probability, in percent: forgetting makes unsure."""

    def forward(self, student: Any, reference: Any = None) -> Tensor:
        return 100 * student.logits.softmax(-1).amax(-1).mean()


class Signs(GradientTransform):
    """Of each gradient the signs."""

    def of(self, gradient: Tensor, param: Tensor) -> Tensor:
        return gradient.sign()


class Shrunk(StepTransform):
    """Some share of each step."""

    stage, prefix = Stage.PROXIMAL, "shrunk"

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    @torch.no_grad()
    def after(self, step: Any) -> None:
        for p in step.params:
            p.copy_(step.before(p).lerp(p, self.share))


class Vectors(Selector):
    """The fewer axes, the higher the score."""

    def scores(self, network: nn.Module, **kwargs: Any) -> dict[str, Tensor]:
        return {name: torch.tensor(-float(p.dim())) for name, p in selectable(network).items()}


class Erase(Edit):
    """All weights are zero."""

    def new_values(self, network: nn.Module, **kwargs: Any) -> Iterator[tuple[str, Tensor]]:
        for name, p in network.named_parameters():
            yield name, torch.zeros_like(p)


class Deafen(Attack):
    """All weights are zero, for the time of the attack."""

    family, unit = "deafen", "times"

    @contextmanager
    def __call__(self, network: nn.Module, **kwargs: Any) -> Iterator[Iterator[int]]:
        saved = [p.detach().clone() for p in network.parameters()]
        try:
            with torch.no_grad():
                for p in network.parameters():
                    p.zero_()
            yield iter([3])
        finally:
            with torch.no_grad():
                for p, value in zip(network.parameters(), saved, strict=True):
                    p.copy_(value)


class Length(Audit):
    """Length of all weights as one vector."""

    def __call__(self, network: nn.Module, *, probes: Mapping[str, Probe], **kwargs: Any) -> list[Observation]:
        length = float(torch.cat([p.detach().flatten() for p in network.parameters()]).norm())
        return [Observation(metric="length", split=split, value=length) for split in probes]

    def definitions(self) -> dict[str, str]:
        return {"length": "Length of the weights."}


class Correct(KnowledgeMetric):
    """Whether the answer is right."""

    in_words = "Whether the answer is right."

    def scores_of(self, prediction: Any) -> Tensor:
        return (prediction.logits.argmax(-1) == prediction.labels).float()


class OneRow(Order):
    """The same row, again and again.

    Args:
        row: Its number.
    """

    def __init__(self, row: int) -> None:
        self.row = row

    def rows(self, forget: RowSet, retain: RowSet, *, seed: int, epoch: int) -> EpochRows:
        return EpochRows([self.row] * len(forget), [self.row] * len(retain))


class Capitals(Records):
    """A benchmark set of its own."""

    def read(self) -> list[dict[str, str]]:
        cities = {"Peru": "Lima", "Chad": "N'Djamena", "Oman": "Muscat", "Fiji": "Suva"}
        return [{"question": f"Capital of {land}?", "answer": city, "land": land} for land, city in cities.items()]


class Silence(Companion):
    """Nothing to say."""

    def candidates(self, record: Record, row: QuestionAnswer) -> Sequence[QuestionAnswer]:
        return [replace(row, answer="...")]


class Neither(Projector):
    """Neither of the gradients."""

    def forward(self, gramian: Tensor) -> Tensor:
        return torch.zeros_like(gramian[0])
