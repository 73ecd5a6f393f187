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
    """Summaries of the inputs of layers. The inputs themselves are not kept.

    Args:
        summaries: By the name of a layer. A layer that was never called has none.
        with_padding: Names of layers whose inputs do not show which of them are padding, so that all were recorded.
    """

    summaries: dict[str, Tensor] = field(default_factory=dict)
    with_padding: set[str] = field(default_factory=set)

    def add(self, layer: InputLayer, subspace: Subspace, inputs: Tensor, present: Tensor | None) -> None:
        """Add ``inputs [..., in]`` at the positions that are ``present [B, T]``, that is, not padding."""
        rows = layer.augmented(local(inputs))
        if present is not None and not bool(present.all()):
            aligned = _aligned(inputs.shape, present)
            rows = rows if aligned is None else rows[aligned]
            self.with_padding |= {layer.name} if aligned is None else set()
        summary = subspace.summary(rows)
        before = self.summaries.get(layer.name)
        self.summaries[layer.name] = summary if before is None else before.add_(summary)

    def average(self, engine: GradientEngine, layers: Sequence[InputLayer]) -> None:
        """Average the summaries over processes. A mean serves as well as a sum: subspaces do not depend on scale."""
        # A process may not have called every layer (experts of a mixture). It takes part in the collective with zeros.
        shapes: dict[str, torch.Size] = {}
        for shapes_of_rank in on_every_rank({name: summary.shape for name, summary in self.summaries.items()}):
            shapes |= shapes_of_rank
        for layer in layers:
            if layer.name in shapes:
                nothing = torch.zeros(shapes[layer.name], dtype=torch.float64, device=local(layer.weight).device)
                self.summaries[layer.name] = engine.average(self.summaries.get(layer.name, nothing))


@torch.no_grad()
def record_inputs(
    engine: GradientEngine,
    network: nn.Module,
    readout: Readout,
    batches: Iterable[Any],
    layers: Sequence[InputLayer],
    subspace: Subspace,
) -> LayerInputs:
    """Run ``network`` on ``batches`` in evaluation mode, and summarise the inputs of ``layers`` without padding.

    Collective: every process must call it, with as many batches.
    """
    inputs = LayerInputs()
    for batch in batches:
        batch = engine.to_device(batch)
        with eval_without_grad(network), _recording(layers, subspace, inputs, readout.present(batch)):
            engine.forward(lambda b: readout(network, b), batch)
    inputs.average(engine, layers)
    return inputs


@contextmanager
def _recording(
    layers: Sequence[InputLayer], subspace: Subspace, inputs: LayerInputs, present: Tensor | None
) -> Iterator[None]:
    def hooked(layer: InputLayer) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
            inputs.add(layer, subspace, args[0] if args else next(iter(kwargs.values())), present)

        # A pre-hook: a layer inside may change its input in place. With kwargs, since some models pass inputs by name.
        return layer.module.register_forward_pre_hook(hook, with_kwargs=True)

    handles = [hooked(layer) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _aligned(shape: torch.Size, present: Tensor) -> Tensor | None:
    """Which rows of inputs of ``shape`` are present; ``None`` if the rows are not the positions ``[B, T]`` of the batch."""
    if len(shape) == 2 and shape[0] == len(present):  # pooled: one row for each example
        return present.new_ones(len(present))
    if len(shape) == 3 and shape[0] == len(present) and shape[1] > present.shape[1]:
        # Prompt tuning puts its virtual tokens before those of the batch. They are inputs like others.
        before = present.new_ones(len(present), shape[1] - present.shape[1])
        return torch.cat([before, present], dim=1).flatten()
    return present.flatten() if shape[:-1].numel() == present.numel() else None
