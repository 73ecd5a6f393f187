from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lightning_unlearn.functional.int8_rows import pack_int8

Storage = Literal["fp32", "bf16", "int8", "cpu", "matrix_free"]
"""How directions are kept: as float32; as bfloat16 (half the memory; on the bundled model the applied step kept a cosine of
up to 7e-6 to the true gradient); as int8 with a scale for every 256 elements (a quarter; up to 4e-5); in the computer's main
memory; or not at all: written out again, block by block, from inputs and output gradients of layers (:class:`PerExample`
only)."""


def stored(tensor: Tensor, storage: Storage, scale: float = 1.0) -> Tensor:
    """A copy of ``tensor``, divided by ``scale``; as int8 it has another shape (:func:`pack_int8`).

    Example:
        >>> stored(torch.ones(2), "bf16", scale=2.0)
        tensor([0.5000, 0.5000], dtype=torch.bfloat16)
    """
    raised = torch.promote_types(tensor.dtype, torch.float32)
    tensor = tensor.detach() if scale == 1 else tensor.detach().to(raised) / scale
    if storage == "int8":
        return pack_int8(tensor)
    device = torch.device("cpu") if storage == "cpu" else tensor.device
    return tensor.to(device, torch.bfloat16 if storage == "bf16" else raised, copy=True)
