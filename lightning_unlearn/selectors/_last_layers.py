from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.models.layers import blocks, output_heads
from lightning_unlearn.readouts import Readout
from lightning_unlearn.selectors._base import Selector, selectable


class LastLayers(Selector):
    """The later a layer, the higher the score: 0 for the last, -1 for the one before it, and so on.

    So ``AtLeast(-1)`` chooses the last two layers, and ``TopLayers(2)`` the last two of which something can be trained.
    Layers are the blocks of a deep network, see :func:`lightning_unlearn.models.layers.blocks`; where nothing repeats, all
    modules that hold parameters themselves. They count in the order in which the network holds them, which is that of use in
    all networks of transformers, and need not be in your own. What is outside the blocks has no score: embeddings, last
    norm, output head.

    Args:
        with_head: Count the output head as a layer behind the last block. Where nothing repeats, it is one anyway.

    Raises:
        ValueError: When it scores, if ``with_head`` finds no head, or one that is tied to the input embeddings: training
            it would change what every token means from the first layer on.

    Example:
        >>> LastLayers().scores(nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False)))
        {'0.weight': tensor(-1.), '2.weight': tensor(0.)}

    References:
        The choice of layers of `Leverage Unlearning to Sanitize LLMs <https://arxiv.org/abs/2510.21322>`_, 2025, rebuilt
        from reviews of it: which layers count as last is not known.
    """

    def __init__(self, with_head: bool = False) -> None:
        self.with_head = with_head

    @override
    def scores(
        self,
        network: nn.Module,
        *,
        forget: Sequence[Any] = (),
        retain: Sequence[Any] = (),
        readout: Readout | None = None,
        engine: GradientEngine | None = None,
    ) -> dict[str, Tensor]:
        layers = [list(params) for params in self._layers(network)]
        # From the last to the first: a parameter of several layers counts where it is used first.
        depths = {p: 1.0 - back for back, params in enumerate(reversed(layers), start=1) for p in params}
        named = selectable(network).items()
        return {name: torch.tensor(depths[p], device=p.device) for name, p in named if p in depths}

    def _layers(self, network: nn.Module) -> Iterator[Iterable[nn.Parameter]]:
        repeated = blocks(network)
        if not repeated:
            holding = (m for m in network.modules() if any(True for _ in m.parameters(recurse=False)))
            yield from (m.parameters(recurse=False) for m in holding)
            return
        yield from (block.parameters() for block in repeated.values())
        if self.with_head:
            yield _head(network)

    def __repr__(self) -> str:
        return f"LastLayers(with_head={self.with_head})"


def _head(network: nn.Module) -> list[nn.Parameter]:
    heads = set(output_heads(network))
    found = {p: None for head in heads for p in head.parameters(recurse=False) if p.requires_grad}
    tied = {p for m in network.modules() if m not in heads for p in m.parameters(recurse=False)} & found.keys()
    if not found or tied:
        what = "one whose weights another layer uses, as of tied embeddings" if tied else "none"
        raise ValueError(
            "`LastLayers(with_head=True)` should find an output head of its own to train. Found "
            f"{what}. Leave `with_head` out."
        )
    return list(found)
