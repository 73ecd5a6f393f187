from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import eval_mode
from lightning_unlearn.selectors._base import Selector, selectable
from lightning_unlearn.selectors._losses import By, check_by, mean_nll, means, needed


class GradientSaliency(Selector):
    r"""The size of the gradient of the forget loss.

    .. math:: s = \Bigl| \nabla_\theta \frac{1}{B} \sum_{b=1}^{B} \operatorname{NLL}(b) \Bigr|

    over batches :math:`b` of what must go, in evaluation mode. Each batch counts the same; within it, each supervised row
    does. Gradients of examples that pull in opposite directions cancel, unlike in :class:`FisherRatio`. What matters for
    everything, and not only for what must go, scores high, too. Costs one pass over the forget data.

    Under LoRA the factors are scored. Where one factor starts at zero, the other one's gradient is zero: its scores are,
    too, and ``AtLeast`` and ``TopShare`` then choose among the first.

    Args:
        by: Score each element, or whole tensors by their mean.

    Raises:
        ValueError: When it scores, without forget data or a readout.

    Example:
        >>> from lightning_unlearn.readouts import ClassificationReadout
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> _ = layer.weight.data.zero_()
        >>> batch = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
        >>> GradientSaliency().scores(layer, forget=[batch], readout=ClassificationReadout())["weight"]
        tensor([[0.5000, 0.0000],
                [0.5000, 0.0000]])

    References:
        Fan et al., `SalUn <https://arxiv.org/abs/2310.12508>`_, 2024, eq. 3.
    """

    needs_forget = True

    def __init__(self, by: By = "element") -> None:
        check_by(by)
        self.by = by

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
        named = selectable(network)
        with eval_mode(network), torch.enable_grad():
            row, _ = engine.row(mean_nll(network, readout), forget, list(named.values()))
        found = {name: g.detach().abs().float() for name, g in zip(named, row, strict=True) if g is not None}
        return means(found) if self.by == "tensor" else found

    def __repr__(self) -> str:
        return f"GradientSaliency(by={self.by!r})"
