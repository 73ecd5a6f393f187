"""Mixtures and state-space models keep most weights out of linear layers: rounding and relearning reach them there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch.testing import assert_close

from lightning_unlearn import LoRA, Prune, Quantize, Relearn

SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "max_position_embeddings": 64,
}
EXPERTS: dict[str, Any] = {**SIZES, "num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}
SMALL: dict[str, Any] = {**EXPERTS, "moe_intermediate_size": 8, "head_dim": 8}
DEEPSEEK: dict[str, Any] = {
    **{k: v for k, v in SMALL.items() if k != "head_dim"},
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}
STATES: dict[str, Any] = {"vocab_size": 32, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "Mixtral": EXPERTS,
    "Qwen2Moe": {**EXPERTS, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8},
    "Qwen3Moe": SMALL,
    "DeepseekV3": DEEPSEEK,
    "GptOss": {**EXPERTS, "head_dim": 8},
    "GraniteMoe": EXPERTS,
    "JetMoe": {**EXPERTS, "kv_channels": 8},
    "Phimoe": EXPERTS,
    "Olmoe": EXPERTS,
    "Llama4": {**EXPERTS, "intermediate_size_mlp": 24, "head_dim": 8},
    "Jamba": {
        **EXPERTS,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
    },
    "Mamba": STATES,
    "Mamba2": {**STATES, "num_heads": 4, "head_dim": 8, "n_groups": 1},
    "RecurrentGemma": {
        **{**SIZES, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3},
        **{"lru_width": 32, "attention_window_size": 8},
    },
}


def dbrx() -> Any:
    config = transformers.DbrxConfig(
        vocab_size=32,
        d_model=16,
        n_heads=2,
        n_layers=2,
        max_seq_len=64,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        ffn_config={"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2},
        attn_config={"kv_n_heads": 2, "clip_qkv": 8.0},
    )
    config.attn_config.rope_theta = 1e4  # missing in this version of transformers
    return transformers.DbrxForCausalLM(config)


def built(family: str) -> Any:
    torch.manual_seed(0)
    if family == "Dbrx":
        return dbrx().eval()
    config = getattr(transformers, "Llama4TextConfig" if family == "Llama4" else f"{family}Config")
    return getattr(transformers, f"{family}ForCausalLM")(config(**FAMILIES[family])).eval()


TOKENS = torch.arange(1, 19).view(2, 9)


def hidden(network: Any) -> torch.Tensor:
    with torch.no_grad():
        return getattr(network, "model", network.base_model)(input_ids=TOKENS, use_cache=False).last_hidden_state


@pytest.mark.parametrize("family", [*FAMILIES, "Dbrx"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_rounding_and_relearning_reach_nearly_all_weights_and_leave_them(family: str) -> None:
    network = built(family)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    assert min(attack.share_reached(network) for attack in (Quantize(), Prune())) > 0.9
    assert Relearn().share_reached(network) == Relearn(mode="full").share_reached(network) == 1
    before = hidden(network)
    attack = Relearn(steps=2, lr=0.1)
    with attack(
        network, batches=[TOKENS], loss=lambda x: network(input_ids=x, labels=x, use_cache=False).loss
    ) as points:
        next(points)
        assert_close(hidden(network), before, rtol=1e-5, atol=1e-6)
        assert list(points) == [1, 2]
        assert float((hidden(network) - before).abs().max()) > 0.01
    assert network.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert_close(hidden(network), before, rtol=1e-5, atol=1e-6)


def test_experts_that_follow_each_other_in_the_rows_are_rounded_one_by_one() -> None:
    """DBRX keeps each matrix as `[experts * width, hidden]`; its last one has its inputs there."""
    network = built("Dbrx")
    experts = network.transformer.blocks[0].ffn.experts.mlp
    before = {name: p.detach().clone().view(4, 24, 16) for name, p in experts.named_parameters()}
    with Quantize(bits=3)(network):
        for name, weight in before.items():
            outputs = weight.mT if name == "w2" else weight
            scales = outputs.abs().amax(-1, keepdim=True) / 3
            rounded = (outputs / scales).round() * scales
            assert_close(getattr(experts, name).detach().view(4, 24, 16), rounded.mT if name == "w2" else rounded)


def test_an_adapter_that_misses_the_experts_says_so_once() -> None:
    with pytest.warns(
        UserWarning, match=r"reaches \d+% of them. .* `target_parameters=\['mlp.w1', 'mlp.v1', 'mlp.w2'\]`"
    ):
        adapted = LoRA(r=2).wrap(built("Dbrx"))
    assert Relearn(mode="full").share_reached(adapted) < 0.5
    assert Relearn().share_reached(adapted) == 1
    LoRA(r=2, target_modules=["Wqkv"]).wrap(built("Dbrx"))  # who names layers knows which ones
