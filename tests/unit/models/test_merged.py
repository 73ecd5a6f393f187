"""A merged network is the network that was trained, and so is its folder; what is not is noticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from _adapters import ALL, BASES, tied_by_hand, untied_by_hand, wrapped
from _language_models import VOCABULARY, batch, family, train_adapter
from peft import LoraConfig, PeftModel, get_peft_model
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from lightning_unlearn import LoRA, PretrainedCausalLM
from lightning_unlearn.models import merged, refuse_other_weights, savable
from lightning_unlearn.runtime import checksum

pytestmark = [
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True` and a tied layer"),
    pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match"),
    pytest.mark.filterwarnings("ignore:Could not find a config file"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`"),
]


def said(network: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = network.eval()(**batch()).logits
    return logits


@pytest.mark.parametrize("name", ALL)
def test_a_folder_says_what_the_network_says(name: str, tmp_path: Path) -> None:
    network = wrapped(name, trained=True)
    expected, before = said(network), checksum(network)
    plain = merged(network)
    with savable(plain):
        plain.save_pretrained(tmp_path)
    refuse_other_weights(str(tmp_path), plain)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert_close(said(again), expected, rtol=1e-4, atol=1e-4)
    assert checksum(network) == before
    assert torch.equal(said(network), expected)
    assert not any("lora" in n for n, _ in again.named_parameters())


@pytest.mark.parametrize("name", ALL)
def test_an_adapter_and_its_base_say_what_the_network_says(name: str, tmp_path: Path) -> None:
    base, network = BASES[ALL[name][0]], wrapped(name, trained=True)
    torch.manual_seed(0)
    with savable(plain := base()):
        plain.save_pretrained(tmp_path / "base")
    with savable(network.get_base_model()):
        network.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    assert_close(said(again), said(network), rtol=1e-5, atol=1e-5)


def test_what_is_tied_stays_tied_where_it_can() -> None:
    for name, is_tied in (("tied, together", True), ("tied head", False), ("factors of tied embeddings", False)):
        plain: Any = merged(wrapped(name, trained=True))
        assert (plain.lm_head.weight is plain.model.embed_tokens.weight) == is_tied


@pytest.mark.parametrize("make", [tied_by_hand, untied_by_hand, lambda: family("gpt2"), lambda: family("llama")])
def test_heads_tied_or_not_by_hand_come_back(make: Any, tmp_path: Path) -> None:
    network = make()
    said_by_config = network.config.tie_word_embeddings
    with savable(network):
        network.save_pretrained(tmp_path)
    refuse_other_weights(str(tmp_path), network)
    assert torch.equal(said(AutoModelForCausalLM.from_pretrained(tmp_path)), said(network))
    assert network.config.tie_word_embeddings == said_by_config


def test_settings_that_are_not_saved_are_left_out_meanwhile(tmp_path: Path) -> None:
    network = family("llama")
    network.generation_config.temperature = 0.3  # without sampling: transformers refuses to save it
    network.generation_config.eos_token_id = 5
    with pytest.raises(ValueError, match="GenerationConfig is invalid"):
        network.save_pretrained(tmp_path)
    with savable(network):
        network.save_pretrained(tmp_path)
    assert network.generation_config.temperature == 0.3
    assert AutoModelForCausalLM.from_pretrained(tmp_path).generation_config.eos_token_id == 5


@pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning")
@pytest.mark.parametrize(("kind", "atol"), [("nf4", 1e-4), ("int8", 0.1)])
def test_layers_that_hold_their_weights_the_other_way_round_in_few_bits(kind: Any, atol: float, tmp_path: Path) -> None:
    """GPT-2's, and its head is tied."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes stores weights in few bits")
    sizes: dict[str, Any] = {"n_positions": 32, "n_embd": 64, "n_layer": 1, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, **sizes)).save_pretrained(
        tmp_path
    )
    lora = LoRA(r=2, target_modules=["c_attn", "c_proj", "wte"])
    network = PretrainedCausalLM(str(tmp_path), lora=lora, quantization=kind)
    train_adapter(network)
    plain: Any = merged(network)
    assert_close(said(plain), said(network), rtol=0, atol=atol)
    assert plain.lm_head.weight is not plain.transformer.wte.weight


@pytest.mark.parametrize("base", ["tied", "llama"])
def test_tokens_that_are_trained_alone_are_merged(base: str) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], trainable_token_indices=[3, 4])
    network = get_peft_model(BASES[base](), config)
    train_adapter(network)
    assert_close(said(merged(network)), said(network), rtol=1e-5, atol=1e-5)


T5 = {"vocab_size": 20, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
LAYERS = {
    f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in {"layers": 1, "attention_heads": 2}.items()
}
WIDTHS = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_source_positions": 4, "num_mel_bins": 4}
SPECIAL = {"decoder_start_token_id": 0, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
ENCODER_DECODERS: dict[str, Any] = {
    "t5": lambda: hf.T5ForConditionalGeneration(hf.T5Config(**T5, **SPECIAL)),
    "t5 with a head of its own": lambda: hf.T5ForConditionalGeneration(
        hf.T5Config(**T5, **SPECIAL, tie_word_embeddings=False)
    ),
    "bart": lambda: hf.BartForConditionalGeneration(hf.BartConfig(vocab_size=20, **LAYERS, **WIDTHS, **SPECIAL)),
    "whisper": lambda: hf.WhisperForConditionalGeneration(
        hf.WhisperConfig(vocab_size=20, **LAYERS, **WIDTHS, **SPECIAL, suppress_tokens=None, begin_suppress_tokens=None)
    ),
}


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_an_encoder_with_a_decoder_is_merged_and_written(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network: Any = LoRA(r=2, target_modules=["q"] if "t5" in name else ["q_proj"]).wrap(ENCODER_DECODERS[name]()).eval()
    train_adapter(network)
    tokens = torch.tensor([[5, 6, 7]])
    features = {"input_features": torch.randn(1, 4, 8)} if name == "whisper" else {"input_ids": tokens}
    plain: Any = merged(network)
    with savable(plain):
        plain.save_pretrained(tmp_path)
    refuse_other_weights(str(tmp_path), plain)
    again = type(plain).from_pretrained(tmp_path)
    with torch.no_grad():
        live = network.get_base_model()  # PEFT would give Whisper token ids
        expected, found = (n(**features, decoder_input_ids=tokens).logits for n in (live, again.eval()))
        with network.disable_adapter():
            before = live(**features, decoder_input_ids=tokens).logits
    assert_close(found, expected, rtol=0, atol=1e-5)
    assert (before - expected).abs().max() > 5e-5


def test_another_folder_is_noticed(tmp_path: Path) -> None:
    network = family("llama")
    network.save_pretrained(tmp_path)
    refuse_other_weights(str(tmp_path), network)
    with torch.no_grad():
        network.model.layers[1].mlp.up_proj.weight[0, 0] += 1e-3
    with pytest.raises(ValueError, match=r"Found other values in `model\.layers\.1\.mlp\.up_proj\.weight`"):
        refuse_other_weights(str(tmp_path), network)


def test_a_merge_that_says_something_else_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with tied embeddings, of which PEFT changes both sides."""
    network = wrapped("factors of tied embeddings", trained=True)
    monkeypatch.setattr("lightning_unlearn.models._merged._untie_adapted_", lambda _: None)
    with pytest.raises(ValueError, match=r"to 0\.001 of its logits. Found .* without merging"):
        merged(network)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_merged_to_its_rounding(dtype: torch.dtype) -> None:
    network = wrapped("plain", trained=True).to(dtype)
    plain = merged(network)
    assert {p.dtype for p in plain.parameters()} == {dtype}
    assert_close(said(plain).float(), said(network).float(), rtol=0, atol=0.1)


def test_a_change_that_rounding_takes_is_noticed() -> None:
    """Of steps far below a bfloat16's precision nothing would be left, and the folder would be the original."""
    network = wrapped("plain").to(torch.bfloat16)
    frozen = next(p for p in network.parameters() if p.requires_grad).requires_grad_(False)
    with torch.no_grad():
        for n, p in network.named_parameters():
            p.fill_(3e-4) if "lora_B" in n else None
    with pytest.raises(ValueError, match=r"more than half of it is lost when .*bfloat16.*float32"):
        merged(network)
    assert not frozen.requires_grad
    merged(network.float())


def test_a_network_that_diverged_is_written_as_it_is(tmp_path: Path) -> None:
    network = wrapped("plain", trained=True)
    with torch.no_grad():
        next(p for n, p in network.named_parameters() if "lora_B" in n).fill_(float("nan"))
    plain: Any = merged(network)
    plain.save_pretrained(tmp_path)
    refuse_other_weights(str(tmp_path), plain)
    assert said(AutoModelForCausalLM.from_pretrained(tmp_path)).isnan().any()
