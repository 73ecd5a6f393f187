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
"""What float32 may leave of a projected step, as a share of the lengths of weights and step: four roundings of 2^-24.

Weights are rounded when they are written, and bases are kept in float32.
"""


@dataclass(frozen=True)
class Applied:
    """What became of a step of the protected layers. The names are those of the log.

    Args:
        kept: Length of the applied step, divided by that of the proposed one.
        action: The part of the applied step that acts on protected inputs, divided by the length of the longer of the two
            steps; the worst layer.
        is_within_rounding: Whether ``action`` is no more than float32 weights would round.
    """

    kept: float
    action: float
    is_within_rounding: bool


class ProtectedInputs:
    """The protected layers, and for each the projection of its steps.

    Args:
        engine: Knows how parameters are sharded.
        projections: By layer.
    """

    def __init__(self, engine: GradientEngine, projections: Mapping[InputLayer, Projection]) -> None:
        self._engine, self._projections = engine, dict(projections)

    @classmethod
    def restored(
        cls, engine: GradientEngine, layers: Sequence[InputLayer], bases: Mapping[str, Any]
    ) -> ProtectedInputs:
        """Made again from a result of :meth:`bases`, for those of ``layers`` that are in it."""
        projections = {}
        for layer in (layer for layer in layers if layer.name in bases):
            saved, device = bases[layer.name], local(layer.weight).device
            projections[layer] = Projection(saved["basis"].to(device), saved["is_free"])
        return cls(engine, projections)

    def add(self, others: ProtectedInputs) -> None:
        """Protect the layers of ``others`` as well."""
        self._projections |= others._projections

    def bases(self) -> dict[str, Any]:
        """The bases by the name of a layer, for a checkpoint. They are whole, and the same on every rank."""
        return {layer.name: {"basis": p.basis, "is_free": p.is_free} for layer, p in self._projections.items()}

    def exhausted(self) -> list[str]:
        """Names of layers without a free direction."""
        return [layer.name for layer, projection in self._projections.items() if not projection.leaves]

    def covers(self, param: Tensor) -> bool:
        """Whether ``param`` cannot do harm. An adapter's second factor cannot: it gets zero on protected inputs."""
        return any(param is p for layer in self._projections for p in (*layer.parts, layer.outer))

    @torch.no_grad()
    def start_adapters_(self) -> None:
        """Project the start values of first factors. Otherwise they would act as soon as second factors move from zero.

        Raises:
            ValueError: If that would change the outputs of an adapter.
        """
        adapters = {layer: p for layer, p in self._projections.items() if layer.outer is not None}
        for layer, projection in adapters.items():
            inner, outer = _whole(layer.weight), _whole(layer.outer)  # gathers shards: every rank takes part
            acts = float((outer @ (inner - projection(inner))).norm())
            if acts > 1e-5 * float(outer.norm() * inner.norm()):
                raise ValueError(
                    "`SubspaceGuard` should get a fresh adapter, one that does nothing yet to what is protected. Found "
                    f"`{layer.name}`, which does. Merge it into the base (`merge_and_unload`), and put a new one around it."
                )
        # Only after all were checked: a refusal leaves every weight as it was.
        for layer, projection in adapters.items():
            layer.write_(projection(layer.matrix()))

    @property
    def params(self) -> list[Tensor]:
        """The parameters of all layers."""
        return [p for layer in self._projections for p in layer.parts]

    @torch.no_grad()
    def correct_(self, step: Step, *, measured: bool) -> Applied | None:
        """Project the step that was taken, and report on it if ``measured``, which takes a collective."""
        weights = [layer.weight for layer in self._projections]
        if not weights:
            return None
        # A projection acts on rows, and each process holds whole rows: nothing has to be gathered.
        work = [(*pair, [step.before(p) for p in pair[0].parts]) for pair in self._projections.items()]
        squares = map_in_threads(lambda each: _correct_(*each, measured), work, weights[0].device)
        if not measured:
            return None
        return _outcome(
            sum_by_scope(squares, weights, range(len(weights)), len(weights), self._engine.sharding_group).sqrt()
        )

    @torch.no_grad()
    def allowed(self, direction: Direction, params: Sequence[Tensor]) -> Direction:
        """The part of a gradient that acts on free inputs only.

        Args:
            direction: Local shards of a gradient, one tensor for each of ``params``. It is not changed.
            params: The optimizer's parameters.
        """
        place = {id(p): i for i, p in enumerate(params)}  # by identity: `==` of tensors compares elements
        out = list(direction)
        for layer, projection in self._projections.items():
            spots = [place[id(p)] for p in layer.parts if id(p) in place]
            # A layer may be missing in the forget optimizer, which takes in added parameters one step later.
            if len(spots) < len(layer.parts) or all(direction[i] is None for i in spots):
                continue
            # Weight and bias are projected together, so a missing gradient of one of them counts as zero.
            given = [
                torch.zeros_like(local(p)) if (g := direction[i]) is None else g
                for i, p in zip(spots, layer.parts, strict=True)
            ]
            matrix = layer.matrix([g.to(projection.basis.device) for g in given])
            for i, old, new in zip(spots, given, layer.split(projection(matrix)), strict=True):
                out[i] = new.to(old)  # dtype and device of the storage that keeps it
        return out


def refuse_missing(layers: Sequence[InputLayer], bases: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that protects layers which are not among ``layers``."""
    names = {layer.name for layer in layers}
    if missing := [name for name in bases if name not in names]:
        raise ValueError(
            "A resumed fit should protect the layers that its checkpoint does. Found no layer with the name "
            f"`{missing[0]}`, nor {len(missing) - 1} others. Use the same `layers`."
        )


def _correct_(layer: InputLayer, projection: Projection, before: Sequence[Tensor], measured: bool) -> Tensor:
    """Squared lengths of the weights, the proposed step, the applied step, and its part on protected inputs."""
    old = layer.matrix(before)
    proposed = layer.matrix() - old
    if projection.protects:
        layer.write_(old + projection(proposed))
    if not measured:
        return proposed  # nobody reads it
    applied = layer.matrix() - old  # read back, so that the rounding of the weights is in it
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
