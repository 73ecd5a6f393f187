"""What the benchmark of costs compares attacks with is the same change of the same weights."""

from __future__ import annotations

import attack_cost
import pytest
from torch.testing import assert_close

from lightning_unlearn import TinyCausalLM


@pytest.mark.parametrize("name", ["quantize", "prune"])
def test_by_hand_in_torch_it_is_what_the_attack_does(name: str) -> None:
    network = TinyCausalLM(hidden_size=64, num_hidden_layers=2).requires_grad_(False)
    before = {key: p.clone() for key, p in network.named_parameters()}
    weights = attack_cost.changed(name, network)
    expected = {id(weight): attack_cost.IN_TORCH[name](weight) for weight in weights}
    with attack_cost.attack_of(name)(network):
        for key, p in network.named_parameters():
            assert_close(p, expected.get(id(p), before[key]), rtol=1e-6, atol=1e-8)
