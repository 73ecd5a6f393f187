"""The share that an attack says it reaches is that of the layers that answer otherwise under it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from lightning_unlearn.attacks import (
    AblateDirection,
    Attack,
    Interpolate,
    LatentPerturbation,
    Noise,
    Prune,
    Quantize,
    Relearn,
    RoundingNoise,
    Sharpen,
    TruncateUpdate,
)


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_experts = 3
        self.up_proj, self.down_proj = nn.Parameter(torch.randn(3, 12, 8)), nn.Parameter(torch.randn(3, 8, 12))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.einsum("bi,eoi,epo->bp", x, self.up_proj, self.down_proj)


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.GRU(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x[None])[0][0]


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x)[0]


def of_all_kinds() -> nn.Module:
    conv = nn.Sequential(nn.Unflatten(1, (8, 1)), nn.Conv1d(8, 8, 1, groups=2), nn.Flatten())
    return nn.Sequential(nn.Linear(8, 8), conv, Recurrent(), Attentive(), Experts(), Bare(), nn.Linear(8, 8))


def half_frozen() -> nn.Module:
    network = of_all_kinds()
    network[3].requires_grad_(False)
    network[4].requires_grad_(False)
    return network


def computed() -> nn.Module:
    network = nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 8)), nn.Linear(8, 8), nn.Linear(8, 8), Bare())
    prune.l1_unstructured(network[1], "weight", amount=9)
    parametrizations.spectral_norm(network[2])
    network[3].matrix.requires_grad_(False)
    return network


def lora() -> Any:
    network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), Experts(), nn.Linear(8, 8))
    config = LoraConfig(r=2, target_modules=["1"], target_parameters=["2.up_proj"], init_lora_weights=False)
    return get_peft_model(network, config).base_model.model


NETWORKS: dict[str, Callable[[], Any]] = {
    "all kinds": of_all_kinds,
    "half frozen": half_frozen,
    "computed": computed,
    "lora": lora,
}
ATTACKS: dict[str, Callable[[], Attack]] = {
    "adapter": lambda: Relearn(steps=2, lr=0.1),
    "full": lambda: Relearn(steps=2, lr=0.1, mode="full"),
    "int2": lambda: Quantize(bits=2),
    "int2 but for": lambda: Quantize(bits=2, skip=["0", "4"]),
    "prune": lambda: Prune(0.7),
    "noise of rounding": lambda: RoundingNoise(bits=2),
    "noise": lambda: Noise(0.5),
    "sharpen": lambda: Sharpen(5.0),
}


def weights(layer: nn.Module) -> int:
    matrices = [p for n, p in layer.named_parameters() if p.dim() > 1 and "bias" not in n and "lora_" not in n]
    magnitudes = [p for n, p in layer.named_parameters() if n.endswith("weight.original0")]
    return sum(p.numel() for p in {*matrices, *magnitudes})


def answers(network: nn.Module) -> dict[str, Tensor]:
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return {name: layer.eval()(x) for name, layer in network.named_children()}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("make", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.filterwarnings("ignore:The step of:UserWarning")
def test_the_share_is_of_the_layers_that_answer_otherwise(build: Any, make: Any) -> None:
    network, attack = build().eval(), make()
    before = answers(network)
    said = attack.share_reached(network)
    batch = torch.randn(5, 8)
    with attack(network, batches=[batch], loss=lambda x: network(x).square().mean()) as points:
        for _ in points:
            pass
        under = answers(network)
    sizes = {name: weights(layer) for name, layer in network.named_children()}
    reached = sum(size for name, size in sizes.items() if not torch.equal(under[name], before[name]))
    if build is lora and attack.family in ("relearn", "noise", "sharpen") and getattr(attack, "mode", "") != "adapter":
        reached -= 3 * 8 * 12  # the experts' second matrix is in a layer that changes, and has no adapter of its own
    assert said == pytest.approx(reached / sum(sizes.values()))
    assert all(torch.equal(now, before[name]) for name, now in answers(network).items())


@pytest.mark.parametrize("make", [lambda: Interpolate(0.5), lambda: TruncateUpdate(1)], ids=["interpolate", "truncate"])
def test_of_attacks_back_to_the_original_it_is_of_what_training_changed(make: Any) -> None:
    network, attack = half_frozen(), make()
    attack.see_original(network)
    with torch.no_grad():
        for p in network.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p))
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    trained = [n for n, p in network.named_parameters() if p.requires_grad]
    said = attack.share_reached(network)
    with attack(network):
        moved = [n for n, p in network.named_parameters() if not torch.equal(p, before[n])]
    assert said == pytest.approx(sum(before[n].numel() for n in moved) / sum(before[n].numel() for n in trained))


def test_what_changes_activations_has_no_share() -> None:
    assert AblateDirection().share_reached(of_all_kinds()) is None
    assert LatentPerturbation("0").share_reached(of_all_kinds()) is None


def test_what_a_trained_copy_stands_in_for_is_not_counted() -> None:
    network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 32))
    adapted: Any = get_peft_model(network, LoraConfig(r=2, target_modules=["0"], modules_to_save=["1"]))
    for attack in (Relearn(), Relearn(mode="full"), Noise(), Quantize(), Prune()):
        assert attack.share_reached(adapted) == 1
    with adapted.disable_adapter():
        assert Relearn(mode="full").share_reached(adapted) == 0  # the copy is not used, and the adapter is off


class PackedAway(nn.Module):
    """As a linear layer of GPTQ or AWQ: eight weights in each integer of a buffer."""

    def __init__(self, names: tuple[str, str]) -> None:
        super().__init__()
        self.register_buffer("qweight", torch.zeros(4, 8, dtype=torch.int32))
        for name in names:
            setattr(self, name, 8 if name.startswith("out") else 32)


@pytest.mark.parametrize("names", [("in_features", "out_features"), ("infeatures", "outfeatures")])
def test_weights_that_are_packed_away_count_as_not_reached(names: tuple[str, str]) -> None:
    network = nn.Sequential(PackedAway(names), nn.Linear(8, 8))
    for attack in (Relearn(), Relearn(mode="full"), Noise(), Quantize(), Prune()):
        assert attack.share_reached(network) == 64 / (64 + 256)
