"""Where forget and retain data pull the weights: what one-shot edits are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.objectives import CrossEntropy, Objective
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import eval_mode


def pull_of(
    objective: Objective,
    network: nn.Module,
    batches: Sequence[Any],
    readout: Readout,
    engine: GradientEngine,
    params: Sequence[Tensor],
) -> list[Tensor]:
    """Minus the gradient of ``objective``, the mean over ``batches``: the way down, for each parameter. Collective."""
    with eval_mode(network):
        row, _ = engine.row(lambda batch: objective(readout(network, batch), None), batches, params)
    return [torch.zeros_like(p) if grad is None else grad.neg_() for p, grad in zip(params, row, strict=True)]


def diagonal_fisher(
    network: nn.Module, batches: Sequence[Any], readout: Readout, engine: GradientEngine, params: Sequence[Tensor]
) -> list[Tensor]:
    r"""The diagonal of the empirical Fisher information of one example, for each parameter. Collective.

    .. math:: h = \frac{1}{|B|} \sum_{b \in B} n_b \, g_b^2

    with the gradient :math:`g_b` of the mean loss over the :math:`n_b` examples of a micro-batch. It is exact for batches of
    one; for larger ones it has the same mean where examples are independent and the gradient is small.
    """
    total = [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in params]
    for batch in batches:
        sizes: list[int] = []

        def loss(batch: Any, sizes: list[int] = sizes) -> Tensor:
            seen = readout(network, batch)
            sizes.append(seen.batch_size)
            value: Tensor = CrossEntropy()(seen)
            return value

        with eval_mode(network):
            row, _ = engine.row(loss, [batch], params)
        for sum_, grad in zip(total, row, strict=True):
            if grad is not None:
                sum_.add_(grad.to(sum_.dtype).square(), alpha=sizes[-1] / len(batches))
    return total
