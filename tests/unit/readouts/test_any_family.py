"""Predictions are Hugging Face's own of each row, for every family, in any order of batches, padded on any side."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _families import FAMILIES_OF_MODELS, ORDERS, of_family, own_loss_row_by_row
from torch.testing import assert_close

from lightning_unlearn import CausalLMReadout, CrossEntropy, PackedCausalLMReadout

READOUTS = {"plain": CausalLMReadout, "packed": PackedCausalLMReadout}
EXPECTED: dict[tuple[str, int], Any] = {}


def gradient(loss: torch.Tensor, network: Any) -> dict[str, torch.Tensor]:
    named = {name: p for name, p in network.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(named.items(), found, strict=True)}


@pytest.fixture(autouse=True)
def always_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny networks are so narrow that longer attention costs more than fewer tokens save."""
    monkeypatch.setattr("lightning_unlearn.readouts._packed_causal_lm._pays", lambda *_: True)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", FAMILIES_OF_MODELS)
def test_loss_and_gradient_are_hugging_faces_own(name: str, order: str) -> None:
    network = of_family(name)
    for batch in ORDERS[order]:
        expected = own_loss_row_by_row(network, batch)
        wanted = gradient(expected, network)
        assert max(float(g.abs().max()) for g in wanted.values()) > 1e-2
        for readout in READOUTS.values():
            loss = CrossEntropy()(readout()(network, batch))
            assert_close(loss, expected, rtol=0, atol=1e-5)
            for key, found in gradient(loss, network).items():
                assert_close(found, wanted[key], rtol=1e-4, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")
