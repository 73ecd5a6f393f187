"""Tiny, randomly initialised language models of several families, and batches for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

VOCABULARY = 23
WIDTH = 16
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}

FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_SIZES)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=32,
            n_embd=WIDTH,
            n_layer=2,
            n_head=2,
            resid_pdrop=0,
            embd_pdrop=0,
            attn_pdrop=0,
        )
    ),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**_SIZES, head_dim=8, final_logit_softcapping=0.3)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_SIZES)),
    "opt": lambda: OPTForCausalLM(OPTConfig(**_SIZES, ffn_dim=16, word_embed_proj_dim=8, dropout=0)),
    "phi": lambda: PhiForCausalLM(PhiConfig(**{**_SIZES, "num_key_value_heads": 2}, partial_rotary_factor=0.5)),
}
_TARGETS = {"gpt2": ["c_attn"], "phi": ["q_proj", "dense"]}


def family(name: str, *, lora: bool = False, head: bool = False, seed: int = 0) -> nn.Module:
    """A model with weights large enough to matter; with ``lora``, only an adapter that is not the identity is trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = FAMILIES[name]()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        if lora:
            network = adapted(network, [*_TARGETS.get(name, ["q_proj", "v_proj"]), *(["lm_head"] if head else [])])
            train_adapter(network)
    return network


def adapted(network: nn.Module, targets: list[str] | None = None, **options: Any) -> nn.Module:
    """A fresh adapter around ``network``: the identity."""
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=2,
        target_modules=targets or ["q_proj", "v_proj"],
        fan_in_fan_out=isinstance(network, GPT2LMHeadModel),
        **options,
    )
    return get_peft_model(network, config)


def train_adapter(network: nn.Module, size: float = 0.3) -> None:
    """Move the adapter as training would."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn_like(parameter))


LENGTHS = (9, 4, 6)
PROMPTS = (3, 2, 6)  # the last row is all prompt


def batch(
    side: str = "right", *, width: int = 9, rows: tuple[int, ...] = (0, 1, 2), masked: bool = True
) -> dict[str, Tensor]:
    """Rows of several lengths, supervised behind a prompt of several lengths, padded on one side."""
    generator = torch.Generator().manual_seed(3)
    tokens = [torch.randint(3, VOCABULARY, (n,), generator=generator) for n in LENGTHS]
    out = {
        "input_ids": torch.zeros(len(rows), width, dtype=torch.int64),
        "labels": torch.full((len(rows), width), -100),
        "attention_mask": torch.zeros(len(rows), width, dtype=torch.int64),
    }
    for place, row in enumerate(rows):
        where = slice(0, LENGTHS[row]) if side == "right" else slice(width - LENGTHS[row], width)
        out["input_ids"][place, where] = tokens[row]
        out["attention_mask"][place, where] = 1
        out["labels"][place, where][PROMPTS[row] :] = tokens[row][PROMPTS[row] :]
    return out if masked else {name: value for name, value in out.items() if name != "attention_mask"}


def language(row: int) -> DataLoader[Any]:
    return DataLoader([{name: value[0] for name, value in batch(rows=(row,)).items()}] * 4, batch_size=1)


def frozen(network: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in network.parameters() if not p.requires_grad]
