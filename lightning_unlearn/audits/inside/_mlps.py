from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_unlearn.functional.logistic import standardise

_STEPS = 150


def mlp_scores(fit: Tensor, labels: Tensor, judged: Tensor, *, hidden: int, seed: int) -> Tensor:
    """Scores of networks with one hidden layer, one for each layer of states, all trained at once.

    They share no weight, so that each is what it would be alone. AdamW, 150 steps over all rows.

    Args:
        fit: States that they are fitted to, ``[L, n, D]``.
        labels: Of these rows, ``[n]`` bool.
        judged: Other states, ``[L, m, D]``.
        hidden: Width of the hidden layer.
        seed: Of the start values, the same for each layer. Global random numbers are left alone.

    Returns:
        ``[L, m]``, larger for what is more like the positive class.

    Example:
        >>> states, labels = torch.tensor([[[-1.0], [1.0]]]), torch.tensor([False, True])
        >>> (mlp_scores(states, labels, 3 * states, hidden=8, seed=0) > 0).tolist()
        [[False, True]]
    """
    moments = [standardise(of_layer.double()) for of_layer in fit]
    mean, scale = (torch.stack(each)[:, None] for each in zip(*moments, strict=True))
    x, new = (((states.double() - mean) / scale).float() for states in (fit, judged))
    layers, _, width = x.shape
    generator = torch.Generator().manual_seed(seed)

    def start(rows: int, columns: int) -> Tensor:
        one = (2 * torch.rand(rows, columns, generator=generator, dtype=torch.float32) - 1) / rows**0.5
        weights: Tensor = one.expand(layers, rows, columns).clone()
        return weights.requires_grad_(True)

    with torch.inference_mode(False), torch.enable_grad():
        x, target = x.clone(), labels.float().expand(layers, -1).clone()
        first, second = start(width, hidden), start(hidden, 1)
        biases = [torch.zeros(layers, 1, columns, requires_grad=True, dtype=torch.float32) for columns in (hidden, 1)]

        def scores(states: Tensor) -> Tensor:
            logits: Tensor = (states @ first + biases[0]).relu() @ second + biases[1]
            return logits[..., 0]

        optimizer = torch.optim.AdamW([first, second, *biases], lr=1e-2, weight_decay=1e-2)
        for _ in range(_STEPS):
            optimizer.zero_grad()
            # A sum over layers: otherwise a layer's own gradient would depend on their number.
            F.binary_cross_entropy_with_logits(scores(x), target, reduction="none").mean(1).sum().backward()
            optimizer.step()
        found: Tensor = scores(new.clone()).detach()
        return found
