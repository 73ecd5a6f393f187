from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader

SIZES: dict[str, dict[str, Any]] = {
    "1b": {  # the shapes of Llama-3.2-1B
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 8192,
        "vocab_size": 128256,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    },
    "tiny": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "vocab_size": 1024,
    },
}


def network(size: str, device: torch.device, dtype: torch.dtype, *, lora: bool) -> Any:
    """A Llama with random weights and a tied head."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    from lightning_unlearn import LoRA

    torch.manual_seed(0)
    config = LlamaConfig(**SIZES[size], max_position_embeddings=2048, tie_word_embeddings=True, use_cache=False)
    with device:  # drawn there: a billion numbers take a CPU half a minute
        made = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
        return LoRA(r=8).wrap(made) if lora else made


def rows(size: str, number: int, length: int, seed: int) -> list[dict[str, torch.Tensor]]:
    """Rows of random tokens, without padding; the first quarter of each is a question, and is not supervised."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(SIZES[size]["vocab_size"], (number, length), generator=generator)
    labels = tokens.clone()
    labels[:, : length // 4] = -100
    return [
        {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": label}
        for row, label in zip(tokens, labels, strict=True)
    ]


def loaders(size: str, length: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """What stays and what must go, four rows a batch."""
    return DataLoader(rows(size, 256, length, 1), batch_size=4), DataLoader(rows(size, 16, length, 2), batch_size=4)


def compile_decoder(network: Any) -> None:
    """Of a bare Llama: a compiled head would not show its hidden states to anybody."""
    network.model.compile()
