"""How far one step on an example leads away from where other data want the weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def fisher_conflict(
    gradient: Sequence[Tensor | None], fisher: Sequence[Tensor], drift: Sequence[Tensor], lr: float
) -> float:
    r"""What a step on an example adds to the Fisher-weighted squared distance from an optimum.

    .. math:: \sum_i F_i \bigl[(\theta - \eta g - \theta^*)_i^2 - (\theta - \theta^*)_i^2\bigr]
              = 2 \eta \langle F \circ (\theta^* - \theta), g \rangle + \eta^2 \langle F, g^2 \rangle

    Args:
        gradient: :math:`g`, a tensor per parameter; ``None`` for zeros.
        fisher: :math:`F`.
        drift: :math:`\theta^* - \theta`.
        lr: :math:`\eta`.

    Example:
        >>> import torch
        >>> one = [torch.tensor([1.0, 2.0])]
        >>> fisher_conflict([torch.tensor([1.0, 0.0])], fisher=one, drift=one, lr=0.5)  # 1.5 ** 2 - 1 ** 2
        1.25
    """
    total = 0.0
    for g, f, d in zip(gradient, fisher, drift, strict=True):
        if g is not None:
            g, f, d = g.double(), f.double(), d.double()
            total += float(2 * lr * (f * d * g).sum() + lr**2 * (f * g * g).sum())
    return total
