"""What people have on disk is loaded as the causal language model that it is, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from _few_bits import folder, in_bits, said
from transformers import (
    BartConfig,
    BartForCausalLM,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    CLIPVisionConfig,
    ElectraConfig,
    ElectraForMaskedLM,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
    XLMConfig,
    XLMWithLMHeadModel,
    XLNetConfig,
    XLNetLMHeadModel,
)

from lightning_unlearn import LoRA, PretrainedCausalLM
from lightning_unlearn.models import pretrained_tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
XLM: dict[str, Any] = {"vocab_size": 32, "emb_dim": 16, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 16}
BART: dict[str, Any] = {
    "vocab_size": 64,
    "d_model": 16,
    **{f"{part}_{what}": 1 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")},
    **{f"{part}_ffn_dim": 16 for part in ("encoder", "decoder")},
    "max_position_embeddings": 16,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}


def llava() -> Any:
    vision = CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    return LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=LlamaConfig(**SIZES)))


OTHER_KINDS: dict[str, tuple[Callable[[], Any], str]] = {
    "bert": (lambda: BertForMaskedLM(BertConfig(**SIZES)), "attend to those behind them.*`is_decoder`"),
    "roberta": (lambda: RobertaForMaskedLM(RobertaConfig(**SIZES)), "attend to those behind them"),
    "electra": (lambda: ElectraForMaskedLM(ElectraConfig(**SIZES)), "attend to those behind them"),
    "xlm": (lambda: XLMWithLMHeadModel(XLMConfig(**XLM)), "attend to those behind them"),
    "xlnet": (
        lambda: XLNetLMHeadModel(XLNetConfig(vocab_size=32, d_model=16, n_layer=1, n_head=2, d_inner=16)),
        "attend to those behind them",
    ),
    "bart": (lambda: BartForConditionalGeneration(BartConfig(**BART)), "an encoder with a decoder.*Seq2SeqLM"),
    "t5": (
        lambda: T5ForConditionalGeneration(
            T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        ),
        "an encoder with a decoder.*Seq2SeqLM",
    ),
    "llava": (llava, "images and text.*AutoModelForImageTextToText.*CausalLMReadout"),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_what_is_no_causal_language_model_is_refused(kind: str, tmp_path: Path) -> None:
    make, said_to_be = OTHER_KINDS[kind]
    make().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"`path_or_id` should be a causal language model.*{said_to_be}"):
        PretrainedCausalLM(str(tmp_path))


DECODERS: dict[str, Callable[[], Any]] = {
    "bert": lambda: BertLMHeadModel(BertConfig(**SIZES, is_decoder=True)),
    "xlm": lambda: XLMWithLMHeadModel(XLMConfig(**XLM, causal=True)),
    "bart": lambda: BartForCausalLM(BartConfig(**BART)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2, eos_token_id=1, bos_token_id=1)
    ),
}


@pytest.mark.parametrize("kind", DECODERS)
def test_the_same_as_decoders_are_taken(kind: str, tmp_path: Path) -> None:
    network = DECODERS[kind]()
    network.save_pretrained(tmp_path)
    again = PretrainedCausalLM(str(tmp_path))
    assert type(again) is type(network)


@pytest.mark.parametrize("method", ["gptq", "awq", "compressed-tensors", "fp8", "mxfp4"])
def test_bits_that_no_gradient_goes_through_are_refused(method: str, tmp_path: Path) -> None:
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"in few bits, by '{method}'.*Give the checkpoint that it was made from"):
        PretrainedCausalLM(str(tmp_path))


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_checkpoint_in_bits_of_bitsandbytes_is_taken_with_an_adapter(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes stores weights in few bits")
    network = in_bits(kind)
    network.unload().save_pretrained(tmp_path)
    again = PretrainedCausalLM(str(tmp_path), lora=LoRA(r=2))
    assert torch.equal(said(again), said(in_bits(kind)))
    again.load_state_dict(in_bits(kind).state_dict())
    with pytest.raises(ValueError, match="`quantization` should come with `lora`"):
        PretrainedCausalLM(str(tmp_path))
    with pytest.raises(
        ValueError, match="`quantization` should be left out where the checkpoint is in few bits already"
    ):
        PretrainedCausalLM(str(tmp_path), lora=LoRA(r=2), quantization="nf4")


def test_a_head_that_was_never_trained_is_refused(tmp_path: Path) -> None:
    network = LlamaForCausalLM(LlamaConfig(**SIZES))
    network.model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"Found none for 1 in .*: `lm_head\.weight`\. They would be random"):
        PretrainedCausalLM(str(tmp_path))


def test_a_lost_layer_is_refused(tmp_path: Path) -> None:
    network = LlamaForCausalLM(LlamaConfig(**SIZES))
    network.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(ValueError, match=r"Found none for 9 in .*`model\.layers\.1\..*, \.\.\."):
        PretrainedCausalLM(str(tmp_path))


def test_weights_that_have_no_place_are_said(tmp_path: Path) -> None:
    network = GPT2ForSequenceClassification(GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2, pad_token_id=0))
    network.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"Found 1 in .* that `GPT2LMHeadModel` has no place for: `score\.weight`"):
        PretrainedCausalLM(str(tmp_path))


def test_files_of_torch_are_read(tmp_path: Path) -> None:
    network = LlamaForCausalLM(LlamaConfig(**SIZES))
    network.config.save_pretrained(tmp_path)
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    again = PretrainedCausalLM(str(tmp_path))
    assert all(torch.equal(p, q) for p, q in zip(again.parameters(), network.parameters(), strict=True))


def test_the_dtype_may_be_that_of_the_checkpoint(tmp_path: Path) -> None:
    LlamaForCausalLM(LlamaConfig(**SIZES)).to(torch.bfloat16).save_pretrained(tmp_path)
    assert {p.dtype for p in PretrainedCausalLM(str(tmp_path), dtype="auto").parameters()} == {torch.bfloat16}
    assert {p.dtype for p in PretrainedCausalLM(str(tmp_path)).parameters()} == {torch.float32}


def test_a_folder_with_an_adapter_brings_its_base_and_is_trained_further(tmp_path: Path) -> None:
    network = PretrainedCausalLM(folder(), lora=LoRA(r=2, modules_to_save=["lm_head"], use_dora=True))
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1) if p.requires_grad else None
    network.save_pretrained(tmp_path)
    again = PretrainedCausalLM(str(tmp_path))
    assert torch.equal(said(again), said(network))
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        n for n, p in network.named_parameters() if p.requires_grad
    }
    assert all(m.training for m in again.train().modules())
    with pytest.raises(ValueError, match=r"`lora` should be left out where `path_or_id` is an adapter.*merge_adapter"):
        PretrainedCausalLM(str(tmp_path), lora=LoRA())


def test_an_adapter_without_a_base_is_refused(tmp_path: Path) -> None:
    network = LoRA(r=2).wrap(LlamaForCausalLM(LlamaConfig(**SIZES)))
    network.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="An adapter should name its base"):
        PretrainedCausalLM(str(tmp_path))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "/gone/away"}))
    with pytest.raises(FileNotFoundError, match="Found '/gone/away': no such folder"):
        PretrainedCausalLM(str(tmp_path))


def test_the_revision_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def note(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs.get("revision"))
        raise OSError("not asked for")

    for kind in ("AutoConfig", "AutoTokenizer"):
        monkeypatch.setattr(f"transformers.{kind}.from_pretrained", note)
    for load in (PretrainedCausalLM, pretrained_tokenizer):
        with pytest.raises(OSError, match="not asked for"):
            load("somebody/something", revision="v2")
    assert asked == ["v2", "v2"]
