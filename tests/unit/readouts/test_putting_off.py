"""Logits of a network are put off for a loss where that is exact, and nowhere else; then nothing changes but memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from _language_models import FAMILIES, adapted, batch, family
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import CohereConfig, CohereForCausalLM, GraniteConfig, GraniteForCausalLM

from lightning_unlearn import NPO, CausalLMReadout, PackedCausalLMReadout
from lightning_unlearn.objectives import KLToReference, TopKKL
from lightning_unlearn.prediction import Prediction
from lightning_unlearn.readouts import read_for_a_loss
from lightning_unlearn.readouts._packed_causal_lm import _pays
from lightning_unlearn.references import AdapterDisabled, FrozenCopy

AT_MOST = 50  # two rows of the vocabulary of 23 words at once
_SIZES: dict[str, Any] = {
    "vocab_size": 23,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{name: lambda name=name: family(name) for name in FAMILIES},
    "llama, tied": lambda: tied(family("llama")),
    "cohere": lambda: CohereForCausalLM(CohereConfig(**_SIZES, logit_scale=0.3)),
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**_SIZES, logits_scaling=4.0)),
}


def tied(network: Any) -> nn.Module:
    network.config.tie_word_embeddings = True
    network.lm_head.weight = network.model.embed_tokens.weight
    return network


def prediction(network: nn.Module, readout: Any = None) -> Prediction:
    with read_for_a_loss():
        return (CausalLMReadout(logits_at_most=AT_MOST) if readout is None else readout)(network, batch())


def original(student: Prediction) -> Prediction:
    generator = torch.Generator().manual_seed(6)
    logits = torch.randn(student.scores.shape, generator=generator, dtype=torch.float64)
    return Prediction(logits.to(student.scores.dtype), student.labels, student.example, student.batch_size)


def gradients(network: nn.Module, readout: Any, objective: Any) -> list[Tensor]:
    network.zero_grad()
    student = prediction(network, readout)
    loss = objective(student, original(student))
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)]


@pytest.mark.parametrize("objective", [NPO(0.5), KLToReference(), TopKKL(k=4)], ids=repr)
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_those_of_whole_logits(name: str, objective: Any) -> None:
    network = NETWORKS[name]().double()
    got = gradients(network, CausalLMReadout(logits_at_most=AT_MOST), objective)
    expected = gradients(network, CausalLMReadout(), objective)
    assert prediction(network).put_off is not None
    for ours, theirs in zip(got, expected, strict=True):
        assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_packed_rows_are_put_off_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{_pays.__module__}._pays", lambda *_: True)
    network = family("llama").double()
    readout = PackedCausalLMReadout(logits_at_most=AT_MOST)
    assert prediction(network, readout).put_off is not None
    assert prediction(network, readout.unpacked()).put_off is not None
    for ours, theirs in zip(
        gradients(network, readout, NPO()), gradients(network, PackedCausalLMReadout(), NPO()), strict=True
    ):
        assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_only_for_a_loss_and_only_many() -> None:
    network = family("llama")
    assert CausalLMReadout(logits_at_most=AT_MOST)(network, batch()).put_off is None
    assert prediction(network, CausalLMReadout()).put_off is None
    with read_for_a_loss(), read_for_a_loss(False):
        assert CausalLMReadout(logits_at_most=AT_MOST)(network, batch()).put_off is None


@contextmanager
def hooked(network: Any) -> Iterator[None]:
    handle = network.lm_head.register_forward_hook(lambda *_: None)
    yield
    handle.remove()


@contextmanager
def moved(network: Any) -> Iterator[None]:
    network.lm_head.forward = network.lm_head.forward  # as Accelerate does to weights that are elsewhere
    yield


@contextmanager
def parametrized(network: Any) -> Iterator[None]:
    nn.utils.parametrizations.weight_norm(network.lm_head)
    yield


@pytest.mark.parametrize("way", [hooked, moved, parametrized])
def test_a_head_that_is_more_than_a_product_is_called(way: Any) -> None:
    network = family("llama")
    with way(network):
        assert prediction(network).put_off is None


def test_an_adapted_head_is_called() -> None:
    assert prediction(family("llama", lora=True, head=True)).put_off is None
    assert prediction(family("llama", lora=True)).put_off is not None


def test_the_head_is_left_as_it_was() -> None:
    network: Any = family("llama")
    with pytest.raises(RuntimeError), read_for_a_loss():
        network.model.layers[0].register_forward_hook(raising)
        CausalLMReadout(logits_at_most=AT_MOST)(network, batch())
    assert "forward" not in network.lm_head.__dict__


def raising(*_: Any) -> None:
    raise RuntimeError("in the middle")


def test_mixed_precision_stays_within_its_rounding() -> None:
    network = family("llama")

    def mixed(readout: Any) -> list[Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return gradients(network, readout, NPO(0.5))

    exact = gradients(network, CausalLMReadout(), NPO(0.5))
    for ours, theirs, right in zip(
        mixed(CausalLMReadout(logits_at_most=AT_MOST)), mixed(CausalLMReadout()), exact, strict=True
    ):
        assert ours.dtype == theirs.dtype
        assert (ours - right).norm() <= 2 * (theirs - right).norm() + 2**-9 * right.norm()


def test_a_compiled_decoder_stays_compiled() -> None:
    network: Any = family("llama").double()
    expected = gradients(network, CausalLMReadout(), NPO(0.5))
    network.model.compile(backend="aot_eager")
    got = gradients(network, CausalLMReadout(logits_at_most=AT_MOST), NPO(0.5))
    assert prediction(network).put_off is not None
    for ours, theirs in zip(got, expected, strict=True):
        assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_a_compiled_network_runs_eagerly_and_may_put_off() -> None:
    network = family("llama").double()
    expected = gradients(network, CausalLMReadout(), NPO(0.5))
    compiled: Any = torch.compile(network, backend="aot_eager")
    got = gradients(compiled, CausalLMReadout(logits_at_most=AT_MOST), NPO(0.5))
    for ours, theirs in zip(got, expected, strict=True):
        assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("on_cpu", [False, True])
@pytest.mark.parametrize("network", [lambda: family("llama"), lambda: tied(family("llama"))], ids=["untied", "tied"])
def test_a_frozen_copy_keeps_the_originals_head(network: Any, on_cpu: bool) -> None:
    student = network().double()
    before = copy.deepcopy(student)
    reference = FrozenCopy(on_cpu=on_cpu)
    reference.attach(student)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.05)
    with read_for_a_loss():
        kept = reference(CausalLMReadout(logits_at_most=AT_MOST), batch())
        assert isinstance(kept, Prediction)
        loss = KLToReference()(prediction(student), kept)
    expected = KLToReference()(CausalLMReadout()(student, batch()), CausalLMReadout()(before, batch()).detach())
    assert_close(loss, expected, rtol=0, atol=1e-12)
    assert float(expected.detach()) > 1e-4
    got, wanted = (torch.autograd.grad(value, list(student.parameters())) for value in (loss, expected))
    assert_close(got, wanted, rtol=0, atol=1e-12)


def test_an_adapter_that_is_switched_off_waits_with_it() -> None:
    student = adapted(family("llama").double())
    reference = AdapterDisabled()
    reference.attach(student)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.05 * parameter.requires_grad)
    losses = []
    for readout in (CausalLMReadout(logits_at_most=AT_MOST), CausalLMReadout()):
        with read_for_a_loss():
            original = reference(readout, batch())
            losses.append(KLToReference()(readout(student, batch()), original))
    assert_close(losses[0], losses[1], rtol=0, atol=1e-12)
    assert float(losses[0].detach()) > 1e-6


def test_the_setting_is_checked() -> None:
    with pytest.raises(ValueError, match="`logits_at_most` should be a whole number"):
        CausalLMReadout(logits_at_most=0.5)  # type: ignore[arg-type]
