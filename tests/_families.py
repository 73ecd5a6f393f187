"""Tiny causal language models of many families, and batches of several lengths and paddings for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

VOCABULARY = 48
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED: dict[str, Any] = {**_SIZES, "num_key_value_heads": 1}
_TWO_WIDE: dict[str, Any] = {"head_dim": 8}
_GPT: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2}


def _phi3(**options: Any) -> nn.Module:
    """Two sets of frequencies, of which the longest position chooses one."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    config = hf.Phi3Config(
        **{**_GROUPED, "max_position_embeddings": 128}, original_max_position_embeddings=24, rope_parameters=rope
    )
    return hf.Phi3ForCausalLM(config)


FAMILIES_OF_MODELS: dict[str, Callable[[], nn.Module]] = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**_GROUPED)),
    "mistral, sliding window": lambda: hf.MistralForCausalLM(hf.MistralConfig(**_GROUPED, sliding_window=12)),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**_GPT, n_positions=128, n_embd=16, n_layer=2, n_head=2)),
    "gpt_neo, local attention": lambda: hf.GPTNeoForCausalLM(
        hf.GPTNeoConfig(
            **_GPT,
            hidden_size=16,
            num_layers=2,
            num_heads=2,
            attention_types=[[["global", "local"], 1]],
            window_size=48,
            max_position_embeddings=128,
        )
    ),
    "gpt_neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**_SIZES)),
    "gptj": lambda: hf.GPTJForCausalLM(
        hf.GPTJConfig(**_GPT, n_positions=128, n_embd=16, n_layer=2, n_head=2, rotary_dim=4)
    ),
    "opt": lambda: hf.OPTForCausalLM(hf.OPTConfig(**_SIZES, ffn_dim=24, word_embed_proj_dim=16)),
    "bloom, alibi": lambda: hf.BloomForCausalLM(hf.BloomConfig(**_GPT, hidden_size=16, n_layer=2, n_head=2)),
    "falcon, alibi": lambda: hf.FalconForCausalLM(
        hf.FalconConfig(**_GPT, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, alibi=True)
    ),
    "mpt": lambda: hf.MptForCausalLM(hf.MptConfig(vocab_size=VOCABULARY, d_model=16, n_heads=2, n_layers=2)),
    "phi3, longrope": _phi3,
    "gemma2, soft caps": lambda: hf.Gemma2ForCausalLM(
        hf.Gemma2Config(**_GROUPED, **_TWO_WIDE, sliding_window=12, final_logit_softcapping=0.8)
    ),
    "gemma3, windows": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**_GROUPED, **_TWO_WIDE, sliding_window=12)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**_GROUPED, **_TWO_WIDE)),
    "mixtral": lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**_GROUPED, num_local_experts=4)),
    "gpt_oss, sinks": lambda: hf.GptOssForCausalLM(
        hf.GptOssConfig(**_GROUPED, **_TWO_WIDE, num_local_experts=4, num_experts_per_tok=2, sliding_window=12)
    ),
    "llama4, chunks": lambda: hf.Llama4ForCausalLM(
        hf.Llama4TextConfig(
            **_GROUPED, **_TWO_WIDE, intermediate_size_mlp=24, num_local_experts=2, attention_chunk_size=24
        )
    ),
    "mamba": lambda: hf.MambaForCausalLM(
        hf.MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, state_size=4)
    ),
    "lfm2, convolutions": lambda: hf.Lfm2ForCausalLM(hf.Lfm2Config(**_GROUPED, layer_types=["conv", "full_attention"])),
    "recurrent_gemma": lambda: hf.RecurrentGemmaForCausalLM(
        hf.RecurrentGemmaConfig(**{**_GROUPED, "num_hidden_layers": 3}, lru_width=16, attention_window_size=12)
    ),
    "cohere, scaled head": lambda: hf.CohereForCausalLM(hf.CohereConfig(**_GROUPED, logit_scale=0.25)),
    "granite, scaled head": lambda: hf.GraniteForCausalLM(hf.GraniteConfig(**_GROUPED, logits_scaling=3.0)),
    "phi, bias in the head": lambda: hf.PhiForCausalLM(hf.PhiConfig(**_SIZES)),
    "bert as decoder": lambda: hf.BertLMHeadModel(hf.BertConfig(**_SIZES, is_decoder=True)),
    "xglm": lambda: hf.XGLMForCausalLM(
        hf.XGLMConfig(
            vocab_size=VOCABULARY,
            max_position_embeddings=128,
            d_model=16,
            ffn_dim=24,
            num_layers=2,
            attention_heads=2,
            pad_token_id=0,
        )
    ),
}


def of_family(name: str) -> nn.Module:
    """A network in evaluation mode, whose weights are large enough that every token matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = FAMILIES_OF_MODELS[name]().eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def rows(lengths: tuple[int, ...], *, shared: int, side: str = "right", seed: int = 0) -> dict[str, Tensor]:
    """Rows that share their first tokens, supervised behind them, padded on one side."""
    generator = torch.Generator().manual_seed(seed)
    width, start = max(lengths), torch.randint(3, VOCABULARY, (shared,), generator=generator)
    out = {
        "input_ids": torch.zeros(len(lengths), width, dtype=torch.int64),
        "attention_mask": torch.zeros(len(lengths), width, dtype=torch.int64),
        "labels": torch.full((len(lengths), width), -100),
    }
    for row, length in enumerate(lengths):
        where = slice(0, length) if side == "right" else slice(width - length, width)
        own = torch.randint(3, VOCABULARY, (length - shared,), generator=generator)
        tokens = torch.cat([start, own])
        out["input_ids"][row, where], out["attention_mask"][row, where] = tokens, 1
        out["labels"][row, where] = torch.where(torch.arange(length) < shared, -100, tokens)
    return out


SHORT = {"lengths": (9, 7), "shared": 5}
LONG = {"lengths": (20, 22, 18, 22, 21, 20), "shared": 7}
BATCHES: dict[str, dict[str, Tensor]] = {
    "short": rows(**SHORT),
    "long": rows(**LONG),
    "short, left": rows(**SHORT, side="left"),
    "long, left": rows(**LONG, side="left"),
    "mixed, left": rows((22, 3, 17), shared=2, side="left", seed=4),
}
ORDERS = (
    ("short", "long"),
    ("long", "short"),
    ("short, left", "long"),
    ("short", "long, left", "mixed, left"),
)


def own_loss_row_by_row(network: Any, batch: dict[str, Tensor]) -> Tensor:
    """Hugging Face's own loss of each row, without padding and alone; their mean over supervised tokens."""
    total, count = 0, 0
    for tokens, mask, labels in zip(batch["input_ids"], batch["attention_mask"].bool(), batch["labels"], strict=True):
        supervised = int((labels[mask][1:] != -100).sum())
        if supervised:
            total = total + supervised * network(input_ids=tokens[mask][None], labels=labels[mask][None]).loss
        count += supervised
    return torch.as_tensor(total / count)
