from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_unlearn.attacks._quantize import Quantize
from lightning_unlearn.engine import gathered
from lightning_unlearn.functional.grids import expected_flips
from lightning_unlearn.functional.quantization import flipped_fraction
from lightning_unlearn.models import read_weights, without_prefix
from lightning_unlearn.models.layers import Matrix


@dataclass(frozen=True)
class CodeFlips:
    """How much of the change of one layer few bits can show.

    Args:
        flipped: Share of its weights that are rounded to another level than the original's.
        expected: Share that would be if the original's weights were spread evenly in their buckets.
        weights: Number of its weights.
    """

    flipped: float
    expected: float
    weights: int


def code_flips(network: nn.Module, original: Mapping[str, Tensor] | str, attack: Quantize) -> dict[str, CodeFlips]:
    """Which layers are rounded to other levels than the original's, without a forward pass. Collective under FSDP2.

    A small change is not erased by rounding: it becomes sparse. Where weights are spread evenly in their buckets, as many
    codes flip as :attr:`CodeFlips.expected` says, each by a whole step, so that the rounded network has the change on
    average, and noise on top. Fewer flips mean that the original lies on this very grid. Whether the noise matters is for
    :class:`RoundingNoise` to say.

    Args:
        network: The unlearned network.
        original: The original's weights by name, or their file: safetensors, a Hugging Face folder, a Lightning checkpoint.
        attack: The rounding.

    Returns:
        By the full name of each weight that is rounded.

    Raises:
        ValueError: If the original lacks a weight, or there are adapters, whose change is not in the weights.

    Example:
        >>> network = nn.Linear(64, 64, bias=False)
        >>> original = {"weight": network.weight.detach() + 1e-3}
        >>> found = code_flips(network, original, Quantize(bits=4))["weight"]
        >>> abs(found.flipped - found.expected) < 0.05, found.weights
        (True, 4096)
    """
    weights = read_weights(original) if isinstance(original, str) else dict(original)
    weights = without_prefix(weights, network)
    found = {}
    with torch.no_grad():
        for matrix in attack.whole_matrices(network):
            after = gathered(matrix.tensor.detach())
            old, new = (
                matrix.layout.view(t).flatten(0, matrix.layout.stacked)
                for t in (_before(matrix, weights, after), after)
            )
            flipped, expected = flipped_fraction(old, new, codes=attack.codes), expected_flips(old, new, attack.grid)
            found[matrix.name] = CodeFlips(float(flipped), float(expected), after.numel())
    return found


def _before(matrix: Matrix, weights: Mapping[str, Tensor], after: Tensor) -> Tensor:
    if matrix.adapters:
        raise ValueError(
            f"`code_flips` should compare weights as they are rounded. Found an adapter around `{matrix.name}`: merge it "
            "first, on a copy, such as `copy.deepcopy(network).merge_and_unload()`."
        )
    before = weights.get(matrix.name)
    if before is None or before.shape != after.shape:
        found = "none of that name" if before is None else f"one of {tuple(before.shape)}"
        raise ValueError(
            f"`original` should hold `{matrix.name}` of shape {tuple(after.shape)}. Found {found}. Is it of another model?"
        )
    return gathered(before.detach()).to(after.device)
