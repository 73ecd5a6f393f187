from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.engine import CapturedRows, GradientEngine, sharding_groups, sum_by_scope
from lightning_unlearn.functional import step
from lightning_unlearn.functional.bundles import bundled, joined, spread_
from lightning_unlearn.functional.int8_rows import is_packed
from lightning_unlearn.functional.rows import Rows
from lightning_unlearn.guards.directions import Direction
from lightning_unlearn.guards.geometries import Geometry
from lightning_unlearn.guards.rules import Rule
from lightning_unlearn.runtime import local, map_in_threads


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
    """The weights before a step, and what it must not harm.

    Args:
        engine: Says how parameters are sharded.
        optimizer: Whose step it is. Parameters that have no learning rate, or no gradient, are left out.
        directions: Gradients to protect, those of this step first.
        new: Number of those of this step.
        scopes: Number of the scope of each parameter.
        past: What the last step knew of directions that are protected again.
    """

    def __init__(
        self,
        engine: GradientEngine,
        optimizer: torch.optim.Optimizer,
        directions: Sequence[Direction],
        new: int,
        scopes: Sequence[int],
        past: PastProducts | None = None,
    ) -> None:
        self._engine, self._optimizer, self._new = engine, optimizer, new
        every = [(p, group) for group in optimizer.param_groups for p in group["params"]]
        moving = [i for i, (p, group) in enumerate(every) if p.requires_grad and float(group["lr"]) != 0]
        self._count = 1 + max(scopes)
        self._rows, self._moving = directions, moving
        self._past = past if past is not None and past.are_of(directions[new:], moving) else None
        self._parts = [
            _Part(
                params=[every[i][0] for i in numbers],
                settings=[every[i][1] for i in numbers],
                scope=scopes[numbers[0]],
                rows=_rows_of(directions, numbers),
            )
            for numbers in _worked_on_together([p for p, _ in every], moving, scopes, directions, engine)
        ]
        # Not side by side: memory that other threads allocate is not used again by this one.
        self._before = [part.snapshot() for part in self._parts]
        self._proposed: step.StepProducts | None = None

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

    def _products(self, geometry: Geometry) -> step.StepProducts:
        past = self._past if geometry.is_constant else None
        fresh = None if past is None else self._new

        def of(whole: tuple[_Part, Tensor]) -> Tensor:
            part, before = whole
            metric = part.inverse_metric(geometry, self._optimizer)
            return step.step_products(part.weights(), before, part.directions(), metric, fresh).packed

        found = step.StepProducts.unpacked(self._summed(of))
        return found if past is None else found.completed(past.gramian, past.squares)

    def _take_out_(self, multipliers: Tensor, geometry: Geometry, proposed: step.StepProducts) -> step.StepProducts:
        """Correct the step. It is measured against the directions at work and those of this step; the rest follows."""
        k = multipliers.shape[-1]
        measured = multipliers.ne(0).any(-1, keepdim=True) & (
            multipliers.ne(0) | (torch.arange(k, device=multipliers.device) < self._new)
        )
        places = [scope.nonzero()[:, 0].tolist() for scope in measured]

        def of(whole: tuple[_Part, Tensor]) -> Tensor:
            part, before = whole
            out = proposed.along.new_zeros(k + 1)
            here, mine = places[part.scope], multipliers[part.scope]
            if here:
                rows = part.directions()
                if not isinstance(rows, Rows):
                    rows, mine = [rows[j] for j in here], mine[here]
                else:
                    here = list(range(k))
                weights = part.weights()
                metric = part.inverse_metric(geometry, self._optimizer)
                out[[*here, k]] = step.correct_step_(weights, before, rows, mine, metric)
                part.write_(weights)
            return out

        found = self._summed(of)
        follows = proposed.along - (proposed.gramian @ multipliers[..., None])[..., 0]
        squares = proposed.squares.clone()
        touched = measured.any(-1)
        squares[touched, -1] = found[touched, -1]
        return step.StepProducts(proposed.gramian, torch.where(measured, found[:, :-1], follows), squares)

    def _summed(self, of: Callable[[tuple[_Part, Tensor]], Tensor]) -> Tensor:
        pairs = zip(self._parts, self._before, strict=True)
        found = map_in_threads(of, pairs, self._parts[0].params[0].device)
        firsts = [part.params[0] for part in self._parts]
        scopes = [part.scope for part in self._parts]
        return sum_by_scope(found, firsts, scopes, self._count, self._engine.sharding_group)

    def _undone(self, rule: Rule) -> Outcome:
        """Nothing is known of what this step does: it is not taken."""
        if rule.corrects:
            for part, before in zip(self._parts, self._before, strict=True):
                part.write_(before)
        unknown = float("nan")
        return Outcome(0, 0.0 if rule.corrects else 1.0, 0.0, unknown, 0.0 if rule.corrects else unknown, False)


@dataclass(frozen=True)
class _Part:
    """What is worked on at once: a parameter, or many small ones of one scope as one long vector.

    Args:
        params: One or many.
        settings: The optimizer's settings for each.
        scope: Number of their scope.
        rows: For each direction, the gradients by each of ``params``; or what writes out those by the only one.
    """

    params: Sequence[Tensor]
    settings: Sequence[dict[str, Any]]
    scope: int
    rows: Sequence[Sequence[Tensor | None]] | Rows

    def weights(self) -> Tensor:
        """The only parameter's own, or a copy."""
        whole = joined([local(p).detach() for p in self.params], self._sizes)
        assert whole is not None
        return whole

    def snapshot(self) -> Tensor:
        """A copy."""
        return self.weights() if len(self.params) > 1 else self.weights().clone()

    def write_(self, weights: Tensor) -> None:
        """Let the parameters be ``weights``: what :meth:`weights` returned, changed, or a snapshot."""
        if weights.data_ptr() != local(self.params[0]).data_ptr():
            spread_([local(p).detach() for p in self.params], weights)

    def directions(self) -> step.Directions:
        if isinstance(self.rows, Rows):
            return self.rows
        return [joined(row, self._sizes) for row in self.rows]

    def inverse_metric(self, geometry: Geometry, optimizer: torch.optim.Optimizer) -> Tensor | None:
        """When it is needed: of a diagonal metric, all together would be one more copy of the model."""
        pairs = list(zip(self.params, self.settings, strict=True))
        if len(pairs) == 1:
            return geometry.inverse_metric(optimizer, *pairs[0])
        found = [(geometry.inverse_metric(optimizer, p, settings), local(p).shape) for p, settings in pairs]
        return joined([None if m is None else m.expand(shape) for m, shape in found], self._sizes)

    @property
    def _sizes(self) -> list[int]:
        return [local(p).numel() for p in self.params]


def _worked_on_together(
    params: Sequence[Tensor],
    moving: Sequence[int],
    scopes: Sequence[int],
    directions: Sequence[Direction],
    engine: GradientEngine,
) -> list[list[int]]:
    alone = isinstance(directions, CapturedRows) or any(
        t is not None and is_packed(t) for row in directions for t in row
    )
    if alone or not moving:
        return [[i] for i in moving]
    kinds = [
        (scopes[i], params[i].dtype, params[i].device, sharding_groups(params[i], engine.sharding_group))
        for i in moving
    ]
    sizes = [local(params[i]).numel() for i in moving]
    return [[moving[j] for j in bundle] for bundle in bundled(sizes, kinds, params[moving[0]].device)]


def _rows_of(directions: Sequence[Direction], numbers: Sequence[int]) -> Sequence[Direction] | Rows:
    if isinstance(directions, CapturedRows):
        return directions.by_parameter[numbers[0]]
    return [[row[i] for i in numbers] for row in directions]


def _breach(rule: Rule, applied: step.StepProducts, proposed: step.StepProducts) -> float:
    """The worst there is. Of a scope whose step is all taken out, what is left is rounding, and points anywhere."""
    steps = torch.maximum(applied.squares, proposed.squares)[..., -1:]
    lengths = (proposed.squares[..., :-1] * steps).sqrt()
    cosines = (applied.along / lengths)[lengths > 0]
    return float(rule.breach(cosines)) if len(cosines) else 0.0


def _length_ratio(applied: step.StepProducts, proposed: step.StepProducts) -> float:
    lengths = [float(products.squares[:, -1].sum()) for products in (applied, proposed)]
    return (lengths[0] / lengths[1]) ** 0.5 if lengths[1] else 1.0
