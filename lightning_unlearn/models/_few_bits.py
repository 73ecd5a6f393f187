"""A base that is kept in few bits by bitsandbytes, ready for an adapter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from lightning_unlearn.models._extras import require
from lightning_unlearn.models._low_bit_state import loads_low_bit


def quantized(quantization: str, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments for ``from_pretrained`` that round weights while they are loaded, for arithmetic in ``dtype``."""
    require("bitsandbytes", purpose=f"`quantization={quantization!r}`")
    from transformers import BitsAndBytesConfig

    if quantization == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=quantization, bnb_4bit_compute_dtype=dtype)
    return {"quantization_config": config, **on_own_device()}


def on_own_device() -> dict[str, Any]:
    """Argument for ``from_pretrained``: this process's GPU. Lightning starts one per device and sets ``LOCAL_RANK``."""
    return {"device_map": {"": f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"}}


def made_trainable(network: nn.Module) -> nn.Module:
    """Freeze a base in few bits, and prepare it for gradients through it and for checkpoints."""
    from peft import prepare_model_for_kbit_training

    # Freezes the base, and makes float32 what is not quantised (norms, embeddings). Checkpointing is set up elsewhere.
    network = prepare_model_for_kbit_training(network, use_gradient_checkpointing=False)
    layers: Iterator[Any] = network.modules()
    for layer in layers:
        # On some CPUs, bitsandbytes repacks 4-bit weights in the first evaluation pass, for a kernel without a gradient,
        # and never undoes it.
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    loads_low_bit(network)
    return network
