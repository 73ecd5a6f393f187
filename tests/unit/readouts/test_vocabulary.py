"""A weight that is embedding and output head at once gets the gradient autograd gives it, without a tensor more."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import profile
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_unlearn import NPO, CausalLMReadout, PackedCausalLMReadout
from lightning_unlearn.prediction import Prediction

VOCABULARY = 997
READOUTS = [CausalLMReadout, PackedCausalLMReadout]


def llama(**kwargs: Any) -> Any:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    settings = {"vocab_size": VOCABULARY, "pad_token_id": 2, "tie_word_embeddings": True, **sizes, **kwargs}
    return LlamaForCausalLM(LlamaConfig(**settings)).double()


def batch() -> dict[str, torch.Tensor]:
    tokens = torch.randint(3, 50, (3, 12))  # many of them twice
    tokens[:, :4] = torch.tensor([5, 6, 7, 2])  # all begin alike; the padding token stands in the text, too
    tokens[1, 9:] = 2
    mask = torch.ones_like(tokens)
    mask[1, 9:] = 0
    labels = torch.where((mask > 0) & (torch.arange(12) > 5), tokens, -100)
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def loss(prediction: Prediction) -> torch.Tensor:
    return NPO(0.5)(
        prediction,
        Prediction(prediction.logits.detach() + 0.1, prediction.labels, prediction.example, prediction.batch_size),
    )


def plainly(network: Any, rows: dict[str, torch.Tensor]) -> Prediction:
    """The full logits, gathered afterwards: nothing of ours is inside the network."""
    logits = network(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits
    chosen = (rows["labels"][:, 1:] != -100).nonzero()
    example, position = chosen.T
    return Prediction(logits[example, position], rows["labels"][example, position + 1], example, len(logits))


def gradients(network: Any, prediction: Prediction) -> list[torch.Tensor]:
    network.zero_grad()
    loss(prediction).backward()
    return [p.grad for p in network.parameters()]


@pytest.mark.parametrize("readout", READOUTS)
def test_gradients_are_those_of_autograd(readout: Any) -> None:
    network, rows = llama(), batch()
    for ours, theirs in zip(
        gradients(network, readout()(network, rows)), gradients(network, plainly(network, rows)), strict=True
    ):
        # Norms of a Llama work in float32, so the rows' order shows.
        assert_close(ours, theirs, rtol=1e-5, atol=1e-7 if readout is PackedCausalLMReadout else 1e-12)


def test_they_add_up_over_batches() -> None:
    network, rows = llama(), [batch(), batch()]
    expected = [sum(pair) for pair in zip(*(gradients(network, plainly(network, r)) for r in rows), strict=True)]
    network.zero_grad()
    for r in rows:
        loss(CausalLMReadout()(network, r)).backward()
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("readout", READOUTS)
def test_nothing_of_the_size_of_the_vocabulary_is_added_out_of_place(readout: Any) -> None:
    def large(prediction: Prediction) -> int:
        with profile(record_shapes=True) as seen:
            loss(prediction).backward()
        sizes = (e.input_shapes[0] for e in seen.events() if e.name == "aten::add" and e.input_shapes)
        return sum(size == [VOCABULARY, 16] for size in sizes)

    network, rows = llama(), batch()
    readout()(network, rows)  # comparisons, once
    assert large(plainly(network, rows)) == 1
    network.zero_grad()
    assert large(readout()(network, rows)) == 0


def test_two_passes_in_one_graph_add_up() -> None:
    network, rows = llama(), [batch(), batch()]

    def both(read: Any) -> Any:
        network.zero_grad()
        predictions = [read(network, r) for r in rows]
        (loss(predictions[0]) * loss(predictions[1]) + network.lm_head.weight.square().sum()).backward()
        return network.lm_head.weight.grad

    assert_close(both(CausalLMReadout()), both(plainly), rtol=1e-10, atol=1e-12)


def test_differentiated_twice_it_is_autograd_too() -> None:
    network, rows = llama(attn_implementation="eager"), batch()

    def curvature(prediction: Prediction) -> Any:
        weight = network.lm_head.weight
        (gradient,) = torch.autograd.grad(loss(prediction), weight, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), weight)

    assert_close(curvature(CausalLMReadout()(network, rows)), curvature(plainly(network, rows)), rtol=1e-9, atol=1e-12)


def test_nothing_is_left_behind() -> None:
    network = llama()
    before = [dict(m.__dict__) for m in network.modules()]
    CausalLMReadout()(network, batch())
    network.model.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        CausalLMReadout()(network, batch())
    for module, attributes in zip(network.modules(), before, strict=True):
        assert module.__dict__.keys() == attributes.keys()
        assert not isinstance(module, nn.Linear | nn.Embedding) or "forward" not in module.__dict__


@pytest.mark.parametrize("settings", [{"tie_word_embeddings": False}, {"tie_word_embeddings": True}], ids=str)
def test_other_forwards_are_left_alone(settings: dict[str, Any]) -> None:
    """One that somebody put there, and those of weights that are not shared."""
    network, calls = llama(**settings), []
    own = network.lm_head.forward
    if settings["tie_word_embeddings"]:
        network.lm_head.forward = lambda hidden: calls.append(hidden) or own(hidden)
    rows = batch()
    for ours, theirs in zip(
        gradients(network, CausalLMReadout()(network, rows)), gradients(network, plainly(network, rows)), strict=True
    ):
        assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert len(calls) == (2 if settings["tie_word_embeddings"] else 0)
