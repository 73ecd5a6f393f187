from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.engine import CapturedRows, GradientEngine, sum_by_scope
from lightning_unlearn.functional import step
from lightning_unlearn.functional.sharding import local
from lightning_unlearn.guards import Direction, Geometry, Rule


@dataclass(frozen=True)
class Outcome:
    """What became of a step; the names are those it is logged by.

    Args:
        active: Number of constraints at work.
        kept: Length of the applied step over that of the proposed one.
        cosine: By how much the applied step breaks the rule, over the length of a direction and of the longer step.
        retain_before: Change of this step's retain loss by the proposed step, to first order.
        retain_after: The same, by the applied one.
        is_optimal: Whether the applied step is the nearest safe one.
    """

    active: int
    kept: float
    cosine: float
    retain_before: float
    retain_after: float
    is_optimal: bool


class GuardedStep:
    """The weights before a step, and what it must not harm.

    Args:
        engine: Says how parameters are sharded.
        optimizer: Whose step it is. Parameters that have no learning rate, or no gradient, are left out.
        directions: Gradients to protect, those of this step first.
        new: Number of those of this step.
        scopes: Number of the scope of each parameter.
    """

    def __init__(
        self,
        engine: GradientEngine,
        optimizer: torch.optim.Optimizer,
        directions: Sequence[Direction],
        new: int,
        scopes: Sequence[int],
    ) -> None:
        self._engine, self._optimizer, self._new = engine, optimizer, new
        every = [(p, group) for group in optimizer.param_groups for p in group["params"]]
        moving = [i for i, (p, group) in enumerate(every) if p.requires_grad and float(group["lr"]) != 0]
        self._params: list[Tensor] = [every[i][0] for i in moving]
        self._settings: list[dict[str, Any]] = [every[i][1] for i in moving]
        self._scopes = [scopes[i] for i in moving]
        self._count = 1 + max(scopes)
        self._directions = _by_parameter(directions, moving)
        self._before = [local(p).detach().clone() for p in self._params]

    @torch.no_grad()
    def correct_(self, rule: Rule, geometry: Geometry) -> Outcome:
        """Replace the step that was taken by the nearest one that ``rule`` allows."""
        if not self._new or not self._params:
            return self._undone(rule)
        proposed = self._products(geometry)
        correction = rule.multipliers(proposed.gramian, proposed.along)
        if not bool(correction.violation.isfinite().all()):
            return self._undone(rule)
        active = int(correction.multipliers.count_nonzero())
        if active:
            self._take_out_(correction.multipliers, geometry)
        applied = self._products(geometry) if active else proposed
        return Outcome(
            active=active,
            kept=_length_ratio(applied, proposed),
            cosine=_breach(rule, applied, proposed),
            retain_before=float(proposed.along[:, : self._new].sum()),
            retain_after=float(applied.along[:, : self._new].sum()),
            is_optimal=bool(correction.exact.all()),
        )

    def _products(self, geometry: Geometry) -> step.StepProducts:
        metrics = self._inverse_metrics(geometry)
        parts = (
            step.step_products(local(p), before, directions, metric).packed
            for p, before, directions, metric in zip(self._params, self._before, self._directions, metrics, strict=True)
        )
        return step.StepProducts.unpacked(sum_by_scope(self._engine, parts, self._params, self._scopes, self._count))

    def _take_out_(self, multipliers: Tensor, geometry: Geometry) -> None:
        touched = multipliers.ne(0).any(-1).tolist()
        metrics = self._inverse_metrics(geometry)
        for p, scope, directions, metric in zip(self._params, self._scopes, self._directions, metrics, strict=True):
            if touched[scope]:
                step.correct_step_(local(p), directions, multipliers[scope], metric)

    def _inverse_metrics(self, geometry: Geometry) -> Iterator[Tensor | None]:
        """One at a time: of a diagonal metric, all together would be one more copy of the model."""
        for p, settings in zip(self._params, self._settings, strict=True):
            yield geometry.inverse_metric(self._optimizer, p, settings)

    def _undone(self, rule: Rule) -> Outcome:
        """Nothing is known of what this step does: it is not taken."""
        if rule.corrects:
            for p, before in zip(self._params, self._before, strict=True):
                local(p).copy_(before)
        unknown = float("nan")
        return Outcome(0, 0.0 if rule.corrects else 1.0, 0.0, unknown, 0.0 if rule.corrects else unknown, False)


def _by_parameter(directions: Sequence[Direction], moving: Sequence[int]) -> list[step.Directions]:
    if isinstance(directions, CapturedRows):
        return [directions.by_parameter[i] for i in moving]
    return [[row[i] for row in directions] for i in moving]


def _breach(rule: Rule, applied: step.StepProducts, proposed: step.StepProducts) -> float:
    """The worst there is. Of a scope whose step is all taken out, what is left is rounding, and points anywhere."""
    steps = torch.maximum(applied.squares, proposed.squares)[..., -1:]
    lengths = (proposed.squares[..., :-1] * steps).sqrt()
    cosines = (applied.along / lengths)[lengths > 0]
    return float(rule.breach(cosines)) if len(cosines) else 0.0


def _length_ratio(applied: step.StepProducts, proposed: step.StepProducts) -> float:
    lengths = [float(products.squares[:, -1].sum()) for products in (applied, proposed)]
    return (lengths[0] / lengths[1]) ** 0.5 if lengths[1] else 1.0
