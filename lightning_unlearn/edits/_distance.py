from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.edits._needs import logits_of
from lightning_unlearn.functional.divergence import kl_divergence
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import eval_without_grad


@dataclass(frozen=True)
class Distance:
    """How far an edited network is from one that was trained without the forget data, against no edit at all.

    Args:
        weights: Length of the difference of weights over that of the original's: 0 is the retrained network, 1 is no edit.
            Only where training ends at the same point from everywhere, as in a convex model, does it say much.
        predictions: Mean divergence of the retrained network's predictions from the edited one's over that from the
            original's, likewise; 0 if the original already says what the retrained network says, and so does the edited.
        cosine: Of the edit and the way from the original to the retrained weights; 0 without an edit.
    """

    weights: float
    predictions: float
    cosine: float


def distance_to_retrained(
    network: nn.Module,
    *,
    original: nn.Module,
    retrained: nn.Module,
    batches: Sequence[Any],
    readout: Readout,
) -> Distance:
    r"""Judge an edit by what it stands for: training again without the forget data.

    .. math:: \frac{\|\theta - \theta_\mathrm{re}\|}{\|\theta_0 - \theta_\mathrm{re}\|}, \qquad
        \frac{\mathrm{KL}(p_\mathrm{re} \,\|\, p_\theta)}{\mathrm{KL}(p_\mathrm{re} \,\|\, p_0)}

    In float64.

    Args:
        network: After the edit.
        original: Before it.
        retrained: Trained as the original was, on retain data alone.
        batches: Where predictions are compared.
        readout: How to run all three.

    Example:
        >>> from lightning_unlearn.readouts import ClassificationReadout
        >>> networks = [nn.Linear(1, 2) for _ in range(3)]
        >>> for network, weight in zip(networks, (0.0, 1.0, 4.0)):
        ...     _ = network.weight.data.fill_(weight), network.bias.data.fill_(0.0)
        >>> edited, retrained, original = networks[1], networks[0], networks[2]
        >>> data = {"batches": [(torch.ones(1, 1), torch.zeros(1).long())], "readout": ClassificationReadout()}
        >>> distance_to_retrained(edited, original=original, retrained=retrained, **data).weights
        0.25
    """
    now, before, wanted = (_flat(each) for each in (network, original, retrained))
    step, way = now - before, wanted - before
    tiny = torch.finfo(way.dtype).tiny
    said = [_said(each, batches, readout) for each in (network, original, retrained)]
    here, there = (float(kl_divergence(each, said[2]).clamp_min(0).mean()) for each in said[:2])
    return Distance(
        weights=float((now - wanted).norm() / way.norm().clamp_min(tiny)),
        predictions=here / max(there, tiny),
        cosine=float(step @ way / (step.norm() * way.norm()).clamp_min(tiny)),
    )


def _flat(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().double().flatten() for p in network.parameters()])


def _said(network: nn.Module, batches: Sequence[Any], readout: Readout) -> Tensor:
    with eval_without_grad(network):
        return torch.cat([logits_of(distance_to_retrained, network, readout, batch).double() for batch in batches])
