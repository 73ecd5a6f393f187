"""Attacks that move back towards the original, which a fit shows them, or a file holds."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _language_models import adapted, batch, family, train_adapter
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_unlearn import AblateDirection, Attack, Interpolate, TruncateUpdate


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Conv1d(1, 1, 1), nn.Linear(5, 4)).eval()


def disturb(network: nn.Module, size: float = 0.3) -> None:
    with torch.no_grad():
        for t in [*(p for p in network.parameters() if p.requires_grad), network[1].running_mean]:
            t.add_(torch.randn_like(t), alpha=size)


def tensors(network: nn.Module) -> dict[str, Tensor]:
    return {n: t.detach().clone() for n, t in network.state_dict().items() if t.is_floating_point()}


def begun(attack: Attack) -> tuple[nn.Module, dict[str, Tensor], dict[str, Tensor]]:
    """A network that has moved, the original, and where it is now."""
    network = net()
    attack.see_original(network)
    original = tensors(network)
    disturb(network)
    return network, original, tensors(network)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_interpolation_is_between_the_two_and_exact_at_both_ends(alpha: float) -> None:
    attack = Interpolate(alpha)
    network, original, now = begun(attack)
    with attack(network) as points:
        assert list(points) == [alpha]
        for name, value in tensors(network).items():
            if alpha in (0, 1):
                assert torch.equal(value, (original if alpha else now)[name])
            else:
                assert_close(value, (1 - alpha) * now[name] + alpha * original[name])


def test_the_network_may_move_to_another_precision_and_be_a_part_of_what_was_seen() -> None:
    inner, attack = net(), Interpolate(1.0)
    attack.see_original(nn.ModuleDict({"inner": inner}))
    expected = tensors(copy.deepcopy(inner).bfloat16())
    disturb(inner)
    inner.bfloat16()
    with attack(inner):
        assert all(torch.equal(value, expected[name]) for name, value in tensors(inner).items())


def test_what_is_frozen_for_a_while_is_moved_and_what_is_unfrozen_later_needs_a_file(tmp_path: Path) -> None:
    network, attack = net(), Interpolate(1.0)
    network[0].requires_grad_(False)
    attack.see_original(network)
    original = tensors(network)
    save_file(original, tmp_path / "original.safetensors")
    disturb(network)
    network[3].requires_grad_(False)
    with attack(network):
        assert all(torch.equal(value, original[name]) for name, value in tensors(network).items())
    network.requires_grad_(True)
    disturb(network)
    with pytest.raises(ValueError, match="Found no value of 2 parameters, `0.weight` first"):
        attack(network).__enter__()
    from_file = Interpolate(1.0, original=str(tmp_path / "original.safetensors"))
    for flag in (False, True):
        network[0].requires_grad_(flag)
        with from_file(network):
            assert torch.equal(network[3].weight, original["3.weight"])
            assert torch.equal(network[0].weight, original["0.weight"]) == flag


def test_only_what_trains_is_kept_and_a_later_original_replaces_the_first() -> None:
    network, attack = net(), Interpolate(1.0)
    network[0].requires_grad_(False)
    attack.see_original(network)
    assert {m.name for m in attack.moved(network)} == {
        *("1.weight", "1.bias", "1.running_mean", "1.running_var"),
        *("2.weight", "2.bias", "3.weight", "3.bias"),
    }
    disturb(network)
    attack.see_original(network)
    now = tensors(network)
    disturb(network)
    with attack(network):
        assert all(torch.equal(value, now[name]) for name, value in tensors(network).items())


@pytest.mark.parametrize("attack", [Interpolate(), TruncateUpdate()], ids=lambda a: type(a).__name__)
def test_an_original_that_is_not_known_is_refused(attack: Any) -> None:
    with pytest.raises(ValueError, match=r"should know the original. Found no value of 8 parameters, `0.weight` first"):
        attack(net()).__enter__()


def test_the_original_may_come_from_a_file(tmp_path: Path) -> None:
    network = net()
    save_file(tensors(network), tmp_path / "original.safetensors")
    original = tensors(network)
    disturb(network)
    attack = Interpolate(1.0, original=str(tmp_path / "original.safetensors"))
    attack.see_original(network)  # the file counts
    with attack(network):
        assert all(torch.equal(value, original[name]) for name, value in tensors(network).items())


class Tied(nn.Module):
    """As nanoGPT: saved without repetition, the one weight has the name of the head."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.wte(x))


@pytest.mark.parametrize("attack", [Interpolate, TruncateUpdate, AblateDirection], ids=lambda a: a.__name__)
def test_a_tied_weight_is_found_under_its_other_name(attack: Any, tmp_path: Path) -> None:
    network, path = Tied(), str(tmp_path / "original.safetensors")
    original = network.wte.weight.detach().clone()
    save_file({"head.weight": original}, path)
    network.wte.weight.data.add_(1)
    knowing = attack(original=path)
    (moved,) = knowing.moved(network)
    assert moved.tensor is network.wte.weight
    assert torch.equal(moved.original, original)
    if isinstance(knowing, AblateDirection):
        with knowing.as_original(network):
            assert torch.equal(network.head.weight, original)
        assert torch.equal(network.head.weight, original + 1)


def test_buffers_that_were_expanded_are_moved_too() -> None:
    network, merge, ablate = nn.Linear(3, 2), Interpolate(0.5), AblateDirection([""])
    network.register_buffer("scale", torch.zeros(1, 3).expand(2, 3))
    for attack in (merge, ablate):
        attack.see_original(network)
    network.scale[:1] = 2
    with merge(network):
        assert network.scale.tolist() == [[1, 1, 1]] * 2
    with ablate.as_original(network):
        assert network.scale.tolist() == [[0, 0, 0]] * 2
    assert network.scale.tolist() == [[2, 2, 2]] * 2


@pytest.mark.parametrize("rank", [0, 1, 3, 4, 5])
def test_the_update_of_each_matrix_is_its_nearest_of_that_rank_and_vectors_keep_theirs(rank: int) -> None:
    attack = TruncateUpdate(rank)
    network, original, now = begun(attack)
    with attack(network) as points:
        assert list(points) == [rank]
        for name in ("0.weight", "3.weight"):
            u, s, vh = np.linalg.svd((now[name] - original[name]).double().numpy(), full_matrices=False)
            kept = original[name] + torch.from_numpy((u[:, :rank] * s[:rank]) @ vh[:rank]).float()
            assert_close(network.state_dict()[name], kept, rtol=1e-4, atol=1e-5)
        for name in ("0.bias", "1.weight", "1.running_mean"):
            assert torch.equal(network.state_dict()[name], now[name])
        if rank >= 5:
            assert all(torch.equal(value, now[name]) for name, value in tensors(network).items())


def test_the_share_is_of_the_weights_that_train() -> None:
    attack = TruncateUpdate(1)
    network, _, _ = begun(attack)
    assert attack.share_reached(network) == pytest.approx((30 + 1 + 20) / (30 + 1 + 20 + 5 + 10 + 1 + 4))


def test_nothing_to_truncate_is_refused() -> None:
    norm, attack = nn.LayerNorm(4), TruncateUpdate()
    attack.see_original(norm)
    with pytest.raises(ValueError, match="should find matrices that train. Found none in `LayerNorm`"):
        attack(norm).__enter__()


def logits(network: nn.Module) -> Tensor:
    own = batch()
    with torch.no_grad():
        return network(input_ids=own["input_ids"], attention_mask=own["attention_mask"]).logits


def test_with_a_fresh_adapter_the_original_is_free() -> None:
    """Nothing was shown: what the adapter adds is scaled, and at the end it is off."""
    network = adapted(family("llama")).eval()
    train_adapter(network)
    layer = network.base_model.model.model.layers[0].self_attn.q_proj
    delta = layer.get_delta_weight("default").detach()
    with Interpolate(0.25)(network):
        assert_close(layer.get_delta_weight("default"), 0.75 * delta)
    with network.disable_adapter():
        original = logits(network)
    with Interpolate(1.0)(network):
        assert torch.equal(logits(network), original)
    assert not torch.equal(logits(network), original)


@pytest.mark.parametrize("shown", [False, True])
def test_the_product_of_both_factors_is_truncated(shown: bool) -> None:
    network, attack = adapted(family("llama")).eval(), TruncateUpdate(1)
    if shown:
        attack.see_original(network)
    train_adapter(network)
    layer = network.base_model.model.model.layers[0].self_attn.q_proj
    u, s, vh = np.linalg.svd(layer.get_delta_weight("default").detach().double().numpy())
    before = logits(network)
    with attack(network):
        now = layer.get_delta_weight("default").detach().double()
        assert_close(now, torch.from_numpy(s[0] * np.outer(u[:, 0], vh[0])), rtol=1e-4, atol=1e-5)
    assert torch.equal(logits(network), before)
    with TruncateUpdate(2)(network):
        assert torch.equal(logits(network), before)


def test_an_adapter_that_had_been_trained_is_moved_factor_by_factor_or_refused() -> None:
    network = family("llama", lora=True).eval()
    attack, truncate = Interpolate(1.0), TruncateUpdate(1)
    attack.see_original(network), truncate.see_original(network)
    original = logits(network)
    train_adapter(network)
    with attack(network):
        assert torch.equal(logits(network), original)
    with pytest.raises(ValueError, match="should find LoRA adapters that began at zero.*had been trained before"):
        truncate(network).__enter__()
