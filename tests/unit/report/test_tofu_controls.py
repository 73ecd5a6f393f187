"""The controls of the study of TOFU: noise as long as what a method moved, and ascent without a budget."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from _shared_data import DATA
from robustness_parts._fit import forget_, teach
from robustness_parts._judges import known
from robustness_parts._method import methods
from robustness_parts._settings import SETTINGS
from robustness_parts._study import write
from tofu_parts._alone import cost_alone
from tofu_parts._chosen import FILE
from tofu_parts._controls import ASCENT, add_noise_, boundless
from tofu_parts._results import DESTROYED
from tofu_parts._settings import SETTINGS as TOFU
from torch import nn
from torch.testing import assert_close

BUNDLED = SETTINGS["bundled"]


def pair() -> tuple[nn.Module, nn.Module]:
    """A network, and one that a method has moved: its first weight far, its second a little, its biases not."""
    network, moved = (nn.Sequential(nn.Linear(60, 50), nn.Linear(50, 40)) for _ in range(2))
    moved.load_state_dict(network.state_dict())
    with torch.no_grad():
        moved[0].weight += 0.5 * torch.randn(50, 60)
        moved[1].weight += 0.01 * torch.randn(40, 50)
    return network, moved


def noisy(network: nn.Module, moved: nn.Module, seed: int = 0) -> tuple[dict[str, torch.Tensor], float]:
    """By which each tensor is moved, and the length that is said."""
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    length = add_noise_(network, moved, seed)
    changes = {name: (p - before[name]).detach() for name, p in network.named_parameters()}
    network.load_state_dict(before)
    return changes, length


def test_each_tensor_is_moved_as_far_as_the_method_moved_it_and_elsewhere() -> None:
    network, moved = pair()
    changes, length = noisy(network, moved)
    theirs = {name: (p - network.get_parameter(name)).detach() for name, p in moved.named_parameters()}
    for name, change in changes.items():
        assert change.norm().item() == pytest.approx(theirs[name].norm().item(), rel=1e-5, abs=0)
    for name in ("0.weight", "1.weight"):
        cosine = torch.cosine_similarity(changes[name].flatten(), theirs[name].flatten(), dim=0)
        assert abs(cosine.item()) < 4 / changes[name].numel() ** 0.5
    assert length == pytest.approx(torch.cat([t.flatten() for t in theirs.values()]).norm().item(), rel=1e-5)


def test_noise_is_that_of_its_seed_and_the_moved_network_stays() -> None:
    network, moved = pair()
    before = [p.detach().clone() for p in moved.parameters()]
    one, again, other = (noisy(network, moved, seed)[0]["0.weight"] for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert_close([p.detach() for p in moved.parameters()], before, rtol=0, atol=0)


def test_without_a_budget_all_else_is_the_same() -> None:
    found = boundless(BUNDLED)
    assert found.kl == math.inf
    assert replace(found, kl=BUNDLED.kl).numbers() == BUNDLED.numbers()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ascent_goes_past_the_budget_and_destroys_what_was_to_stay() -> None:
    setting = replace(BUNDLED, steps=24, every=4)
    network = teach(setting, "test", 0)["original"]
    before = known(network, setting, setting.world("test").retain)
    assert sum(before) / len(before) > 0.8
    start = {name: value.clone() for name, value in network.state_dict().items()}

    found = forget_(network, ASCENT, 3 * max(setting.rates), boundless(setting), "test", 0)
    assert found["steps"] == 24  # its last weights, not the last within a budget
    assert found["disruption"] > 2 * setting.kl
    assert max(found["forget"]) < 0.01
    assert sum(found["retain"]) < DESTROYED * sum(before)
    assert all(p.isfinite().all() for p in network.parameters())

    # With the budget the same ascent ends before that.
    network.load_state_dict(start)
    held = forget_(network, ASCENT, 3 * max(setting.rates), setting, "test", 0)
    assert held["steps"] < 24
    assert held["disruption"] <= setting.kl


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "tofu").is_dir(), reason="needs TOFU; set LIGHTNING_UNLEARN_DATA")
def test_a_method_costs_what_it_costs_in_a_process_that_did_nothing_else(tmp_path: Path) -> None:
    setting = TOFU["bundled"].on("cpu")
    write(setting.start(0), tmp_path / "original.safetensors")
    costs = {
        name: cost_alone(setting, methods(FILE)[name], 1e-4, tmp_path / "original.safetensors")
        for name in ("GradDiff", "NPO under Relearn")
    }
    plain, attacked = costs.values()
    assert 0 < plain["step_s"] < attacked["step_s"]
    ours = Path("/proc/self/status").read_text()
    assert 0.1 < plain["peak_gib"] < int(ours.split("VmPeak:")[1].split()[0]) / 2**20
