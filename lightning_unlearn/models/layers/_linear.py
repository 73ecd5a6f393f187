from __future__ import annotations

import sys
from typing import Any

from torch import nn


def is_linear(module: nn.Module) -> bool:
    """Whether ``module`` is a linear layer: ``nn.Linear``, of bitsandbytes too, or the ``Conv1D`` of transformers.

    Example:
        >>> is_linear(nn.Linear(1, 1)), is_linear(nn.Conv1d(1, 1, 1))
        (True, False)
    """
    return isinstance(module, nn.Linear) or is_transposed(module)


def is_transposed(module: nn.Module) -> bool:
    """Whether ``module`` is a linear layer whose weight is ``[in, out]``: the ``Conv1D`` of transformers."""
    # Looked up, not imported, since importing transformers is slow. If it is not loaded, there is no instance of its class.
    loaded = sys.modules.get("transformers.pytorch_utils")
    return loaded is not None and isinstance(module, loaded.Conv1D)


def sizes(linear: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear layer, also where its weight is packed or flattened.

    Example:
        >>> sizes(nn.Linear(2, 3))
        (2, 3)
    """
    layer: Any = linear
    return (layer.nx, layer.nf) if is_transposed(linear) else (layer.in_features, layer.out_features)
