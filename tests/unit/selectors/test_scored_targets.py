"""A selector chooses which layers get an adapter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import nn

from lightning_unlearn.models import LoRA, TinyCausalLM
from lightning_unlearn.selectors import (
    AtLeast,
    ConditionNumber,
    GradientSaliency,
    LastLayers,
    Random,
    ScoredTargets,
    TopLayers,
    TopNumber,
    TopShare,
)


def network() -> nn.Module:
    return TinyCausalLM(hidden_size=16, num_hidden_layers=3)


def adapted_layers(targets: Any) -> set[str]:
    wrapped = LoRA(r=2, target_modules=targets).wrap(network())
    trained = [name for name, p in wrapped.named_parameters() if p.requires_grad]
    return {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in trained}


def test_the_layers_of_the_highest_scores_get_an_adapter_and_no_others() -> None:
    linear = {name: m for name, m in network().named_modules() if isinstance(m, nn.Linear) and name != "lm_head"}
    values = {name: torch.linalg.svdvals(m.weight.detach().double()) for name, m in linear.items()}
    ranked = sorted(linear, key=lambda name: float(values[name][0] / values[name][-1]))
    assert adapted_layers(ScoredTargets(ConditionNumber(), TopNumber(4))) == set(ranked[:4])
    assert adapted_layers(ScoredTargets(LastLayers(), AtLeast(-1))) == {n for n in linear if ".0." not in n}


def test_the_share_is_of_linear_layers_without_the_head() -> None:
    linear = [name for name, m in network().named_modules() if isinstance(m, nn.Linear) and name != "lm_head"]
    assert len(adapted_layers(ScoredTargets(Random(by="tensor"), TopShare(1 / 3)))) == len(linear) / 3
    assert adapted_layers(ScoredTargets(Random(by="tensor"), TopShare(1.0))) == set(linear)


def test_layers_are_named_in_full_also_where_one_name_is_the_end_of_another() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = nn.Linear(4, 4)
            self.inner = nn.ModuleDict({"q": nn.Linear(4, 4)})

        def forward(self, x: Any) -> Any:
            return self.inner["q"](self.q(x))

    net = Twice()
    names = ScoredTargets(LastLayers(), TopLayers(1)).names(net)
    assert names == ["inner.q"]
    first = ScoredTargets(LastLayers(), TopNumber(2)).names(net)
    assert sorted(first) == ["inner.q", "q"]


def test_it_can_be_written_in_yaml() -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(LoRA, "lora")
    selector = {"class_path": "lightning_unlearn.selectors.ConditionNumber", "init_args": {"choose": "highest"}}
    choice = {"class_path": "lightning_unlearn.selectors.TopNumber", "init_args": {"number": 2}}
    init_args = {"selector": selector, "choice": choice}
    targets = {"class_path": "lightning_unlearn.selectors.ScoredTargets", "init_args": init_args}
    built = parser.instantiate_classes(parser.parse_object({"lora": {"r": 2, "target_modules": targets}})).lora
    assert len([n for n, p in built.wrap(network()).named_parameters() if p.requires_grad]) == 4
    plain = parser.instantiate_classes(parser.parse_object({"lora": {"target_modules": ["q_proj"]}})).lora
    assert plain.target_modules == ["q_proj"]


def test_what_cannot_choose_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="should get a selector that needs no data.*Found `GradientSaliency`"):
        ScoredTargets(GradientSaliency(), TopNumber(2))
    with pytest.raises(
        ValueError, match="should get one score for each tensor. Found one for each element, of `Random`"
    ):
        ScoredTargets(Random(), TopNumber(2)).names(network())
    with pytest.raises(ValueError, match="should choose a linear layer for the adapter. Found none among 21"):
        ScoredTargets(LastLayers(), AtLeast(1.0)).names(network())
    with pytest.raises(TypeError, match="`choice` should be a `Choice`"):
        ScoredTargets(LastLayers(), 2)  # type: ignore[arg-type]
