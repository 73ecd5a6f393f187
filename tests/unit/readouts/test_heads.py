"""Whatever stands behind or around a head, is called otherwise, or is left out by default: the loss is Hugging Face's."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as hf
from _families import VOCABULARY, of_family, own_loss_row_by_row, rows
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_unlearn import CausalLMReadout, CrossEntropy, LoRA, PackedCausalLMReadout

SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "pad_token_id": 0}
READOUTS = [CausalLMReadout, PackedCausalLMReadout]
BATCH = rows((9, 12, 8, 12), shared=5)


class LastOnly(hf.LlamaForCausalLM):
    """The logits of the last position, if it is not told otherwise."""

    def forward(self, input_ids: Tensor, logits_to_keep: int = 1, labels: Any = None, **kwargs: Any) -> Any:
        kept = 0 if labels is not None else logits_to_keep
        return super().forward(input_ids, labels=labels, logits_to_keep=kept, **kwargs)


class Reshaped(hf.LlamaForCausalLM):
    """A head that sees all positions of all rows in one axis."""

    def forward(self, input_ids: Tensor, labels: Any = None, **kwargs: Any) -> Any:
        hidden = self.model(input_ids, **kwargs).last_hidden_state
        logits = self.lm_head(hidden.reshape(-1, hidden.shape[-1])).reshape(*hidden.shape[:2], -1)
        loss = None if labels is None else self.loss_function(logits, labels, VOCABULARY)
        return SimpleNamespace(logits=logits, loss=loss)


class Scaled(hf.LlamaForCausalLM):
    """Something before the head, and something behind it."""

    def forward(self, input_ids: Tensor, labels: Any = None, **kwargs: Any) -> Any:
        hidden = self.model(input_ids, **kwargs).last_hidden_state
        logits = 2.0 * torch.tanh(self.lm_head(hidden * 0.5) / 2.0) + 0.1
        loss = None if labels is None else self.loss_function(logits, labels, VOCABULARY)
        return SimpleNamespace(logits=logits, loss=loss)


def llama(kind: type[hf.LlamaForCausalLM] = hf.LlamaForCausalLM, **options: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = kind(hf.LlamaConfig(**SIZES, **options)).eval()
        for p in network.parameters():
            p.data.add_(0.1 * torch.randn_like(p))
    return network


def with_bias() -> Any:
    network = llama()
    network.lm_head = nn.Linear(16, VOCABULARY)
    return network


def called_otherwise() -> Any:
    """As `output`, with no method to find it."""
    network = llama()
    network.get_output_embeddings = lambda: None
    return network


def with_adapter(**options: Any) -> Any:
    network = LoRA(r=2, target_modules=["q_proj", "lm_head"]).wrap(llama(**options)).eval()
    for name, p in network.named_parameters():
        if "lora_B" in name:
            p.data.normal_(generator=torch.Generator().manual_seed(1))
    return network


HEADS: dict[str, Callable[[], Any]] = {
    "tied": lambda: llama(tie_word_embeddings=True),
    "with a bias": with_bias,
    "scaled and capped": lambda: llama(Scaled),
    "of the last position": lambda: llama(LastOnly),
    "of reshaped states": lambda: llama(Reshaped),
    "called otherwise": called_otherwise,
    "embed_out": lambda: of_family("gpt_neox"),
    "divided": lambda: of_family("granite, scaled head"),
    "multiplied, tied": lambda: of_family("cohere, scaled head"),
    "soft cap": lambda: of_family("gemma2, soft caps"),
    "with an adapter": with_adapter,
}


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("name", HEADS)
def test_loss_and_gradient_are_hugging_faces(name: str, readout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_unlearn.readouts._packed_causal_lm._pays", lambda *_: True)
    network = HEADS[name]()
    expected, loss = own_loss_row_by_row(network, BATCH), CrossEntropy()(readout()(network, BATCH))
    assert_close(loss, expected, rtol=0, atol=1e-5)
    trained = [p for p in network.parameters() if p.requires_grad]
    theirs = torch.autograd.grad(expected, trained, allow_unused=True)
    for ours, other in zip(torch.autograd.grad(loss, trained, allow_unused=True), theirs, strict=True):
        assert (ours is None) == (other is None)
        if ours is not None:
            assert_close(ours, other, rtol=1e-4, atol=1e-5)


def test_logits_of_some_positions_are_refused() -> None:
    class Stubborn(hf.LlamaForCausalLM):
        def forward(self, input_ids: Tensor, attention_mask: Any = None, **kwargs: Any) -> Any:
            logits = super().forward(input_ids, attention_mask=attention_mask, **kwargs).logits
            return SimpleNamespace(logits=logits[:, -1:])

        def get_output_embeddings(self) -> None:
            return None

    with pytest.raises(ValueError, match="should give logits at all 12 positions. Found those of 1"):
        CausalLMReadout()(llama(Stubborn), BATCH)
