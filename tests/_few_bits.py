"""A tiny language model on disk, to be loaded in few bits."""

from __future__ import annotations

from functools import cache
from tempfile import mkdtemp
from typing import Any

import torch
from _language_models import VOCABULARY, batch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from lightning_unlearn import LoRA, PretrainedCausalLM

KINDS = ("nf4", "fp4", "int8")


@cache
def folder(*, seed: int = 0, **settings: Any) -> str:
    """A model wide enough to be rounded in blocks of 64, with weights large enough to matter."""
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 32, "pad_token_id": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes, **heads, **settings))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    network.save_pretrained(where := mkdtemp())
    return where


def in_bits(kind: str, *, base: int = 0, lora: LoRA | None = None, **settings: Any) -> Any:
    return PretrainedCausalLM(folder(seed=base, **settings), lora=lora or LoRA(r=2), quantization=kind)


def by_hand(kind: str) -> Any:
    """As users load it: by transformers and PEFT, with double quantisation."""
    from peft import LoraConfig, get_peft_model

    four = {"load_in_4bit": True, "bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": True}
    config = BitsAndBytesConfig(**({"load_in_8bit": True} if kind == "int8" else four))
    base = AutoModelForCausalLM.from_pretrained(folder(), quantization_config=config, device_map={"": "cpu"})
    for layer in base.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    torch.manual_seed(0)
    return get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "up_proj"])).train()


def said(network: nn.Module) -> Tensor:
    """Logits of a batch, in evaluation mode, without a graph; the mode is put back."""
    mode = network.training
    with torch.no_grad():
        logits: Tensor = network.eval()(**batch()).logits
    network.train(mode)
    return logits
