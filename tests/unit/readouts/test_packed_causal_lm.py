"""Packed rows give what padded rows give, in value and gradient."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MptConfig,
    OPTConfig,
    PhiConfig,
    Qwen2Config,
)

from lightning_unlearn import LoRA
from lightning_unlearn.functional.packing import pack
from lightning_unlearn.readouts import CausalLMReadout, PackedCausalLMReadout
from lightning_unlearn.readouts._packing_check import verdicts_of

SMALL = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS: dict[str, Any] = {
    "llama": lambda **k: LlamaConfig(**SMALL, num_key_value_heads=1, **k),
    "qwen2": lambda **k: Qwen2Config(**SMALL, num_key_value_heads=2, **k),
    "phi": lambda **k: PhiConfig(**SMALL, **k),
    "gpt2": lambda **k: GPT2Config(
        vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=2, **k
    ),
    "gemma2": lambda **k: Gemma2Config(**SMALL, num_key_value_heads=1, head_dim=8, **k),
}  # fmt: skip


def network(kind: str, attention: str = "sdpa") -> Any:
    torch.manual_seed(0)
    attention = "eager" if kind == "gemma2" else attention  # it has no other
    return AutoModelForCausalLM.from_config(CONFIGS[kind](), attn_implementation=attention).eval()


def batch(prefix: int = 5, lengths: tuple[int, ...] = (12, 9, 14, 7), side: str = "right") -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shared = torch.randint(3, 40, (prefix,), generator=generator)
    width = max(lengths)
    rows = {"input_ids": [], "attention_mask": [], "labels": []}
    for number, length in enumerate(lengths):
        own = torch.randint(3, 40, (length - prefix,), generator=generator)
        own[0] = 3 + number  # so that the shared part ends here
        tokens = torch.cat([shared, own])
        labels = torch.where(torch.arange(length) >= prefix + 1 + number % 2, tokens, -100)
        pad = torch.zeros(width - length, dtype=torch.long)
        parts = {
            "input_ids": (pad, tokens),
            "attention_mask": (pad, torch.ones_like(tokens)),
            "labels": (pad - 100, labels),
        }
        for name, (filler, real) in parts.items():
            rows[name].append(torch.cat([filler, real] if side == "left" else [real, filler]))
    return {name: torch.stack(values) for name, values in rows.items()}


def gradients(readout: Any, net: Any, data: Any) -> tuple[Any, list[torch.Tensor]]:
    net.zero_grad()
    prediction = readout(net, data)
    weights = torch.linspace(0.5, 1.5, prediction.batch_size).to(prediction.logits)
    (prediction.example_nll() * weights).sum().backward()
    return prediction, [p.grad.clone() for p in net.parameters() if p.grad is not None]


# Padding on the left gives eager attention rows that see nothing at all, and NaN, in plain Transformers.
@pytest.mark.parametrize(("attention", "side"), [("sdpa", "right"), ("sdpa", "left"), ("eager", "right")])
@pytest.mark.parametrize("kind", CONFIGS)
def test_values_and_gradients_are_those_of_padded_rows(kind: str, attention: str, side: str) -> None:
    if (kind, side) == ("gemma2", "left"):
        return  # eager only, see above
    net, data = network(kind, attention).double(), batch(side=side)
    plain, expected = gradients(CausalLMReadout(), net, data)
    packed, got = gradients(PackedCausalLMReadout(), net, data)
    assert [verdict.exact for verdict in verdicts_of(net).values()] == [True]
    assert torch.equal(packed.labels, plain.labels)
    assert torch.equal(packed.example, plain.example)
    # Transformers computes rotations, and eager softmax, in float32 whatever the weights are.
    assert_close(packed.logits, plain.logits, rtol=0, atol=1e-6)
    for a, b in zip(got, expected, strict=True):
        assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_is_said_is_right_whatever_the_network(kind: str) -> None:
    """Through the check on the first batch: packed where that is exact, plain where it is not."""
    net = network(kind)
    plain, packed = CausalLMReadout()(net, batch()), PackedCausalLMReadout()(net, batch())
    assert_close(packed.logits, plain.logits, rtol=0, atol=1e-5)


def test_positions_from_a_flat_mask_are_read_plainly() -> None:
    """OPT counts its positions from a two-dimensional mask, and takes no other word for them."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = OPTConfig(**sizes, max_position_embeddings=64, word_embed_proj_dim=16, pad_token_id=0)
    net = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    readout = PackedCausalLMReadout()
    assert_close(readout(net, batch()).logits, CausalLMReadout()(net, batch()).logits, rtol=0, atol=1e-6)


def test_sliding_windows_are_read_plainly() -> None:
    torch.manual_seed(0)
    config = MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=3)
    net = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    readout = PackedCausalLMReadout()
    assert_close(readout(net, batch()).logits, CausalLMReadout()(net, batch()).logits, rtol=0, atol=1e-6)
    assert all(verdict.upto.length == 0 for verdict in verdicts_of(net).values())


def test_fewer_tokens_reach_the_network() -> None:
    net, data, seen = network("llama"), batch(), []
    readout = PackedCausalLMReadout()
    readout(net, data)
    net.model.layers[0].register_forward_pre_hook(lambda m, args: seen.append(args[0].shape[0] * args[0].shape[1]))
    readout(net, data)
    assert seen == [5 + (12 - 5) + (9 - 5) + (14 - 5) + (7 - 5)]


@pytest.mark.parametrize(("attention", "tokens"), [("sdpa", 16 * (8 + 14)), ("eager", 32 * 14)])
def test_many_rows_are_packed_where_attention_goes_row_by_row(attention: str, tokens: int) -> None:
    """In a narrow network, attention of all to all would cost more than the padding saves."""
    net, data, seen = network("llama", attention), batch(prefix=1, lengths=(8, 14) * 16), []
    data["input_ids"][:, 0] = torch.arange(3, 35)  # rows share nothing
    readout = PackedCausalLMReadout()
    readout(net, data)
    net.model.layers[0].register_forward_pre_hook(lambda m, args: seen.append(args[0].shape[0] * args[0].shape[1]))
    readout(net, data)
    assert seen == [tokens]


def test_adapter_gets_the_same_gradient() -> None:
    net, data = LoRA(r=4).wrap(network("llama")), batch()
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "lora_B" in name:
                p.normal_()
    _, expected = gradients(CausalLMReadout(), net, data)
    _, got = gradients(PackedCausalLMReadout(), net, data)
    for a, b in zip(got, expected, strict=True):
        assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_row_without_labels_and_batch_without_any() -> None:
    net, data = network("llama"), batch()
    data["labels"][1] = -100
    plain, packed = CausalLMReadout()(net, data), PackedCausalLMReadout()(net, data)
    assert torch.equal(packed.rows_per_example(), plain.rows_per_example())
    data["labels"][:] = -100
    empty = PackedCausalLMReadout()(net, data)
    assert empty.logits.shape == (0, 40)
    (empty.logits.sum() * 0).backward()


def test_extra_inputs_go_the_plain_way() -> None:
    net, data = network("llama"), batch()
    data["position_ids"] = torch.arange(14).expand(4, -1) + 3
    prediction = PackedCausalLMReadout()(net, data)
    assert_close(prediction.logits, CausalLMReadout()(net, data).logits, rtol=0, atol=0)


@pytest.mark.parametrize("prefix", [1, 3, 6])
def test_prefix_ends_before_the_first_prediction(prefix: int) -> None:
    tokens = torch.arange(8).repeat(3, 1)  # all the same: only the labels bound it
    predicts = torch.zeros(3, 8, dtype=torch.bool)
    predicts[:, prefix:7] = True
    assert pack(tokens, torch.ones_like(predicts), predicts).prefix == prefix


def test_one_row_is_itself() -> None:
    tokens = torch.tensor([[4, 5, 6, 0]])
    packed = pack(tokens, tokens > 0, torch.zeros(1, 4, dtype=torch.bool))
    assert packed.tokens.tolist() == [[4, 5, 6]]
    assert torch.equal(packed.visible[0, 0], torch.ones(3, 3).tril().bool())


def test_a_first_batch_of_one_row_decides_nothing() -> None:
    """One row packs to itself whatever the network; the next batch would be read wrongly."""
    torch.manual_seed(0)
    net = AutoModelForCausalLM.from_config(
        MptConfig(d_model=16, n_heads=2, n_layers=2, vocab_size=40, max_seq_len=64), attn_implementation="eager"
    ).eval()
    readout, data = PackedCausalLMReadout(), batch()
    readout(net, {name: value[:1] for name, value in data.items()})
    readout(net, {**data, "labels": torch.full_like(data["labels"], -100)})
    assert_close(readout(net, data).logits, CausalLMReadout()(net, data).logits, rtol=0, atol=1e-6)
    assert [verdict.exact for verdict in verdicts_of(net).values()] == [False]


def test_a_network_that_refuses_our_mask_is_read_plainly() -> None:
    torch.manual_seed(0)
    net = AutoModelForCausalLM.from_config(BloomConfig(vocab_size=40, hidden_size=16, n_layer=1, n_head=2)).eval()
    readout, data = PackedCausalLMReadout(), batch()
    assert torch.equal(readout(net, data).logits, CausalLMReadout()(net, data).logits)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda readout: pickle.loads(pickle.dumps(readout))])
def test_copies_read_the_same(copied: Any) -> None:
    net, data, readout = network("llama"), batch(), PackedCausalLMReadout(keep_features=True)
    prediction = readout(net, data)
    again = copied(readout)(net, data)
    assert torch.equal(again.logits, prediction.logits)
    assert torch.equal(again.features, prediction.features)
