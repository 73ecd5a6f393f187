from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.engine import GradientEngine, sum_by_scope
from lightning_unlearn.functional.quick_step import float32_suffices, nearly_parallel, quick_correct_, quick_products
from lightning_unlearn.functional.rows import Rows
from lightning_unlearn.functional.step import StepProducts, correct_step_, step_products
from lightning_unlearn.guards._layout import Layout
from lightning_unlearn.guards._part import Part
from lightning_unlearn.guards.directions import Direction
from lightning_unlearn.guards.geometries import Euclidean, Geometry
from lightning_unlearn.guards.rules import Rule
from lightning_unlearn.guards.storages import Storage
from lightning_unlearn.runtime import local, map_in_threads
from lightning_unlearn.transforms import Step

_FEW = 2  # new directions, whose products are taken one by one; those of more are faster as one matrix product


@dataclass(frozen=True)
class Outcome:
    """What became of a step. The names are those of the log.

    Args:
        active: Number of active constraints.
        kept: Length of the applied step, divided by that of the proposed one.
        cosine: How much the applied step breaks the rule, as a cosine; the length is that of the longer step.
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
    """Inner products among past directions: they stay the same from one step to the next, so they are computed once.

    Args:
        directions: ``m`` past directions, recognised by identity.
        moving: The parameters that the products are over, by number.
        gramian: ``[scopes, m, m]`` float64.
        squares: ``[scopes, m]`` float64.
        is_precise: Whether they were computed in float64, and not in float32.
    """

    directions: Sequence[Direction]
    moving: list[int]
    gramian: Tensor
    squares: Tensor
    is_precise: bool = True

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints: all but the directions themselves."""
        own = ("moving", "gramian", "squares", "is_precise")
        return {name: getattr(self, name) for name in own}

    def are_of(self, directions: Sequence[Direction], moving: list[int]) -> bool:
        """Whether these are the products of ``directions``."""
        same = all(a is b for a, b in zip(self.directions, directions, strict=False))
        return same and len(directions) == len(self.directions) and moving == self.moving


class GuardedStep:
    """A step that the optimizer takes, and the directions it must not harm.

    Made before the step, while the directions are at hand; :meth:`correct_` is called after it. Each process works on its
    local shards. Only inner products cross ranks, in float64, so every rank computes the same multipliers.

    Products are taken in float32 first, which is exact enough as long as directions can be told apart. Where two are nearly
    parallel, they are taken again in float64. So they are with a metric, with many new directions, and of float64 weights.

    Args:
        engine: Knows how parameters are sharded.
        step: With the weights before it.
        layout: Which of its parameters are guarded, and in which groups.
        directions: Gradients to protect, those of this step first.
        new: Number of those of this step.
        storage: How they are kept.
        past: Inner products that the last step computed, of directions that are protected again.
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
        # Other directions, or parameters that were frozen since: the products are computed anew.
        self._past = past if past is not None and past.are_of(directions[new:], layout.moving) else None
        self._parts = [_part(step, layout, numbers, directions, storage) for numbers in layout.groups]
        self._proposed: StepProducts | None = None
        few = 0 < new <= _FEW and storage.holds_gradients
        self._is_precise = not few or any(p.dtype == torch.float64 for p in layout.params)

    @torch.no_grad()
    def correct_(self, rule: Rule, geometry: Geometry) -> Outcome:
        """Replace the step that was taken by the nearest one that ``rule`` allows. Collective: every rank must call it."""
        if not self._parts:  # nothing moves, as at the start of a warm-up
            return Outcome(0, 1.0, 0.0, 0.0, 0.0, True)
        # No gradients of this step: they were not finite, so the step cannot be shown to be safe.
        if not self._new:
            return self._undone(rule)
        proposed = self._proposed = self._products(geometry)
        correction = rule.multipliers(proposed.gramian, proposed.along)
        if not bool(correction.violation.isfinite().all()):
            return self._undone(rule)
        # Without an active constraint nothing is written: a safe step stays as it is, to the bit.
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
        """Inner products among ``directions``, if this step has computed them."""
        m = len(directions)
        # This step's gradients come first, and `History` puts what it remembers first: what stays is a prefix.
        same = all(a is b for a, b in zip(directions, self._rows, strict=False))
        if not m or not same or m > len(self._rows) or self._proposed is None:
            return None
        gramian, squares = self._proposed.gramian[:, :m, :m], self._proposed.squares[:, :m]
        return PastProducts(directions, self._moving, gramian, squares, self._is_precise)

    def _products(self, geometry: Geometry) -> StepProducts:
        # In a metric that changes with the optimizer's state, the last step's products are those of another metric.
        past = self._past if geometry.is_constant else None
        unknown = len(self._rows) - (0 if past is None else len(past.directions))
        was_parallel = past is not None and past.is_precise and nearly_parallel(past.gramian)
        if type(geometry) is Euclidean and not (self._is_precise or was_parallel or unknown > _FEW):
            products = self._completed(
                past, lambda part: quick_products(part.weights(), part.before, part.rows, unknown)
            )
            if float32_suffices(products):
                return products
        self._is_precise = True
        past = past if past is not None and past.is_precise else None
        fresh = None if past is None else self._new

        def of(part: Part) -> StepProducts:
            metric = part.inverse_metric(geometry, self._optimizer)
            return step_products(part.weights(), part.before, part.rows, metric, fresh)

        return self._completed(past, of)

    def _completed(self, past: PastProducts | None, of: Callable[[Part], StepProducts]) -> StepProducts:
        """The sum of ``of`` over all parts, completed by what is known."""
        products = StepProducts.unpacked(self._summed(lambda part: of(part).packed))
        return products if past is None else products.completed(past.gramian, past.squares)

    def _take_out_(self, multipliers: Tensor, geometry: Geometry, proposed: StepProducts) -> StepProducts:
        """Correct the step, and measure what it now does to the losses.

        Measured again, on the rounded weights, are the active directions and those of this step. For the others the value
        follows from products that are known, which saves reading their gradients again.
        """
        k = multipliers.shape[-1]
        measured = multipliers.ne(0).any(-1, keepdim=True) & (
            multipliers.ne(0) | (torch.arange(k, device=multipliers.device) < self._new)
        )
        places = [scope.nonzero()[:, 0].tolist() for scope in measured]
        factors = multipliers.cpu()  # once: asking a GPU again for each part would make it wait

        def of(part: Part) -> Tensor:
            out = proposed.along.new_zeros(k + 1)
            if not places[part.scope]:
                return out
            rows, here = part.rows.among(places[part.scope])
            weights = part.weights()  # the parameter itself, or a copy of several: hence `write_`
            out[[*here, k]] = self._correct_(part, weights, rows, factors[part.scope][here], geometry)
            part.write_(weights)
            return out

        sums = self._summed(of)
        # The corrected step is d - M^-1 G lambda, so its products with G are G'd - K lambda.
        follows = proposed.along - (proposed.gramian @ multipliers[..., None])[..., 0]
        squares = proposed.squares.clone()
        touched = measured.any(-1)
        squares[touched, -1] = sums[touched, -1]
        return StepProducts(proposed.gramian, torch.where(measured, sums[:, :-1], follows), squares)

    def _correct_(self, part: Part, weights: Tensor, rows: Rows, multipliers: Tensor, geometry: Geometry) -> Tensor:
        if not self._is_precise:
            return quick_correct_(weights, part.before, rows, multipliers)
        metric = part.inverse_metric(geometry, self._optimizer)
        return correct_step_(weights, part.before, rows, multipliers.to(weights.device), metric)

    def _summed(self, of: Callable[[Part], Tensor]) -> Tensor:
        """Apply ``of`` to each part, and add up by scope: over the parts here and over the shards of all ranks."""
        results = map_in_threads(of, self._parts, self._parts[0].params[0].device)
        firsts = [part.params[0] for part in self._parts]
        scopes = [part.scope for part in self._parts]
        # A joined part has one kind of sharding, so the first of its parameters stands for all.
        return sum_by_scope(results, firsts, scopes, self._count, self._engine.sharding_group)

    def _undone(self, rule: Rule) -> Outcome:
        """Take the step back: nothing is known of what it does."""
        if rule.corrects:  # `Monitor` promises the fit without a guard, to the bit
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
    """The worst breach of the rule over all scopes and directions."""
    # Over the longer step: of a step that is taken out whole only rounding is left, whose direction means nothing.
    steps = torch.maximum(applied.squares, proposed.squares)[..., -1:]
    lengths = (proposed.squares[..., :-1] * steps).sqrt()
    cosines = (applied.along / lengths)[lengths > 0]
    return float(rule.breach(cosines)) if len(cosines) else 0.0


def _length_ratio(applied: StepProducts, proposed: StepProducts) -> float:
    lengths = [float(products.squares[:, -1].sum()) for products in (applied, proposed)]
    return (lengths[0] / lengths[1]) ** 0.5 if lengths[1] else 1.0
