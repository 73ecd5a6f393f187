"""Fits in half precision with a loss scaler, on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.plugins.precision import MixedPrecision


def scaled(init_scale: float) -> dict[str, Any]:
    """`precision="16-mixed"` silently becomes bf16 on the CPU; so the plugin by hand."""
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=1000)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=scaler)]}
