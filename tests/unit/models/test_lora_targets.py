"""Layers that an adapter is to go around, and the network does not have, are named in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from _language_models import FAMILIES
from torch import nn
from transformers import (
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
)

from lightning_unlearn import LoRA, TinyCausalLM


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["qproj"], "Found 'qproj', which none of them is called. Close: `q_proj`"),
        (["q_proj", "vproj"], "Found 'vproj', .* Close: `v_proj`"),
        (["down"], "Close: `down_proj`"),
        (["zzz"], 'It has: `down_proj`, `embed_tokens`, .*Or use "all-linear"'),
        ("nope.*", "Found 'nope.\\*', which none"),
        ("all_linear", "Found 'all_linear', which none.* Or use \"all-linear\""),
        (["self_attn"], r"Found `\['self_attn'\]`, which names a `LlamaAttention`"),
        (["mlp", "q_proj"], "which names a `LlamaMLP`"),
        (".*layers.0", "which names a `LlamaDecoderLayer`"),
        (["norm"], "which names a `LlamaRMSNorm`"),
    ],
)
def test_a_layer_that_is_not_there_or_has_no_matrix(targets: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        LoRA(target_modules=targets).wrap(TinyCausalLM(hidden_size=8))
    assert len(str(refused.value)) < 300
    assert refused.value.__cause__ is None  # nor PEFT's eight kilobytes above it


@pytest.mark.parametrize("targets", [[], "", 5, None, ["q_proj", 3], "["], ids=repr)
def test_what_names_nothing_is_refused_before_a_network_is_loaded(targets: Any) -> None:
    with pytest.raises(ValueError, match="`target_modules` should be "):
        LoRA(target_modules=targets)


@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("llama", ["q_proj", "v_proj"]),
        ("llama", r"model\.layers\.\d\..*_proj"),
        ("llama", ["layers.0.mlp.up_proj"]),
        ("gpt2", ["c_attn"]),
        ("opt", ["fc1"]),
        ("phi", "all-linear"),
    ],
)
def test_what_is_there_is_adapted(family: str, targets: Any) -> None:
    wrapped = LoRA(r=2, target_modules=targets).wrap(FAMILIES[family]())
    assert [name for name, p in wrapped.named_parameters() if p.requires_grad]


SIZES: dict[str, Any] = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2}
HEADS: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 2}
UNFIT: dict[str, Callable[[], nn.Module]] = {
    "mamba": lambda: MambaForCausalLM(MambaConfig(**SIZES, state_size=4)),
    "mamba2": lambda: Mamba2ForCausalLM(Mamba2Config(**SIZES, state_size=4, num_heads=4, head_dim=8, n_groups=1)),
    "phimoe": lambda: PhimoeForCausalLM(PhimoeConfig(**SIZES, **HEADS, intermediate_size=16, num_local_experts=4)),
}


@pytest.mark.parametrize("name", UNFIT)
@pytest.mark.filterwarnings("ignore:`LoRA` on all linear layers")
def test_of_all_linear_layers_those_that_cannot_have_an_adapter_go_without(name: str) -> None:
    wrapped = LoRA(r=2).wrap(UNFIT[name]())
    tokens = torch.randint(3, 30, (2, 7), generator=torch.Generator().manual_seed(0))
    wrapped(input_ids=tokens, labels=tokens).loss.backward()
    adapted = {name for name, p in wrapped.named_parameters() if p.requires_grad and p.grad is not None}
    assert adapted
    assert not [name for name in adapted if "router" in name or "out_proj" in name]


def test_layers_that_are_named_are_left_out_beside_those_that_cannot_have_an_adapter() -> None:
    wrapped = LoRA(r=2, exclude_modules=["in_proj"]).wrap(UNFIT["mamba"]())
    assert not [name for name, p in wrapped.named_parameters() if p.requires_grad and "in_proj" in name]
