"""Which weights few bits store as another level than the original's, against codes counted by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from _language_models import family
from _ranks import run_ranks
from safetensors.torch import save_file
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.utils.parametrizations import weight_norm

from lightning_unlearn import BucketFlips, ClassificationReadout, Quantize
from lightning_unlearn.attacks import code_flips
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.observation import Observation

GRIDS = {
    "int4": lambda: Quantize(4),
    "int3_g32": lambda: Quantize(3, group_size=32),
    "tensor": lambda: Quantize(6, group_size="tensor"),
    "nf4": lambda: Quantize(4, codebook="nf4"),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.Tanh(), nn.Linear(96, 64))


def move(net: nn.Module, size: float) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(size * torch.randn(p.shape, generator=generator))


def observe(audit: BucketFlips, net: nn.Module) -> dict[tuple[str, str], float]:
    found = audit(net, readout=ClassificationReadout(), probes={}, engine=GradientEngine(net))
    assert all((o.split, o.bounds, o.higher_means_known) == ("weights", (0.0, 1.0), False) for o in found)
    return {(o.metric, o.layer): o.value for o in found}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", GRIDS)
def test_shares_are_those_of_the_codes_of_each_matrix_and_of_all_together(
    name: str, dtype: torch.dtype, tmp_path: Any
) -> None:
    audit, net = BucketFlips({name: GRIDS[name]()}), network().to(dtype)
    audit.see_original(net)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    move(net, 3e-3)
    found, by_hand = observe(audit, net), code_flips(net, before, GRIDS[name]())
    metric = f"bucket_flips_{name}"
    assert {layer for m, layer in found if m == metric} == {*by_hand, ""} == {"0.weight", "2.weight", ""}
    for layer, flips in by_hand.items():
        assert found[metric, layer] == pytest.approx(flips.flipped, abs=1e-7)
    assert found[metric, ""] == pytest.approx(sum(f.flipped for f in by_hand.values()) / 2, abs=1e-7)  # of one size
    assert 0.005 < found[metric, ""] < 1
    save_file(before, tmp_path / "original.safetensors")
    assert observe(BucketFlips({name: GRIDS[name]()}, original=str(tmp_path / "original.safetensors")), net) == found


@pytest.mark.parametrize("name", GRIDS)
def test_noise_of_the_size_of_the_update_flips_as_many_where_the_update_is_noise(name: str) -> None:
    audit, net = BucketFlips({name: GRIDS[name]()}), network()
    audit.see_original(net)
    move(net, 3e-3)
    found = observe(audit, net)
    for layer in ("0.weight", "2.weight", ""):
        flips, by_noise = found[f"bucket_flips_{name}", layer], found[f"noise_flips_{name}", layer]
        assert by_noise == pytest.approx(flips, rel=0.25, abs=0.01)
        assert by_noise != flips


def test_an_update_that_stays_inside_the_buckets_flips_nothing_and_noise_of_its_size_does() -> None:
    """As `BucketMargin` and its like would have it the other way round."""
    net, grid = network(), Quantize(4)
    audit = BucketFlips({"int4": grid})
    audit.see_original(net)
    with torch.no_grad():
        for layer in (net[0], net[2]):  # to the middle of each bucket: far, and over no border
            layer.weight.copy_(grid.rounded(layer.weight))
    found = observe(audit, net)
    assert found["bucket_flips_int4", ""] == 0
    assert found["noise_flips_int4", ""] > 0.2


def test_what_did_not_move_does_not_flip_and_what_is_frozen_counts_as_unmoved() -> None:
    net = network()
    net[2].requires_grad_(False)
    audit = BucketFlips({"int8": Quantize(8)})
    audit.see_original(net)
    assert set(observe(audit, net).values()) == {0.0}
    move(net, 1e-2)
    found = observe(audit, net)
    assert found["bucket_flips_int8", "2.weight"] == 0
    assert found["bucket_flips_int8", ""] == pytest.approx(found["bucket_flips_int8", "0.weight"] / 2)


@pytest.mark.parametrize("merge", [True, False])
def test_an_adapter_is_merged_as_the_rounding_merges_it(merge: bool) -> None:
    net = family("llama", lora=True)
    grid = Quantize(4, merge_adapters=merge)
    audit = BucketFlips({"int4": grid})
    audit.see_original(net)  # the adapter has been trained before, too
    before = copy.deepcopy(net)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "lora_B" in name:
                p.mul_(0.5)
    found = {layer: value for (metric, layer), value in observe(audit, net).items() if metric == "bucket_flips_int4"}
    if not merge:
        assert set(found.values()) == {0.0}
        return
    merged = {n: p.detach() for n, p in before.merge_and_unload().named_parameters()}
    by_hand = code_flips(copy.deepcopy(net).merge_and_unload(), merged, Quantize(4))
    assert {
        name: found[f"base_model.model.{name.replace('_proj.', '_proj.base_layer.')}"]
        for name in by_hand
        if "q_proj" in name
    } == {name: pytest.approx(flips.flipped, abs=1e-7) for name, flips in by_hand.items() if "q_proj" in name}
    assert found[""] > 0


def test_a_computed_weight_is_compared_as_it_is_computed() -> None:
    net = network()
    weight_norm(net[0])
    audit = BucketFlips({"int4": Quantize(4)})
    audit.see_original(net)
    before = net[0].weight.detach().clone()
    with torch.no_grad():
        net[0].parametrizations.weight.original1.add_(0.01 * torch.randn(96, 64))
    codes = Quantize(4).codes
    share = (codes(net[0].weight.detach()) != codes(before)).float().mean()
    assert observe(audit, net)["bucket_flips_int4", "0.weight"] == pytest.approx(float(share))
    assert share > 0.01


def test_two_processes_that_share_the_weights_find_what_one_does() -> None:
    def on_rank(rank: int, world_size: int) -> Any:
        torch.distributed.init_process_group("gloo")
        net, audit = network(), BucketFlips(original="original.safetensors")
        move(net, 3e-3)
        for layer in (net[0], net[2], net):
            fully_shard(layer)
        return observe(audit, net)

    save_file(network().state_dict(), "original.safetensors")
    net = network()
    move(net, 3e-3)
    alone = observe(BucketFlips(original="original.safetensors"), net)
    first, second = run_ranks(on_rank)
    assert first == second == pytest.approx(alone, abs=1e-7)
    assert alone["bucket_flips_nf4", ""] > 0


def test_every_metric_is_explained() -> None:
    audit, net = BucketFlips(), network()
    audit.see_original(net)
    found: list[Observation] = audit(net, readout=ClassificationReadout(), probes={}, engine=GradientEngine(net))
    assert {o.metric for o in found} == set(audit.definitions())


def test_it_is_refused_where_the_original_is_not_known_or_nothing_is_compared() -> None:
    with pytest.raises(ValueError, match="`BucketFlips` should know the original. Found no value of 4 parameters"):
        observe(BucketFlips(), network())
    with pytest.raises(ValueError, match="`grids` should hold at least one rounding"):
        BucketFlips({})
    with pytest.raises(TypeError, match="`grids\\['int4'\\]`"):
        BucketFlips({"int4": 4})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="`seed` should be at least 0"):
        BucketFlips(seed=-1)
