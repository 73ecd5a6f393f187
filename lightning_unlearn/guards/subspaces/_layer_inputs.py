from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.guards.subspaces._base import Subspace
from lightning_unlearn.guards.subspaces._input_layers import InputLayer
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import eval_without_grad, local, on_every_rank


@dataclass
class LayerInputs:
    """What is known of the inputs of layers, none of which is kept.

    Args:
        summaries: By the name of a layer. Layers that were never called are not there.
        with_padding: Names of layers of whose inputs it could not be told which were padding, so that all count.
    """

    summaries: dict[str, Tensor] = field(default_factory=dict)
    with_padding: set[str] = field(default_factory=set)

    def add(self, layer: InputLayer, subspace: Subspace, inputs: Tensor, present: Tensor | None) -> None:
        """Take in ``inputs [..., in]`` where they are ``present [B, T]``."""
        rows = layer.augmented(local(inputs))
        if present is not None and not bool(present.all()):
            aligned = _aligned(inputs.shape, present)
            rows = rows if aligned is None else rows[aligned]
            self.with_padding |= {layer.name} if aligned is None else set()
        summary = subspace.summary(rows)
        before = self.summaries.get(layer.name)
        self.summaries[layer.name] = summary if before is None else before.add_(summary)

    def share(self, engine: GradientEngine, layers: Sequence[InputLayer]) -> None:
        """Let every process know of the inputs of all. Subspaces do not depend on scale, so a mean will do."""
        shapes: dict[str, torch.Size] = {}
        for there in on_every_rank({name: summary.shape for name, summary in self.summaries.items()}):
            shapes |= there
        for layer in layers:
            if layer.name in shapes:
                nothing = torch.zeros(shapes[layer.name], dtype=torch.float64, device=local(layer.weight).device)
                self.summaries[layer.name] = engine.average(self.summaries.get(layer.name, nothing))


@torch.no_grad()
def look_at_inputs(
    engine: GradientEngine,
    network: nn.Module,
    readout: Readout,
    batches: Iterable[Any],
    layers: Sequence[InputLayer],
    subspace: Subspace,
) -> LayerInputs:
    """Run ``network`` on ``batches`` in evaluation mode, and sum up what ``layers`` are given that is not padding."""
    found = LayerInputs()
    for batch in batches:
        batch = engine.to_device(batch)
        with eval_without_grad(network), _looked_at(layers, subspace, found, readout.present(batch)):
            engine.forward(lambda b: readout(network, b), batch)
    found.share(engine, layers)
    return found


@contextmanager
def _looked_at(
    layers: Sequence[InputLayer], subspace: Subspace, found: LayerInputs, present: Tensor | None
) -> Iterator[None]:
    def observation(layer: InputLayer) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
            found.add(layer, subspace, args[0] if args else next(iter(kwargs.values())), present)

        return layer.module.register_forward_pre_hook(hook, with_kwargs=True)

    handles = [observation(layer) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _aligned(shape: torch.Size, present: Tensor) -> Tensor | None:
    """Which rows of inputs of ``shape`` are present, if they are the positions ``[B, T]``, in whatever shape."""
    if len(shape) == 3 and shape[0] == len(present) and shape[1] > present.shape[1]:
        # Prompt tuning puts positions of its own before the batch's.
        before = present.new_ones(len(present), shape[1] - present.shape[1])
        return torch.cat([before, present], dim=1).flatten()
    return present.flatten() if shape[:-1].numel() == present.numel() else None
