"""Layers that an adapter is to go around, and the network does not have, are named in one sentence."""

from __future__ import annotations

from typing import Any

import pytest
from _language_models import FAMILIES

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
