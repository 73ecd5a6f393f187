"""Adapters of many kinds, around heads and embeddings that are tied or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from _language_models import VOCABULARY, family, train_adapter
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from lightning_unlearn import LoRA

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
}


def tied() -> Any:
    return LlamaForCausalLM(LlamaConfig(**_SIZES, tie_word_embeddings=True))


def tied_by_hand() -> Any:
    network: Any = family("llama")
    network.lm_head.weight = network.model.embed_tokens.weight
    return network


def untied_by_hand() -> Any:
    network = tied()
    network.lm_head.weight = nn.Parameter(torch.randn_like(network.lm_head.weight))
    return network


def experts() -> Any:
    return MixtralForCausalLM(MixtralConfig(**_SIZES, num_local_experts=4, num_experts_per_tok=2))


BASES: dict[str, Callable[[], Any]] = {
    "llama": lambda: family("llama"),
    "phi": lambda: family("phi"),
    "gpt2": lambda: family("gpt2"),
    "tied": tied,
    "by hand": tied_by_hand,
    "untied": untied_by_hand,
    "experts": experts,
}
"""GPT-2 is tied, too, and its layers hold weights as [in, out]."""

IDENTITIES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {}),
    "gaussian": ("llama", {"init_lora_weights": "gaussian"}),
    "dora": ("llama", {"use_dora": True}),
    "dora of Conv1D and embeddings": ("gpt2", {"use_dora": True, "target_modules": ["c_attn", "wte"]}),
    "head and norm": ("llama", {"modules_to_save": ["lm_head", "norm"]}),
    "without q_proj": ("llama", {"exclude_modules": ["q_proj"]}),
    "without a pattern": ("llama", {"exclude_modules": r".*layers\.0.*"}),
    "experts": ("experts", {"target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}),
    "experts alone": ("experts", {"target_modules": [], "target_parameters": ["experts.down_proj"]}),
    "ranks": ("llama", {"rank_pattern": {"q_proj": 1}, "alpha_pattern": {"layers.1.*": 3.0}}),
    "tied head": ("tied", {"modules_to_save": ["lm_head"]}),
    "tied embeddings": ("tied", {"modules_to_save": ["embed_tokens"]}),
    "tied, together": ("tied", {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
    "factors of tied embeddings": ("tied", {"target_modules": ["embed_tokens"]}),
    "factors of both": ("tied", {"target_modules": ["embed_tokens", "lm_head"]}),
    "factors of both, together": ("tied", {"target_modules": ["embed_tokens"], "ensure_weight_tying": True}),
    "tied by hand": ("by hand", {"target_modules": ["embed_tokens"]}),
    "head tied by hand": ("by hand", {"modules_to_save": ["lm_head"]}),
    "untied by hand": ("untied", {"target_modules": ["q_proj"]}),
    "head of GPT-2": ("gpt2", {"modules_to_save": ["lm_head"]}),
    "embeddings of GPT-2": ("gpt2", {"target_modules": ["wte"]}),
}
"""Adapters that add nothing at first."""

OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "all biases": ("phi", {"bias": "all"}),
    "biases of layers": ("phi", {"bias": "lora_only"}),
    "pissa": ("llama", {"init_lora_weights": "pissa"}),
    "fast pissa": ("llama", {"init_lora_weights": "pissa_niter_4"}),
    "olora": ("llama", {"init_lora_weights": "olora"}),
    "orthogonal": ("llama", {"init_lora_weights": "orthogonal"}),
    "random": ("llama", {"init_lora_weights": False}),
}
"""Adapters that change the network, or train what is not in them."""

ALL = {**IDENTITIES, **OTHERS}


def wrapped(name: str, *, trained: bool = False) -> Any:
    base, options = ALL[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = LoRA(r=2, **options).wrap(BASES[base]()).eval()
        if trained:
            train_adapter(network)
    return network
