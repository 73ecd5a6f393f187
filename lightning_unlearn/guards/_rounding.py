from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

# The largest cosine that passes without a warning. Float32 weights usually leave about 1e-7.
_EXPECTED = {torch.float32: 1e-3, torch.float64: 1e-3}
_EXPECTED_IN_LOW_PRECISION = 1e-5


def is_rounded(cosine: float, params: Sequence[Tensor]) -> bool:
    """Whether this ``cosine`` of a corrected step with a protected gradient is above what float32 weights would leave."""
    # The strictest threshold of all dtypes: one bf16 tensor among float32 ones is enough to break the promise.
    return cosine > min(_EXPECTED.get(p.dtype, _EXPECTED_IN_LOW_PRECISION) for p in params)


def warn_of_rounding(cosine: float, params: Sequence[Tensor]) -> None:
    """Warn that the weights round a corrected step, and say what to do."""
    kinds = sorted({str(p.dtype) for p in params})
    rank_zero_warn(
        f"The corrected step should break no rule. Found a cosine of {cosine:.1e} with a protected gradient: weights of "
        f"{kinds} round it. Train float32 weights with `precision='bf16-mixed'`, or use LoRA."
    )


def warn_of_action(action: float, params: Sequence[Tensor]) -> None:
    """Warn that a projected step acts on protected inputs by more than float32 weights would round, and say what to do."""
    kinds = sorted({str(p.dtype) for p in params})
    rank_zero_warn(
        f"The corrected step should not act on protected inputs. Found {action:.1e} of it that does: weights of "
        f"{kinds} round it. Train float32 weights with `precision='bf16-mixed'`, or use LoRA in float32."
    )
