"""Merging with a sibling of which there is a file."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from _language_models import batch, family
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_unlearn import Merge


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4)).eval()
    made[1].running_mean.normal_()
    made[0].requires_grad_(False)
    return made


def tensors(network: nn.Module) -> dict[str, Tensor]:
    return {n: t.detach().clone() for n, t in network.state_dict().items() if t.is_floating_point()}


def saved(network: nn.Module) -> str:
    save_file(network.state_dict(), "sibling.safetensors")
    return "sibling.safetensors"


@pytest.mark.parametrize("alpha", [-1.0, -0.3, 0.0, 0.3, 1.0])
def test_it_is_between_the_two_or_beyond_frozen_weights_and_statistics_included(alpha: float) -> None:
    network, sibling = net(0), net(1)
    here, there = tensors(network), tensors(sibling)
    with Merge(saved(sibling), alpha)(network) as points:
        assert list(points) == [alpha]
        for name, value in tensors(network).items():
            if alpha in (0, 1):
                assert torch.equal(value, (there if alpha else here)[name])
            else:
                assert_close(value, here[name] + alpha * (there[name] - here[name]))
    assert all(map(torch.equal, tensors(network).values(), here.values()))
    assert Merge("sibling.safetensors").share_reached(network) == 1


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_with_an_adapter_it_is_the_merge_of_the_merged_models(alpha: float) -> None:
    network, sibling = family("llama", lora=True).eval(), family("llama", seed=1).eval()
    sibling.save_pretrained("sibling", safe_serialization=True)

    def said(of: Any) -> Tensor:
        with torch.no_grad():
            return of(batch()["input_ids"], batch()["attention_mask"]).logits

    merged = copy.deepcopy(network).merge_and_unload()
    with torch.no_grad():
        for mine, theirs in zip(merged.parameters(), sibling.parameters(), strict=True):
            mine.lerp_(theirs, alpha)
    attack = Merge("sibling", alpha)
    with attack(network):
        assert_close(said(network), said(merged), rtol=1e-4, atol=1e-4)
    assert attack.share_reached(network) == 1


def test_going_away_from_a_model_that_has_forgotten_undoes_what_both_have_in_common() -> None:
    """Two models that moved by the same vector: away from one by as much, the other is where it came from."""
    original = net(0)
    first, second = copy.deepcopy(original), copy.deepcopy(original)
    with torch.no_grad():
        for a, b in zip(first.parameters(), second.parameters(), strict=True):
            step = 0.1 * torch.randn_like(a)
            a.add_(step)
            b.add_(2 * step)
    with Merge(saved(second), -1.0)(first):
        for value, start in zip(first.parameters(), original.parameters(), strict=True):
            assert_close(value, start)


def test_another_kind_of_model_or_none_is_refused() -> None:
    with pytest.raises(FileNotFoundError):
        Merge("nowhere.safetensors")(net()).__enter__()
    sibling = saved(nn.Sequential(nn.Linear(6, 5)))
    with pytest.raises(ValueError, match="Weights should be those of a `Sequential` of the same size"):
        Merge(sibling)(net()).__enter__()
