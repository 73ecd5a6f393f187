from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

_EXPECTED = {torch.float32: 1e-3, torch.float64: 1e-3}
_EXPECTED_IN_LOW_PRECISION = 1e-5


def is_rounded(cosine: float, params: Sequence[Tensor]) -> bool:
    """Whether a corrected step with this ``cosine`` to a protected gradient is off by more than float32 weights round it."""
    return cosine > min(_EXPECTED.get(p.dtype, _EXPECTED_IN_LOW_PRECISION) for p in params)


def warn_of_rounding(cosine: float, params: Sequence[Tensor]) -> None:
    """Say that weights round a corrected step, and what to do."""
    kinds = sorted({str(p.dtype) for p in params})
    rank_zero_warn(
        f"The corrected step should break no rule. Found a cosine of {cosine:.1e} with a protected gradient: weights of "
        f"{kinds} round it. Train float32 weights with `precision='bf16-mixed'`, or use LoRA."
    )
