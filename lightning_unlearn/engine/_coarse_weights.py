from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def refuse_coarse_weights(params: Sequence[Tensor], who: str, size: float) -> None:
    """Refuse weights whose precision would swallow changes of a relative ``size``.

    Half an ulp is what rounding to nearest swallows: a change of that size, relative to the weight, moves about half of
    the weights. Ten times as much is asked for.

    Raises:
        ValueError: If the weights of some parameter are too coarse.

    Example:
        >>> refuse_coarse_weights([torch.zeros(1)], "Refresh", 1e-5)
    """
    for dtype in {p.dtype for p in params if p.is_floating_point()}:
        step = torch.finfo(dtype).eps
        if size < 5 * step:
            raise ValueError(
                f"`{who}` should change weights by {size:.0e} of their size. Found weights in {dtype}, which has steps of "
                f"{step:.0e}: most would not move. Train float32 weights with `precision='bf16-mixed'`, or use LoRA in "
                "float32."
            )
