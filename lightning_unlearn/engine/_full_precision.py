from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lightning_unlearn.runtime import without_autocast


def in_full_precision(loss: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
    """``loss``, computed without autocast: in the precision of the weights, for differences of gradients.

    Autocast to bf16 rounds a gradient by about half a percent, which is more than the difference of two that are taken at
    weights a thousandth apart.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 2)
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     layer(torch.ones(2)).dtype, in_full_precision(layer)(torch.ones(2)).dtype
        (torch.bfloat16, torch.float32)
    """

    def run(batch: Any) -> Tensor:
        # Asked when it runs: the engine enters the autocast of the fit.
        with without_autocast():
            return loss(batch)

    return run
