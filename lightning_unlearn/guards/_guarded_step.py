from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.engine import GradientEngine, sum_by_scope
from lightning_unlearn.functional.step import StepProducts, correct_step_, step_products
from lightning_unlearn.guards._layout import Layout
from lightning_unlearn.guards._part import Part
from lightning_unlearn.guards.directions import Direction
from lightning_unlearn.guards.geometries import Geometry
from lightning_unlearn.guards.rules import Rule
from lightning_unlearn.guards.storages import Storage
from lightning_unlearn.runtime import local, map_in_threads
from lightning_unlearn.transforms import Step


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


@dataclass(frozen=True)
class PastProducts:
    """Products among directions that stay what they are from one step to the next.

    Args:
        directions: ``m`` of them, by identity.
        moving: The parameters that the products are over, by number.
        gramian: ``[scopes, m, m]`` float64.
        squares: ``[scopes, m]`` float64.
    """

    directions: Sequence[Direction]
    moving: list[int]
    gramian: Tensor
    squares: Tensor

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints: all but the directions themselves."""
        return {"moving": self.moving, "gramian": self.gramian, "squares": self.squares}

    def are_of(self, directions: Sequence[Direction], moving: list[int]) -> bool:
        """Whether these are the products of ``directions``."""
        same = all(a is b for a, b in zip(self.directions, directions, strict=False))
        return same and len(directions) == len(self.directions) and moving == self.moving


class GuardedStep:
    """A step that the optimizer takes, and the directions it must not harm.

    Args:
        engine: Says how parameters are sharded.
        step: With the weights before it.
        layout: Which of its parameters are guarded, and in which groups.
        directions: Gradients to protect, those of this step first.
        new: Number of those of this step.
        storage: How they are kept.
        past: What the last step knew of directions that are protected again.
    """

    def __init__(
        self,
        engine: GradientEngine,
        step: Step,
        layout: Layout,
        directions: Sequence[Direction],
        new: int,
        storage: Storage,
        past: PastProducts | None = None,
    ) -> None:
        self._engine, self._optimizer, self._new = engine, step.optimizer, new
        self._count = 1 + max(layout.scopes)
        self._rows, self._moving = directions, layout.moving
        self._past = past if past is not None and past.are_of(directions[new:], layout.moving) else None
        self._parts = [_part(step, layout, numbers, directions, storage) for numbers in layout.groups]
        self._proposed: StepProducts | None = None

    @torch.no_grad()
    def correct_(self, rule: Rule, geometry: Geometry) -> Outcome:
        """Replace the step that was taken by the nearest one that ``rule`` allows."""
        if not self._new or not self._parts:
            return self._undone(rule)
        proposed = self._proposed = self._products(geometry)
        correction = rule.multipliers(proposed.gramian, proposed.along)
        if not bool(correction.violation.isfinite().all()):
            return self._undone(rule)
        active = int(correction.multipliers.count_nonzero())
        applied = self._take_out_(correction.multipliers, geometry, proposed) if active else proposed
        return Outcome(
            active=active,
            kept=_length_ratio(applied, proposed),
            cosine=_breach(rule, applied, proposed),
            retain_before=float(proposed.along[:, : self._new].sum()),
            retain_after=float(applied.along[:, : self._new].sum()),
            is_optimal=bool(correction.exact.all()),
        )

    def products_among(self, directions: Sequence[Direction]) -> PastProducts | None:
        """What is known of ``directions``, if they are the first of those that were protected in this step."""
        m = len(directions)
        same = all(a is b for a, b in zip(directions, self._rows, strict=False))
        if not m or not same or m > len(self._rows) or self._proposed is None:
            return None
        return PastProducts(directions, self._moving, self._proposed.gramian[:, :m, :m], self._proposed.squares[:, :m])

    def _products(self, geometry: Geometry) -> StepProducts:
        past = self._past if geometry.is_constant else None
        fresh = None if past is None else self._new

        def of(part: Part) -> Tensor:
            metric = part.inverse_metric(geometry, self._optimizer)
            return step_products(part.weights(), part.before, part.rows, metric, fresh).packed

        found = StepProducts.unpacked(self._summed(of))
        return found if past is None else found.completed(past.gramian, past.squares)

    def _take_out_(self, multipliers: Tensor, geometry: Geometry, proposed: StepProducts) -> StepProducts:
        """Correct the step. It is measured against the directions at work and those of this step; the rest follows."""
        k = multipliers.shape[-1]
        measured = multipliers.ne(0).any(-1, keepdim=True) & (
            multipliers.ne(0) | (torch.arange(k, device=multipliers.device) < self._new)
        )
        places = [scope.nonzero()[:, 0].tolist() for scope in measured]

        def of(part: Part) -> Tensor:
            out = proposed.along.new_zeros(k + 1)
            if not places[part.scope]:
                return out
            rows, here = part.rows.among(places[part.scope])
            weights = part.weights()
            metric = part.inverse_metric(geometry, self._optimizer)
            out[[*here, k]] = correct_step_(weights, part.before, rows, multipliers[part.scope][here], metric)
            part.write_(weights)
            return out

        found = self._summed(of)
        follows = proposed.along - (proposed.gramian @ multipliers[..., None])[..., 0]
        squares = proposed.squares.clone()
        touched = measured.any(-1)
        squares[touched, -1] = found[touched, -1]
        return StepProducts(proposed.gramian, torch.where(measured, found[:, :-1], follows), squares)

    def _summed(self, of: Callable[[Part], Tensor]) -> Tensor:
        found = map_in_threads(of, self._parts, self._parts[0].params[0].device)
        firsts = [part.params[0] for part in self._parts]
        scopes = [part.scope for part in self._parts]
        return sum_by_scope(found, firsts, scopes, self._count, self._engine.sharding_group)

    def _undone(self, rule: Rule) -> Outcome:
        """Nothing is known of what this step does: it is not taken."""
        if rule.corrects:
            for part in self._parts:
                part.write_(part.before)
        unknown = float("nan")
        return Outcome(0, 0.0 if rule.corrects else 1.0, 0.0, unknown, 0.0 if rule.corrects else unknown, False)


def _part(
    step: Step, layout: Layout, numbers: Sequence[int], directions: Sequence[Direction], storage: Storage
) -> Part:
    params = [layout.params[i] for i in numbers]
    return Part(
        params=params,
        settings=[layout.settings[i] for i in numbers],
        scope=layout.scopes[numbers[0]],
        rows=storage.rows(directions, numbers, [local(p).numel() for p in params]),
        before=step.before(*params),
    )


def _breach(rule: Rule, applied: StepProducts, proposed: StepProducts) -> float:
    """The worst there is. Of a scope whose step is all taken out, what is left is rounding, and points anywhere."""
    steps = torch.maximum(applied.squares, proposed.squares)[..., -1:]
    lengths = (proposed.squares[..., :-1] * steps).sqrt()
    cosines = (applied.along / lengths)[lengths > 0]
    return float(rule.breach(cosines)) if len(cosines) else 0.0


def _length_ratio(applied: StepProducts, proposed: StepProducts) -> float:
    lengths = [float(products.squares[:, -1].sum()) for products in (applied, proposed)]
    return (lengths[0] / lengths[1]) ** 0.5 if lengths[1] else 1.0
