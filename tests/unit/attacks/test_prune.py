"""Pruning by magnitude, against torch's own."""

from __future__ import annotations

import pytest
import torch
from _language_models import family
from torch import nn
from torch.nn.utils import prune

from lightning_unlearn import Prune, Quantize
from lightning_unlearn.functional.magnitude import smallest_bound


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_it_is_torchs_own_pruning_of_each_matrix(fraction: float) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 7), nn.Linear(7, 2))
    expected = [prune.l1_unstructured(layer, "weight", fraction).weight for layer in _copies(net)]
    with Prune(fraction, head=True)(net):
        for layer, weight in zip((net[0], net[2], net[3]), expected, strict=True):
            assert torch.equal(layer.weight, weight)


def _copies(net: nn.Sequential) -> list[nn.Module]:
    out: list[nn.Module] = []
    for layer in (net[0], net[2], net[3]):
        with torch.random.fork_rng():
            new = type(layer)(*((3, 8, 3) if isinstance(layer, nn.Conv2d) else (layer.in_features, layer.out_features)))
        new.load_state_dict(layer.state_dict())
        out.append(new)
    return out


def test_none_and_all_of_the_weights() -> None:
    layer = nn.Linear(4, 4)
    before = layer.weight.detach().clone()
    with Prune(0.0)(layer):
        assert torch.equal(layer.weight, before)
    with Prune(1.0)(layer):
        assert not layer.weight.any()
        assert layer.bias.any()


def test_it_reaches_what_quantize_reaches_and_says_how_much() -> None:
    net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 6), nn.Linear(6, 1))
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for attack in (Prune(0.5, skip=["2"]), Quantize(2, skip=["2"])):
        with attack(net):
            changed = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
        assert changed == {"1.weight"}
        assert attack.share_reached(net) == 0.8
    with pytest.raises(ValueError, match=r"should hold weights to prune.*Found none in `Embedding`"):
        Prune()(net[0]).__enter__()


def test_an_adapter_is_merged_before_it_is_pruned() -> None:
    net = family("llama", lora=True).eval()
    layer = net.base_model.model.model.layers[0].self_attn.q_proj
    merged = (layer.base_layer.weight + layer.get_delta_weight("default")).detach()
    bound = merged.abs().flatten().kthvalue(merged.numel() // 2).values
    with Prune(0.5)(net):
        assert torch.equal(layer.base_layer.weight, merged * (merged.abs() > bound))
        assert layer.scaling["default"] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_bound_is_the_kth_smallest_magnitude(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    magnitudes = torch.cat([torch.randn(200, generator=generator), torch.zeros(5)]).abs().to(dtype)
    ordered = magnitudes.float().sort().values
    for count in (1, 5, 6, 100, 205):
        assert smallest_bound(magnitudes, count).item() == ordered[count - 1].item()
