"""Predictions are Hugging Face's own of each row, for every family, in any order of batches, padded on any side."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from _families import BATCHES, FAMILIES_OF_MODELS, ORDERS, of_family, own_loss_row_by_row
from torch.testing import assert_close

from lightning_unlearn import CausalLMReadout, CrossEntropy, PackedCausalLMReadout
from lightning_unlearn.readouts._packing_check import verdicts_of

VERDICTS = {
    "llama": True,
    "gpt2": True,
    "opt": True,
    "mixtral": True,
    "gpt_oss, sinks": True,
    "gemma3, windows": True,
    "gpt_neo, local attention": False,
    "bloom, alibi": False,
    "mamba": False,
    "lfm2, convolutions": False,
}
Expected = tuple[torch.Tensor, dict[str, torch.Tensor]]


@cache
def _expected(name: str, batch: str) -> Expected:
    network = of_family(name)
    loss = own_loss_row_by_row(network, BATCHES[batch])
    return loss.detach(), gradient(loss, network)


def gradient(loss: torch.Tensor, network: Any) -> dict[str, torch.Tensor]:
    named = {name: p for name, p in network.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(named.items(), found, strict=True)}


def assert_same(readout: Any, network: Any, batch: dict[str, torch.Tensor], expected: Expected) -> None:
    loss = CrossEntropy()(readout(network, batch))
    assert_close(loss, expected[0], rtol=0, atol=1e-5)
    assert max(float(g.abs().max()) for g in expected[1].values()) > 1e-2
    for key, found in gradient(loss, network).items():
        assert_close(found, expected[1][key], rtol=1e-4, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")


@pytest.fixture(autouse=True)
def always_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny networks are so narrow that longer attention costs more than fewer tokens save."""
    monkeypatch.setattr("lightning_unlearn.readouts._packed_causal_lm._pays", lambda *_: True)


@pytest.mark.parametrize("name", FAMILIES_OF_MODELS)
def test_rows_as_they_are_have_hugging_faces_loss_and_gradient(name: str) -> None:
    network = of_family(name)
    for batch in BATCHES:
        assert_same(CausalLMReadout(), network, BATCHES[batch], _expected(name, batch))


@pytest.mark.parametrize("name", FAMILIES_OF_MODELS)
def test_packed_ones_have_them_in_any_order_of_batches(name: str) -> None:
    for order in ORDERS:
        network, readout = of_family(name), PackedCausalLMReadout()
        for batch in order:
            assert_same(readout, network, BATCHES[batch], _expected(name, batch))


@pytest.mark.parametrize(("name", "exact"), VERDICTS.items())
def test_what_is_packed_is_what_attends_by_a_mask_and_given_positions(name: str, exact: bool) -> None:
    network = of_family(name)
    for batch in ("short", "long"):
        PackedCausalLMReadout()(network, BATCHES[batch])
    assert [verdict.exact for verdict in verdicts_of(network).values()] == [exact]
