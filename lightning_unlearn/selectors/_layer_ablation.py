from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.models.layers import blocks
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import drop_copies, eval_without_grad
from lightning_unlearn.selectors._base import Selector, selectable
from lightning_unlearn.selectors._losses import mean_nll, needed
from lightning_unlearn.selectors._traced import ChangesShape, skipped


class LayerAblation(Selector):
    r"""How far the forget loss moves when a block is left out.

    .. math:: s_l = \bigl| L_f(\theta \text{ without block } l) - L_f(\theta) \bigr|

    All parameters of a block have its score; ``TopLayers(8)`` is the published choice. A block is left out by giving on what
    it takes. Setting its weights to zero, as published, does the same in networks that normalise what a block takes, and
    something else where norms come after the sum (BERT) or have biases. Blocks that change the shape of the states have no
    score, nor has what is outside of blocks. Costs one forward pass over the forget data for each block.

    A block that matters for everything scores high, too: a first block often does.

    Raises:
        ValueError: When it scores, without forget data or a readout, or if no block can be left out.

    Example:
        >>> from lightning_unlearn.readouts import ClassificationReadout
        >>> network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        >>> _ = network[0].weight.data.copy_(torch.eye(2)), network[1].weight.data.copy_(9 * torch.eye(2))
        >>> batch = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
        >>> found = LayerAblation().scores(network, forget=[batch], readout=ClassificationReadout())
        >>> {name: round(float(score), 3) for name, score in found.items()}
        {'0.weight': 0.0, '1.weight': 0.313}

    References:
        The layer attribution of FIT, `Xu et al. <https://arxiv.org/abs/2601.21682>`_, 2026, and its code.
    """

    needs_forget = True

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
        readout = needed(self, readout, forget=forget)
        engine = GradientEngine(network) if engine is None else engine
        loss = mean_nll(network, readout)

        def measure() -> Tensor:
            with eval_without_grad(network):
                return torch.stack([engine.forward(loss, batch).double() for batch in forget]).mean()

        effects: dict[Tensor, Tensor] = {}
        whole = measure()
        for block in blocks(network).values():
            try:
                with skipped(network, block):
                    effect = (measure() - whole).abs().float()
            except ChangesShape:
                continue
            # A parameter of several blocks matters as much as the one that matters most.
            effects.update({p: torch.maximum(effect, effects.get(p, effect)) for p in block.parameters()})
        drop_copies(network)  # without a graph, FSDP2's root keeps what it has gathered
        if not effects:
            raise ValueError(
                "`LayerAblation` should find blocks, modules that repeat in a list and give states of the shape that they "
                f"take. Found none in `{type(network).__name__}`. Use `GradientSaliency(by='tensor')`."
            )
        return {name: effects[p] for name, p in selectable(network).items() if p in effects}

    def __repr__(self) -> str:
        return "LayerAblation()"
