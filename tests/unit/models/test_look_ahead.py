"""A model that reads later tokens is refused, whatever it is called; all others pass, and nothing of them moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from _families import FAMILIES_OF_MODELS, of_family
from torch import Tensor, nn

from lightning_unlearn import CausalLMReadout, PackedCausalLMReadout, UnlearningModule
from lightning_unlearn.models.layers import refuse_looking_ahead
from lightning_unlearn.models.layers._look_ahead import _known, looks_ahead
from lightning_unlearn.readouts import HiddenStateReadout

SIZES: dict[str, Any] = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0}
GROUPED: dict[str, Any] = {**SIZES, "num_key_value_heads": 1}


class Diffusing(hf.Qwen2ForCausalLM):
    """As diffusion language models: a decoder whose mask shows everything."""

    def forward(self, input_ids: Tensor, attention_mask: Any = None, **kwargs: Any) -> Any:
        length = input_ids.shape[1]
        everything = torch.ones(len(input_ids), 1, length, length, dtype=torch.bool)
        return super().forward(input_ids, attention_mask=everything, **kwargs)


class Peeking(hf.LlamaForCausalLM):
    """One token ahead, by little."""

    def forward(self, input_ids: Tensor, **kwargs: Any) -> Any:
        embedded = self.get_input_embeddings()(input_ids)
        return super().forward(inputs_embeds=embedded + 0.01 * embedded.roll(-1, 1), **kwargs)


LOOK_AHEAD: dict[str, Callable[[], nn.Module]] = {
    "BERT as language model": lambda: hf.BertLMHeadModel(hf.BertConfig(**SIZES)),
    "RoBERTa": lambda: hf.RobertaForCausalLM(hf.RobertaConfig(**SIZES)),
    "ELECTRA": lambda: hf.ElectraForCausalLM(hf.ElectraConfig(**SIZES, embedding_size=16)),
    "XLNet": lambda: hf.XLNetLMHeadModel(hf.XLNetConfig(vocab_size=40, d_model=16, n_layer=2, n_head=2, d_inner=24)),
    "XLM": lambda: hf.XLMWithLMHeadModel(hf.XLMConfig(vocab_size=40, emb_dim=16, n_layers=2, n_heads=2)),
    "LLaMA, not causal": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED, is_causal=False)),
    "Gemma for embeddings": lambda: hf.Gemma3ForCausalLM(
        hf.Gemma3TextConfig(**GROUPED, head_dim=8, use_bidirectional_attention=True)
    ),
    "diffusion": lambda: Diffusing(hf.Qwen2Config(**GROUPED)),
    "one token ahead": lambda: Peeking(hf.LlamaConfig(**GROUPED)),
}


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


@pytest.mark.filterwarnings("ignore:.*standalone")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LOOK_AHEAD)
def test_what_looks_ahead_is_refused(name: str, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="predict each token from those before it"):
        refuse_looking_ahead(seeded(LOOK_AHEAD[name]).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FAMILIES_OF_MODELS)
def test_what_does_not_is_not(name: str, dtype: torch.dtype) -> None:
    network = of_family(name).to(dtype)
    refuse_looking_ahead(network)
    assert _known[network] is False  # it was asked, and does not


def test_what_looks_ahead_in_longer_rows_alone_is_refused() -> None:
    # Its buckets are made of all tokens of a row that is longer than a chunk.
    sizes = {"hidden_size": 32, "feed_forward_size": 48, "attn_layers": ["lsh"], "lsh_attn_chunk_length": 8}
    config = hf.ReformerConfig(
        **sizes,
        vocab_size=40,
        num_buckets=4,
        is_decoder=True,
        axial_pos_embds_dim=[8, 24],
        axial_pos_shape=[8, 16],
        hash_seed=0,
    )
    with pytest.raises(ValueError, match="predict each token from those before it"):
        refuse_looking_ahead(seeded(lambda: hf.ReformerModelWithLMHead(config)))


def test_few_positions_are_enough() -> None:
    with pytest.raises(ValueError, match="predict each token from those before it"):
        refuse_looking_ahead(
            seeded(lambda: hf.BertLMHeadModel(hf.BertConfig(**{**SIZES, "max_position_embeddings": 7})))
        )


def test_what_depends_on_how_many_tokens_come_later_is_refused() -> None:
    sizes = {"decoder_ffn_dim": 24, "num_decoder_layers": 2, "num_decoder_attention_heads": 2}
    network = seeded(lambda: hf.ProphetNetForCausalLM(hf.ProphetNetConfig(vocab_size=40, hidden_size=16, **sizes)))
    # In bfloat16 rounding hides the two parts in a hundred.
    with pytest.raises(ValueError, match="change with later tokens, or with their number"):
        refuse_looking_ahead(network)


@pytest.mark.parametrize("readout", [CausalLMReadout(), PackedCausalLMReadout(), HiddenStateReadout("layers.0")])
def test_readouts_of_causal_models_refuse_it(readout: Any) -> None:
    with pytest.raises(ValueError, match=r"`Diffusing`.*TrainingStepReadout\(\)"):
        readout.find_network(nn.Sequential(seeded(LOOK_AHEAD["diffusion"])))


def test_a_module_of_ours_refuses_it_when_it_is_made() -> None:
    with pytest.raises(ValueError, match="later tokens"):
        UnlearningModule(seeded(LOOK_AHEAD["diffusion"]))
    with pytest.raises(ValueError, match="later tokens"):
        UnlearningModule(seeded(LOOK_AHEAD["diffusion"]), readout=CausalLMReadout())


def test_an_adapter_around_it_changes_nothing() -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(seeded(LOOK_AHEAD["diffusion"]), LoraConfig(task_type="CAUSAL_LM", r=2))
    with pytest.raises(ValueError, match="`Diffusing`"):
        refuse_looking_ahead(adapted)


def test_it_is_asked_once_and_nobody_notices() -> None:
    network, calls, hooked = of_family("llama").train(), [], []

    class Counted(type(network)):  # type: ignore[misc]
        def forward(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
            calls.append(input_ids.numel())
            torch.rand(1)
            return super().forward(input_ids, *args, **kwargs)

    network.__class__ = Counted
    network.register_forward_hook(lambda *_: hooked.append(1))
    state = torch.get_rng_state()
    for _ in range(3):
        refuse_looking_ahead(network)
    assert calls == [72, 12]
    assert hooked == []
    assert torch.equal(torch.get_rng_state(), state)
    assert all(m.training for m in network.modules())


def test_weights_that_are_not_there_yet_are_asked_later() -> None:
    with torch.device("meta"):
        network = seeded(LOOK_AHEAD["diffusion"])
    refuse_looking_ahead(network)
    network.to_empty(device="cpu")
    network.load_state_dict(seeded(LOOK_AHEAD["diffusion"]).state_dict())
    network.model.rotary_emb = seeded(LOOK_AHEAD["diffusion"]).model.rotary_emb  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="later tokens"):
        refuse_looking_ahead(network)


def test_one_that_cannot_run_on_tokens_alone_is_not_refused() -> None:
    class Seeing(hf.LlamaForCausalLM):
        def forward(self, input_ids: Tensor, pixel_values: Tensor, **kwargs: Any) -> Any:
            raise AssertionError("never")

    network = Seeing(hf.LlamaConfig(**GROUPED))
    refuse_looking_ahead(network)
    assert network not in _known


@pytest.mark.slow
def test_a_compiled_network_is_asked_without_compiling_it() -> None:
    torch._dynamo.reset()
    counted = torch._dynamo.utils.counters["stats"]  # of the whole process, also of other tests
    before = counted["unique_graphs"]
    network = of_family("llama")
    network.compile(backend="eager")
    refuse_looking_ahead(network)
    assert counted["unique_graphs"] == before
    network(torch.tensor([[3, 4, 5]]))
    assert counted["unique_graphs"] > before


def test_rounding_that_depends_on_the_length_of_a_row_is_not_looking_ahead() -> None:
    network = of_family("llama")
    with torch.autocast("cpu", dtype=torch.bfloat16):  # in which a module of a fit may be asked
        assert not looks_ahead(network)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert not looks_ahead(of_family("llama"))
    finally:
        torch.set_float32_matmul_precision(before)
