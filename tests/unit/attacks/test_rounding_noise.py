"""The controls of a claim about rounding: noise of its size, flips of codes, and whether the network lies on the grid."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from _ranks import run_ranks
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.utils.parametrizations import weight_norm
from torch.testing import assert_close

from lightning_unlearn import Quantize, RoundingNoise
from lightning_unlearn.attacks import code_flips
from lightning_unlearn.functional.grids import widths

SETTINGS: dict[str, dict[str, Any]] = {
    "int4": {"bits": 4},
    "int4-g32": {"bits": 4, "group_size": 32},
    "nf4": {"bits": 4, "codebook": "nf4"},
    "int8": {"bits": 8},
    "int6-tensor": {"bits": 6, "group_size": "tensor"},
}
every_setting = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(128, 192), nn.ReLU(), nn.Linear(192, 64), nn.BatchNorm1d(64))


def attacked(attack: Quantize, net: nn.Module) -> dict[str, Tensor]:
    with attack(net) as points:
        assert list(points) == [attack.bits]
        return {n: p.detach().clone() for n, p in net.named_parameters()}


@every_setting
def test_noise_is_even_within_a_bucket_and_as_large_as_rounding(settings: dict[str, Any]) -> None:
    net = network()
    noise, rounding = attacked(RoundingNoise(**settings), net), attacked(Quantize(**settings), net)
    for name, p in net.named_parameters():
        if p.dim() < 2:
            assert torch.equal(noise[name], p)
            continue
        width = widths(p.detach(), Quantize(**settings).grid)
        moved = (noise[name] - p.detach()).double()
        assert (moved.abs() <= width / 2 + 1e-7).all()
        assert (moved[width > 0] / width[width > 0]).std() == pytest.approx(12**-0.5, rel=0.02)
        assert moved.norm() == pytest.approx(float((rounding[name] - p.detach()).norm()), rel=0.1)


def test_everything_is_restored_and_no_global_random_number_is_drawn() -> None:
    net = network()
    before, state = {n: p.detach().clone() for n, p in net.named_parameters()}, torch.get_rng_state()
    attacked(RoundingNoise(bits=4), net)
    assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_seed_decides_and_a_vantage_point_has_another_each_time() -> None:
    net, settings = network(), {"bits": 4, "group_size": 32, "skip": ["2"]}
    one, again, other = (attacked(RoundingNoise(seed=s, **settings), net) for s in (1, 1, 2))
    assert torch.equal(one["0.weight"], again["0.weight"])
    assert not torch.equal(one["0.weight"], other["0.weight"])
    generator = torch.Generator().manual_seed(0)
    drawn = [RoundingNoise(**settings).drawn(generator) for _ in range(2)]
    assert len({attack.seed for attack in drawn}) == 2
    assert [(a.bits, a.group_size, a.skip) for a in drawn] == [(4, 32, ("2",))] * 2
    first, second = (attacked(attack, net) for attack in drawn)
    assert not torch.equal(first["0.weight"], second["0.weight"])
    assert torch.equal(first["2.weight"], net[2].weight)


def test_a_weight_that_is_computed_gets_the_same_noise_in_each_forward_pass() -> None:
    net = network().eval()
    weight_norm(net[0])
    x = torch.randn(2, 128, generator=torch.Generator().manual_seed(0))
    plain = net(x)
    with RoundingNoise(bits=4)(net):
        noisy, again = net(x), net(x)
    assert torch.equal(noisy, again)
    assert not torch.allclose(noisy, plain)
    assert torch.equal(net(x), plain)


def test_shards_get_the_noise_of_the_whole() -> None:
    def noisy(rank: int, world: int) -> Any:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
        net = network()
        fully_shard(net, mesh=init_device_mesh("cpu", (world,)))
        with RoundingNoise(bits=4, seed=3)(net):
            return {n: p.full_tensor().detach() for n, p in net.named_parameters()}

    expected = attacked(RoundingNoise(bits=4, seed=3), network())
    for weights in run_ranks(noisy):
        for name, value in expected.items():
            assert_close(weights[name], value, rtol=0, atol=0)


# On the grid


def rounded(settings: dict[str, Any]) -> nn.Module:
    net = network()
    net.load_state_dict(attacked(Quantize(**settings), net), strict=False)
    return net


@every_setting
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_network_on_the_attacks_own_grid_is_named_once(settings: dict[str, Any], dtype: torch.dtype) -> None:
    net, attack = rounded(settings).to(dtype), Quantize(**settings)
    with pytest.warns(UserWarning, match=r"should round a network that does not lie on its own grid yet.*another one"):
        attacked(attack, net)
    attacked(attack, net)  # warnings are errors here: the second time there is none


def test_a_base_that_was_stored_in_bfloat16_and_lies_on_the_grid_is_named() -> None:
    net = rounded({"bits": 4}).bfloat16()
    with pytest.warns(UserWarning, match="does not lie on its own grid yet"):
        attacked(Quantize(bits=4), net)


def test_a_base_on_the_grid_is_named_also_under_a_fresh_adapter() -> None:
    adapted = get_peft_model(rounded({"bits": 4}), LoraConfig(target_modules=["0", "2"], r=2))
    with pytest.warns(UserWarning, match="does not lie on its own grid yet"):
        attacked(Quantize(bits=4), adapted)


@pytest.mark.parametrize("other", ["int4-g32", "nf4", "int8"])
def test_no_other_grid_is_named_and_no_network_that_has_moved(other: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attacked(Quantize(**SETTINGS[other]), rounded({"bits": 4}))
        attacked(Quantize(**SETTINGS[other]), network())
        attacked(RoundingNoise(bits=4), rounded({"bits": 4}))


# Flips of codes


def moved(by: float) -> tuple[nn.Module, dict[str, Tensor]]:
    net = network()
    original = {n: p.detach().clone() for n, p in net.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(by * torch.randn(p.shape, generator=generator))
    return net, original


@every_setting
def test_flips_are_those_that_a_forward_pass_would_see(settings: dict[str, Any], tmp_path: Any) -> None:
    net, original = moved(2e-3)
    attack = Quantize(**settings)
    found = code_flips(net, original, attack)
    assert set(found) == {"0.weight", "2.weight"}
    for name, flips in found.items():
        differ = attack.codes(net.get_parameter(name).detach()) != attack.codes(original[name])
        assert flips.flipped == pytest.approx(float(differ.double().mean()), abs=1e-6)
        assert flips.weights == differ.numel()
    save_file(original, tmp_path / "original.safetensors")
    assert code_flips(net, str(tmp_path / "original.safetensors"), attack) == found


def test_where_weights_are_spread_evenly_flips_are_as_expected_and_on_the_grid_there_are_none() -> None:
    net, original = moved(1e-3)
    for flips in code_flips(net, original, Quantize(bits=4)).values():
        assert flips.flipped == pytest.approx(flips.expected, rel=0.25)
        assert flips.expected > 0.01
    base = rounded({"bits": 4})
    before = {n: p.detach().clone() for n, p in base.named_parameters()}
    with torch.no_grad():
        for name in ("0.weight", "2.weight"):
            weight = base.get_parameter(name)
            weight.add_(1e-3 * (widths(weight.detach(), Quantize(bits=4).grid) > 0))
    for flips in code_flips(base, before, Quantize(bits=4)).values():
        assert flips.flipped == 0
        assert flips.expected > 0.01


def test_what_cannot_be_compared_is_refused() -> None:
    net, original = moved(1e-3)
    with pytest.raises(ValueError, match=r"`original` should hold `2.weight` of shape \(64, 192\). Found none of that"):
        code_flips(net, {"0.weight": original["0.weight"]}, Quantize(bits=4))
    adapted = get_peft_model(net, LoraConfig(target_modules=["0"], r=2))
    with pytest.raises(
        ValueError, match="Found an adapter around `base_model.model.0.base_layer.weight`: merge it first"
    ):
        code_flips(adapted, original, Quantize(bits=4))
    with pytest.raises(ValueError, match="`seed` should be at least 0"):
        RoundingNoise(seed=-1)
