"""Buffers whose size is not known before the first batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def fit_sizes(module: nn.Module, state: Mapping[str, Any], prefix: str) -> None:
    """Give the buffers of ``module`` the sizes they have in ``state``: torch refuses to copy a tensor of another shape.

    Example:
        >>> import torch
        >>> module = nn.Module()
        >>> module.register_buffer("control", torch.empty(0))
        >>> fit_sizes(module, {"control": torch.ones(3)}, prefix="")
        >>> module.control.shape
        torch.Size([3])
    """
    for name, buffer in module.named_buffers(recurse=False):
        if (saved := state.get(f"{prefix}{name}")) is not None:
            setattr(module, name, buffer.new_empty(saved.shape))
