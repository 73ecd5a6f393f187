"""Which layers are found, and their matrix."""

from __future__ import annotations

import pytest
import torch
from _language_models import adapted, family
from torch import nn
from torch.testing import assert_close
from transformers.pytorch_utils import Conv1D

from lightning_unlearn.guards import input_layers


def names(module: nn.Module, layers: list[str] | None = None) -> list[str]:
    return [x.name for x in input_layers(module, [p for p in module.parameters() if p.requires_grad], layers)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
def test_the_matrix_does_to_augmented_inputs_what_the_layer_does(kind: type, bias: bool) -> None:
    layer = nn.Linear(5, 3, bias=bias) if kind is nn.Linear else Conv1D(3, 5)
    if not bias and kind is Conv1D:
        nn.init.zeros_(layer.bias.requires_grad_(False))  # `Conv1D` has one always; here it is not trained
    (found,) = input_layers(nn.Sequential(layer), [p for p in layer.parameters() if p.requires_grad])
    assert found.transposed == (kind is Conv1D)
    x = torch.randn(2, 4, 5)
    assert_close((found.augmented(x) @ found.matrix().T).float(), layer(x).detach().flatten(0, 1))
    before = [p.detach().clone() for p in found.parts]
    matrix = found.matrix()
    assert matrix.shape == (3, 5 + bias)
    assert matrix.dtype == torch.float64  # which no setting of the precision of products reaches
    found.write_(matrix + 1)
    assert all(torch.equal(p.detach(), b.double().add(1).float()) for p, b in zip(found.parts, before, strict=True))
    assert_close(found.matrix(before), matrix)


def test_what_is_not_trained_or_shared_is_left_out() -> None:
    network = nn.ModuleDict({name: nn.Linear(4, 4) for name in ("trained", "frozen", "tied", "twin")})
    network["frozen"].requires_grad_(False)
    network["twin"].weight = network["tied"].weight
    network["embedding"] = nn.Embedding(4, 4)
    network["conv"] = nn.Conv2d(1, 1, 2)
    assert names(network) == ["trained"]
    assert names(family("gpt2"), ["*c_fc", "*lm_head*", "transformer.h.0.*"][:1]) == [
        "transformer.h.0.mlp.c_fc",
        "transformer.h.1.mlp.c_fc",
    ]


def test_patterns_fit_whole_names_or_parts_of_them() -> None:
    network = family("llama")
    assert names(network, ["lm_head"]) == ["lm_head"]
    assert len(names(network, ["q_proj"])) == 2
    assert len(names(network, ["model.layers.0.*"])) == 7
    assert len(names(network, ["mlp", "lm_head"])) == 7
    with pytest.raises(ValueError, match="Found none for 'k'. There are `model.layers.0.self_attn.q_proj`"):
        names(network, ["q_proj", "k"])


def test_of_an_adapter_the_first_factor_is_found_with_the_layer_around_it() -> None:
    network = adapted(family("llama"))
    found = input_layers(network, [p for p in network.parameters() if p.requires_grad])
    assert len(found) == 4
    for layer in found:
        assert layer.name.endswith("_proj.lora_A.default")
        assert layer.module is network.get_submodule(layer.name.removesuffix(".lora_A.default"))
        assert layer.outer is layer.module.lora_B["default"].weight
        assert layer.bias is None


def test_only_the_active_adapter_is_found() -> None:
    network = adapted(family("llama"))
    network.add_adapter("other", network.peft_config["default"])
    assert {layer.rpartition(".")[2] for layer in names(network)} == {"default"}
    network.set_adapter("other")
    assert {layer.rpartition(".")[2] for layer in names(network)} == {"other"}


def test_weights_that_are_computed_are_not_taken_for_parameters() -> None:
    network = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), nn.Linear(3, 3))
    assert names(network) == ["1"]
