from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lightning_unlearn.engine import GradientEngine, sum_by_scope
from lightning_unlearn.functional.subspace import Projection
from lightning_unlearn.guards.directions import Direction
from lightning_unlearn.guards.subspaces._input_layers import InputLayer
from lightning_unlearn.runtime import local, map_in_threads
from lightning_unlearn.transforms import Step

_ROUNDING = 2.0**-22
"""As a share of lengths, four times what float32 loses of weights, and of a step by its bases."""


@dataclass(frozen=True)
class Applied:
    """What became of a step of the protected layers; the names are those it is logged by.

    Args:
        kept: Length of the applied step over that of the proposed one.
        action: What of the applied step acts on protected inputs, over the length of the longer of the two; the worst layer.
        is_within_rounding: Whether that is no more than float32 weights would round.
    """

    kept: float
    action: float
    is_within_rounding: bool


class ProtectedInputs:
    """Layers, and for each the projection of its steps.

    Args:
        engine: Says how parameters are sharded.
        projections: By layer.
    """

    def __init__(self, engine: GradientEngine, projections: Mapping[InputLayer, Projection]) -> None:
        self._engine, self._projections = engine, dict(projections)

    @classmethod
    def restored(
        cls, engine: GradientEngine, layers: Sequence[InputLayer], bases: Mapping[str, Any]
    ) -> ProtectedInputs:
        """From what :meth:`bases` gave."""
        there = {layer.name: layer for layer in layers}
        if missing := [name for name in bases if name not in there]:
            raise ValueError(
                "A resumed fit should protect the layers that its checkpoint does. Found none trained with the name "
                f"`{missing[0]}`, nor {len(missing) - 1} others. Use the same `layers`."
            )
        projections = {}
        for name, saved in bases.items():
            device = local(there[name].weight).device
            projections[there[name]] = Projection(saved["basis"].to(device), saved["is_free"])
        return cls(engine, projections)

    def bases(self) -> dict[str, Any]:
        """By the name of a layer: tensors and primitives, for a checkpoint."""
        return {layer.name: {"basis": p.basis, "is_free": p.is_free} for layer, p in self._projections.items()}

    def exhausted(self) -> list[str]:
        """Names of layers of which nothing is free."""
        return [layer.name for layer, projection in self._projections.items() if not projection.leaves]

    def covers(self, param: Tensor) -> bool:
        """Whether ``param`` cannot do harm. The second factor of an adapter sees only what the first one lets through."""
        return any(param is p for layer in self._projections for p in (*layer.parts, layer.outer))

    @torch.no_grad()
    def start_adapters_(self) -> None:
        """Take what acts on protected inputs out of where first factors start: as second factors move, it would act.

        Raises:
            ValueError: If that would change what an adapter does now.
        """
        adapters = {layer: p for layer, p in self._projections.items() if layer.outer is not None}
        for layer, projection in adapters.items():
            inner, outer = _whole(layer.weight), _whole(layer.outer)
            acts = float((outer @ (inner - projection(inner))).norm())
            if acts > 1e-5 * float(outer.norm() * inner.norm()):
                raise ValueError(
                    "`SubspaceGuard` should get a fresh adapter, one that does nothing yet to what is protected. Found "
                    f"`{layer.name}`, which does. Merge it into the base (`merge_and_unload`), and put a new one around it."
                )
        for layer, projection in adapters.items():
            layer.write_(projection(layer.matrix()))

    @property
    def params(self) -> list[Tensor]:
        """The parameters of all layers."""
        return [p for layer in self._projections for p in layer.parts]

    @torch.no_grad()
    def correct_(self, step: Step, *, measured: bool) -> Applied | None:
        """Project the step that was taken; what became of it, if ``measured``."""
        weights = [layer.weight for layer in self._projections]
        if not weights:
            return None
        work = [(*pair, [step.before(p) for p in pair[0].parts]) for pair in self._projections.items()]
        squares = map_in_threads(lambda each: _correct_(*each, measured), work, weights[0].device)
        if not measured:
            return None
        return _outcome(
            sum_by_scope(squares, weights, range(len(weights)), len(weights), self._engine.sharding_group).sqrt()
        )

    @torch.no_grad()
    def allowed(self, direction: Direction, params: Sequence[Tensor]) -> Direction:
        """The part of a gradient along which protected layers may still move.

        Args:
            direction: What this process holds of a gradient, one tensor for each of ``params``; it is left as it is.
            params: The optimizer's parameters.
        """
        place = {id(p): i for i, p in enumerate(params)}
        out = list(direction)
        for layer, projection in self._projections.items():
            spots = [place[id(p)] for p in layer.parts]
            if all(direction[i] is None for i in spots):
                continue
            given = [
                torch.zeros_like(local(p)) if (g := direction[i]) is None else g
                for i, p in zip(spots, layer.parts, strict=True)
            ]
            matrix = layer.matrix([g.to(projection.basis.device) for g in given])
            for i, old, new in zip(spots, given, layer.apart(projection(matrix)), strict=True):
                out[i] = new.to(old)
        return out


def _correct_(layer: InputLayer, projection: Projection, before: Sequence[Tensor], measured: bool) -> Tensor:
    """Squared lengths of the weights, of the proposed and the applied step, and of what should not be in the latter."""
    old = layer.matrix(before)
    proposed = layer.matrix() - old
    if projection.protects:
        layer.write_(old + projection(proposed))
    if not measured:
        return proposed
    applied = layer.matrix() - old
    return torch.stack([x.square().sum() for x in (old, proposed, applied, applied - projection(applied))])


def _outcome(lengths: Tensor) -> Applied:
    weights, proposed, applied, acting = lengths.unbind(1)
    longer = torch.maximum(proposed, applied)
    shares = torch.where(longer > 0, acting / longer, 0)
    kept = float(applied.norm() / proposed.norm()) if bool(proposed.any()) else 1.0
    return Applied(kept, float(shares.max()), bool((acting <= _ROUNDING * (weights + longer)).all()))


def _whole(tensor: Any) -> Tensor:
    whole: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().double()
